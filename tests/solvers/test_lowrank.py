"""Low-rank factors lose what they say they lose, and none of their kind loses less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import Declined
from onnxprune.solvers.lowrank import (
    Factors,
    asvd_factors,
    break_even_rank,
    fisher_factors,
    rank_for_ratio,
    shared_factors,
    sharing_pays,
    svd_factors,
    whitened_factors,
)
from onnxprune.solvers.reconstruction import bias_gain
from tests.solvers.drawing import Array, correlated

SIZES = {"seed": st.integers(0, 2**32 - 1), "k": st.integers(1, 12), "n": st.integers(1, 12)}


def missed(inputs: Array, weight: Array, factors: Factors, rank: int) -> float:
    """‖X·W - X·left·right‖²."""
    left, right = factors.at(rank)
    return float(np.square(inputs @ (weight - left @ right)).sum())


@settings(max_examples=40, deadline=None)
@given(**SIZES, rows=st.sampled_from([5, 200]), biased=st.booleans())
def test_whitened_factors_lose_exactly_the_dropped_singular_values(
    seed: int, k: int, n: int, rows: int, biased: bool
) -> None:
    """On the very samples, at every rank, with fewer samples than inputs, and with means left to the bias."""
    rng = np.random.default_rng(seed)
    inputs = correlated(rng, rows, k, offset=3.0)
    weight = rng.standard_normal((k, n))
    mean = inputs.mean(axis=0) if biased else None
    factors = whitened_factors(weight, inputs.T @ inputs / rows, mean=mean)
    seen = inputs - inputs.mean(axis=0) if biased else inputs
    whole = np.square(seen @ weight).sum()
    for rank in range(len(factors.values) + 1):
        dropped = np.square(factors.values[rank:]).sum() * rows
        assert missed(seen, weight, factors, rank) == pytest.approx(dropped, rel=1e-6, abs=1e-10 * whole)
        assert factors.lost(rank) == pytest.approx(dropped / whole, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_no_factors_of_the_same_rank_lose_less_than_whitened_ones(seed: int, k: int, n: int) -> None:
    """The optimum by another road: project the outputs X·W on their own leading singular vectors."""
    rng = np.random.default_rng(seed)
    inputs, weight = correlated(rng, 100, k), rng.standard_normal((k, n))
    gram = inputs.T @ inputs
    outputs = np.linalg.svd(inputs @ weight, compute_uv=False)
    others = (svd_factors(weight), asvd_factors(weight, np.abs(inputs).mean(axis=0)))
    whitened = whitened_factors(weight, gram)
    for rank in range(min(k, n) + 1):
        best = np.square(outputs[rank:]).sum()
        assert missed(inputs, weight, whitened, rank) == pytest.approx(best, rel=1e-6, abs=1e-9 * outputs[0] ** 2)
        assert all(missed(inputs, weight, other, rank) >= best - 1e-9 * outputs[0] ** 2 for other in others)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_plain_factors_are_the_truncated_decomposition(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((k, n))
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    factors = svd_factors(weight)
    for rank in range(min(k, n) + 1):
        left, right = factors.at(rank)
        np.testing.assert_allclose(left @ right, u[:, :rank] * s[:rank] @ vt[:rank], atol=1e-10)
        np.testing.assert_allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1), rtol=1e-9)


def test_weights_on_rows_are_undone_after_the_decomposition() -> None:
    """D⁻¹·svd_r(D·W), as the papers print it."""
    rng = np.random.default_rng(0)
    weight, mean_abs, fisher = rng.standard_normal((6, 4)), rng.uniform(0.1, 5, 6), rng.uniform(0.1, 5, (6, 4))
    for scale, factors in (
        (mean_abs**0.7, asvd_factors(weight, mean_abs, alpha=0.7)),
        (np.sqrt(fisher.sum(axis=1)), fisher_factors(weight, fisher)),
    ):
        u, s, vt = np.linalg.svd(scale[:, None] * weight, full_matrices=False)
        left, right = factors.at(2)
        np.testing.assert_allclose(left @ right, (u[:, :2] * s[:2] @ vt[:2]) / scale[:, None], atol=1e-10)
        left, right = factors.at(4)
        np.testing.assert_allclose(left @ right, weight, atol=1e-10)


def test_inputs_that_are_never_on_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    inputs, weight = correlated(rng, 100, 6), rng.standard_normal((6, 5))
    inputs[:, 2] = 0
    for factors in (
        whitened_factors(weight, inputs.T @ inputs),
        asvd_factors(weight, np.abs(inputs).mean(axis=0)),
        asvd_factors(weight, np.zeros(6)),
        whitened_factors(weight, np.zeros((6, 6))),
    ):
        assert np.isfinite(factors.left).all()
        assert missed(inputs, weight, factors, 5) < 1e-9


def test_at_rank_zero_the_bias_holds_the_mean_output() -> None:
    rng = np.random.default_rng(0)
    inputs, weight = correlated(rng, 100, 6, offset=2.0), rng.standard_normal((6, 5))
    mean = inputs.mean(axis=0)
    factors = whitened_factors(weight, inputs.T @ inputs / 100, mean=mean)
    left, right = factors.at(0)
    np.testing.assert_allclose(bias_gain(weight, left @ right, mean), mean @ weight, atol=1e-12)
    left, right = factors.at(2)
    outputs = inputs @ left @ right + bias_gain(weight, left @ right, mean)
    np.testing.assert_allclose(outputs.mean(axis=0), (inputs @ weight).mean(axis=0), atol=1e-10)


def test_one_left_factor_serves_weights_with_the_same_input() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 100, 8)
    weights = [rng.standard_normal((8, n)) for n in (8, 4, 4)]
    shared = shared_factors(weights, inputs.T @ inputs)
    left, right = shared.at(8)
    for weight, part in zip(weights, np.split(right, [8, 12], axis=1), strict=True):
        np.testing.assert_allclose(left @ part, weight, atol=1e-9)


def test_sharing_pays_where_weights_span_the_same_directions() -> None:
    """Three weights that read the same two directions pay for one left factor; three that read their own do not."""
    rng = np.random.default_rng(0)
    gram = np.eye(24)
    basis = rng.standard_normal((24, 2))
    alike = [basis @ rng.standard_normal((2, 24)) + 0.01 * rng.standard_normal((24, 24)) for _ in range(3)]
    frame = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    unlike = [frame[:, 8 * at : 8 * at + 8] @ rng.standard_normal((8, 24)) for at in range(3)]
    # At a ratio of 2/3: ranks of 8 apart (⌊2/3·24·24/48⌋), 12 together (⌊2/3·24·72/96⌋) of the 24 directions there are.
    for weights, pays in ((alike, True), (unlike, False)):
        apart = [whitened_factors(weight, gram) for weight in weights]
        assert sharing_pays(apart, shared_factors(weights, gram), 2 / 3) is pays


def test_ranks_for_a_share_of_numbers_and_of_energy() -> None:
    # 64·96 / 160 = 38.4: rank 38 holds 38·160 = 6080 of 6144 numbers, and half the numbers allow 19.2.
    assert break_even_rank(64, 96) == 38
    assert rank_for_ratio(1.0, 64, 96) == 38
    assert rank_for_ratio(0.5, 64, 96) == 19
    # 64·64 / 128 = 32 holds as many numbers as before, which is no gain.
    assert break_even_rank(64, 64) == 31
    assert rank_for_ratio(1.0, 64, 64) == 32
    # 0.29 · 100 is 28.999… in floating point.
    assert rank_for_ratio(0.29, 200, 200) == 29
    # Squares 16, 4, 4, 1 of 25: 64 %, 80 %, 96 %, 100 %.
    factors = svd_factors(np.diag([4.0, 2.0, 2.0, 1.0]))
    assert [factors.rank_for_energy(share) for share in (0, 0.6, 0.64, 0.65, 0.97, 1)] == [0, 1, 1, 2, 4, 4]
    assert svd_factors(np.zeros((3, 2))).rank_for_energy(1) == 0


def test_what_is_not_finite_is_declined() -> None:
    with pytest.raises(Declined, match=r"^its weights or inputs are not finite$"):
        svd_factors(np.array([[np.inf]]))
    with pytest.raises(Declined, match=r"^its weights or inputs are not finite$"):
        whitened_factors(np.eye(2), np.full((2, 2), np.nan))
