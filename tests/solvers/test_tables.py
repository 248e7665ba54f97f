"""Codes of a table lose what they say they lose, and none of their rank lose less."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.tables import allot_by_energy, allot_by_size, table_factors

SIZES = {"seed": st.integers(0, 2**32 - 1), "rows": st.integers(1, 30), "width": st.integers(1, 8)}


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_codes_lose_the_dropped_values_and_nothing_loses_less(seed: int, rows: int, width: int) -> None:
    """Σ weight · ‖δ‖²; the optimum by another road: the singular values of √weight · table."""
    rng = np.random.default_rng(seed)
    table, weights = rng.standard_normal((rows, width)), rng.random(rows)
    factors = table_factors(table, weights)
    singular = np.zeros(width)
    found = np.linalg.svd(np.sqrt(weights)[:, None] * table, compute_uv=False)
    singular[: len(found)] = found
    whole = float(np.square(singular).sum())
    for rank in range(width + 1):
        codes, projection = factors.at(table, rank)
        assert (codes.shape, projection.shape) == ((rows, rank), (rank, width))
        error = float(weights @ np.square(table - codes.astype(np.float64) @ projection).sum(axis=1))
        dropped = np.square(singular[rank:]).sum()
        assert error == pytest.approx(dropped, abs=1e-5 * whole)
        assert factors.values[rank:].sum() == pytest.approx(dropped, abs=1e-9 * whole)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(0, 60))
def test_no_ranks_of_equal_costs_keep_more(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    values = [np.sort(rng.random(4))[::-1] for _ in range(2)]
    found = allot_by_size(values, (5, 5), budget)
    every = [r for r in itertools.product(range(1, 5), repeat=2) if 5 * sum(r) <= max(budget, 10)]
    best = max(sum(float(v[:r].sum()) for v, r in zip(values, ranks, strict=True)) for ranks in every)
    assert sum(float(v[:r].sum()) for v, r in zip(values, found, strict=True)) == pytest.approx(best)


def test_a_table_whose_next_rank_is_too_dear_leaves_room_for_another() -> None:
    # 10 + 3 are granted; 10 more do not fit into 20, 3 and 3 do.
    assert allot_by_size([np.array([9.0, 8.0]), np.array([3.0, 0.2, 0.1])], (10, 3), 20) == (1, 3)


def test_an_energy_is_reached_with_the_ranks_that_keep_most_a_number() -> None:
    values = [np.array([6.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0])]
    # 7 of 10 are granted; the first table's second rank makes 9.
    assert allot_by_energy(values, (1, 1), 0.9) == (2, 1)
    assert allot_by_energy(values, (1, 1), 0.7) == (1, 1)
    assert allot_by_energy(values, (1, 1), 1.0) == (3, 1)
