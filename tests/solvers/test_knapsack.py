"""The knapsack equals exhaustive search, up to what rounding costs to buckets allows."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.knapsack import least_error

NUMBERS = st.integers(0, 20)
PLACES = st.lists(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4), min_size=1, max_size=4
)  # (error, cost) of each level of each place


def totals(levels: tuple[int, ...], places: list[list[tuple[int, int]]]) -> tuple[int, int]:
    picked = [place[level] for level, place in zip(levels, places, strict=True)]
    return sum(error for error, _ in picked), sum(cost for _, cost in picked)


@settings(max_examples=150, deadline=None)
@given(PLACES, st.integers(0, 60))
def test_levels_are_those_of_exhaustive_search(places: list[list[tuple[int, int]]], budget: int) -> None:
    """Whole costs and a bucket for each unit of the spare budget: nothing is rounded."""
    spare = budget - sum(min(cost for _, cost in place) for place in places)
    found = least_error(
        [np.array([error for error, _ in place]) for place in places],
        [np.array([cost for _, cost in place]) for place in places],
        budget,
        buckets=max(spare, 1),
    )
    allowed = [
        totals(levels, places)
        for levels in itertools.product(*(range(len(place)) for place in places))
        if totals(levels, places)[1] <= budget
    ]
    if not allowed:
        assert found is None
        return
    assert found is not None
    error, cost = totals(found, places)
    assert cost <= budget
    assert error == min(error for error, _ in allowed)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_costs_are_rounded_so_that_the_budget_is_kept(seed: int) -> None:
    random = np.random.default_rng(seed)
    errors, costs = [random.random(5) for _ in range(6)], [random.random(5) for _ in range(6)]
    budget = float(sum(costs[at].min() for at in range(6)) + random.random() * 3)
    found = least_error(errors, costs, budget, buckets=100)
    assert found is not None
    assert sum(cost[level] for cost, level in zip(costs, found, strict=True)) <= budget + 1e-9


def test_a_budget_below_the_cheapest_levels_has_no_solution() -> None:
    assert least_error([np.array([0.0, 1.0])], [np.array([2.0, 1.0])], 0.5) is None


def test_more_budget_never_costs_more_error() -> None:
    random = np.random.default_rng(1)
    errors, costs = [random.random(6) for _ in range(5)], [random.random(6) for _ in range(5)]
    totals = []
    for budget in np.linspace(sum(cost.min() for cost in costs), 5, 12):
        levels = least_error(errors, costs, float(budget))
        assert levels is not None
        totals.append(sum(error[level] for error, level in zip(errors, levels, strict=True)))
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(totals))
    assert totals[-1] == sum(error.min() for error in errors)
