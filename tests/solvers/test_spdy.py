"""The search for coefficients: what it beats, what it spends."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.solvers.knapsack import least_error
from onnxprune.solvers.spdy import Levels, search_coefficients

Array = np.ndarray[Any, Any]

# Four places of equal cost and equal table errors; one of them truly loses a hundred times what its table says.
ERRORS = [np.array([0.0, 0.1, 0.3])] * 4
COSTS = [np.array([2.0, 1.0, 0.0])] * 4
TRUE = np.array([100.0, 1.0, 1.0, 1.0])


def solve(coefficients: Array) -> Levels:
    found = least_error([c * error for c, error in zip(coefficients, ERRORS, strict=True)], COSTS, 4.0)
    assert found is not None
    return found


def judge(levels: Levels) -> float:
    return float(sum(t * error[level] for t, error, level in zip(TRUE, ERRORS, levels, strict=True)))


def test_it_beats_plain_programming_where_errors_mislead() -> None:
    # Plain: every place at level 1, 4 of budget: 100·0.1 + 3·0.1 = 10.3. Best: place 0 as it was (2), one more at
    # level 1 … (0, 1, 1, 2) costs 2 + 1 + 1 + 0 = 4 and loses 0.1 + 0.1 + 0.3 = 0.5.
    plain = judge(solve(np.ones(4)))
    found = search_coefficients(solve, judge, 4, draws=20, mutations=20, seed=0)
    assert np.isclose(plain, 10.3)
    assert np.isclose(found.loss, 0.5)
    assert found.levels[0] == 0


def test_it_never_loses_to_what_it_was_given() -> None:
    found = search_coefficients(solve, judge, 4, candidates=[(0, 1, 1, 2)], draws=0, mutations=0)
    assert found.levels == (0, 1, 1, 2)
    assert found.evaluations == 2
    assert found.losses == (judge(solve(np.ones(4))), found.loss)


def test_it_stops_when_the_budget_is_spent_but_judges_once() -> None:
    asked: list[Levels] = []

    def count(levels: Levels) -> float:
        asked.append(levels)
        return judge(levels)

    found = search_coefficients(solve, count, 4, spent=lambda: True)
    assert len(asked) == found.evaluations == 1


def test_the_same_levels_are_judged_once() -> None:
    asked: list[Levels] = []

    def count(levels: Levels) -> float:
        asked.append(levels)
        return judge(levels)

    search_coefficients(solve, count, 4, draws=30, mutations=30)
    assert len(asked) == len(set(asked))
