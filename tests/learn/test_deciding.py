"""When gates are decided, and how many units stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.errors import OptionError
from onnxprune.learn.deciding import KEEP, count_of
from onnxprune.learn.methods.flop import Flop


@pytest.mark.parametrize(
    ("decide", "steps", "step"),
    # 0.6 of 400 steps; of one step the only one; a share that rounds up to the end leaves a step to train in.
    [(0.6, 400, 240), (0.6, 1, 0), (0.999, 100, 99), (0.001, 100, 0)],
)
def test_gates_are_decided_at_a_share_of_the_steps(decide: float, steps: int, step: int) -> None:
    assert Flop(decide=decide).decision(steps) == step


@given(decide=st.floats(0.001, 0.999), steps=st.integers(1, 10_000))
def test_at_least_the_last_step_trains_weights_alone(decide: float, steps: int) -> None:
    assert 0 <= Flop(decide=decide).decision(steps) <= steps - 1


@pytest.mark.parametrize(
    ("keep", "whole", "count"),
    # A share of 24 heads; a count; the smallest share keeps one; nothing asked; all.
    [(0.25, 24, 6), (7, 24, 7), (0.001, 24, 1), (0, 24, 0), (0.0, 24, 0), (24, 24, 24)],
)
def test_a_share_or_a_count_of_units(keep: float, whole: int, count: int) -> None:
    assert KEEP.holds(keep)
    assert count_of("head-gates", keep, whole) == count


def test_more_units_than_there_are_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^head-gates: keep must be at most the model's 24 heads, got 25\.$"):
        count_of("head-gates", 25, 24)


@given(keep=st.floats(0.001, 0.999), whole=st.integers(1, 1000))
def test_a_share_keeps_one_at_least_and_never_more_than_there_are(keep: float, whole: int) -> None:
    assert 1 <= count_of("head-gates", keep, whole) <= whole
