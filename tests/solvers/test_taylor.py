"""Scores by gradients, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.solvers.taylor import WeightGradient, block_taylor, unit_taylor

# Two units, a column each: w·g = [[1, -2], [-3, 4]]; F = 2 everywhere.
ONE = WeightGradient(
    np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, -1.0], [-1.0, 1.0]]), np.full((2, 2), 2.0)
)  # fmt: skip
UNITS = np.array([[0], [1]])


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        # |1| + |-3|, |-2| + |4|
        ("taylor", [4, 6]),
        # |1 - 3|, |-2 + 4|: signed sums first
        ("vector", [2, 2]),
        # 2·(1 + 9), 2·(4 + 16)
        ("taylor2", [20, 40]),
        # |1 - 1| + |-3 - 9|, |-2 - 4| + |4 - 16|
        ("taylor-mixed", [12, 18]),
    ],
)
def test_a_unit_sums_what_its_numbers_would_change(order: str, wanted: list[float]) -> None:
    assert unit_taylor([(ONE, 1, UNITS)], 2, order).tolist() == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("aggregate", "wanted"), [("sum", [7, 13]), ("prod", [12, 42]), ("max", [4, 7]), ("last", [3, 7])]
)
def test_weights_of_a_unit_are_aggregated(aggregate: str, wanted: list[float]) -> None:
    # Columns give 4 and 6, rows |1| + |-2| = 3 and |-3| + |4| = 7.
    parts = [(ONE, 1, UNITS), (ONE, 0, UNITS)]
    assert unit_taylor(parts, 2, "taylor", aggregate).tolist() == wanted  # type: ignore[arg-type]


def test_a_unit_may_span_several_entries() -> None:
    assert unit_taylor([(ONE, 1, np.array([[0, 1]]))], 1, "taylor").tolist() == [10]


def test_a_block_sums_all_its_numbers() -> None:
    assert block_taylor([ONE, ONE]) == 20
