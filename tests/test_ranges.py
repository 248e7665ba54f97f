"""What options may hold, declared beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import OptionError
from onnxprune.learn.method import Training
from onnxprune.learn.methods import METHODS
from onnxprune.passes import OWN, Recover
from onnxprune.ranges import Range, above, at_least, check_ranges, share_or_count, within

Kind = Literal["round", "joint"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One option of each form."""

    steps: Annotated[int, at_least(1, "step")] = 1
    rate: Annotated[float | None, above(0)] = None
    share: Annotated[float, within("[0, 1)", "a share")] = 0.0
    keep: Annotated[int | float, share_or_count("(0, 1]", 1)] = 1.0
    even: Annotated[int, Range("even", lambda value: value % 2 == 0)] = 0
    kind: Literal["auto"] | Kind = "auto"
    bits: Literal[8, 4] | None = None
    table: Literal[8, 4] | bool = True
    free: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, "sample")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"steps": 0}, "sample: steps must be at least 1 step, got 0."),
        ({"steps": math.inf}, "sample: steps must be at least 1 step, got inf."),
        ({"rate": 0.0}, "sample: rate must be above 0, got 0.0."),
        ({"rate": math.nan}, "sample: rate must be above 0, got nan."),
        ({"share": 1.0}, "sample: share must be a share in [0, 1), got 1.0."),
        ({"share": -0.5}, "sample: share must be a share in [0, 1), got -0.5."),
        ({"keep": 0}, "sample: keep must be a share in (0, 1] or a count from 1, got 0."),
        ({"keep": 0.0}, "sample: keep must be a share in (0, 1] or a count from 1, got 0.0."),
        ({"keep": 1.5}, "sample: keep must be a share in (0, 1] or a count from 1, got 1.5."),
        ({"even": 3}, "sample: even must be even, got 3."),
        ({"kind": "best"}, "sample: kind must be one of auto, round, joint, got 'best'."),
        ({"bits": 3}, "sample: bits must be one of 8, 4, got 3."),
    ],
)
def test_a_value_out_of_its_range_is_told_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError) as told:
        Sample(**options)
    assert str(told.value) == line


@pytest.mark.parametrize(
    "options",
    [{}, {"steps": 9}, {"rate": 1e-9}, {"share": 0.999}, {"keep": 1}, {"keep": 7}, {"keep": 0.01}, {"kind": "joint"},
     {"bits": 4}, {"table": 3}, {"free": "anything"}],
)  # fmt: skip
def test_values_inside_and_what_nothing_is_said_of_are_taken(options: dict[str, Any]) -> None:
    held = Sample(**options)
    assert all(getattr(held, name) == value for name, value in options.items())


@settings(deadline=None)
@given(
    low=st.integers(-5, 5),
    length=st.integers(0, 5),
    left=st.sampled_from("[("),
    right=st.sampled_from("])"),
    value=st.integers(-6, 11).map(float) | st.floats(),
)
def test_an_interval_holds_what_its_brackets_say(low: int, length: int, left: str, right: str, value: float) -> None:
    high = low + length
    holds = within(f"{left}{low}, {high}{right}").holds
    above_low = low < value or (value == low and left == "[")
    below_high = value < high or (value == high and right == "]")
    assert holds(value) == (above_low and below_high)


def test_an_interval_that_reads_otherwise_is_our_own_mistake() -> None:
    with pytest.raises(TypeError, match=r"^an interval reads \[0, 1\), got '0 to 1'$"):
        within("0 to 1")


def test_training_may_hold_weights_still_and_recovery_may_not() -> None:
    assert Training(lr=0).lr == 0
    with pytest.raises(OptionError, match=r"^recover: lr must be above 0, got 0\.$"):
        Recover(lr=0)


@pytest.mark.parametrize("kind", [Training, *OWN, *METHODS.values()], ids=lambda kind: kind.__name__)
def test_no_number_among_options_takes_what_is_none(kind: type[Any]) -> None:
    """Python callers reach past the spec's types: NaN is refused wherever a float is an option."""
    for field in fields(kind):
        if isinstance(field.default, float):
            with pytest.raises(OptionError):
                kind(**{field.name: math.nan})
