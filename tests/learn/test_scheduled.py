"""When zeros come: shares of a run become steps, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from onnxprune.errors import OptionError
from onnxprune.learn.methods.scheduled import Scored


@dataclass(frozen=True, kw_only=True)
class Method(Scored):
    """One that has nothing of its own."""

    name: ClassVar[str] = "some"


def test_shares_of_a_run_become_steps_and_the_last_change_leaves_one() -> None:
    # 0.25 of 40 steps is step 10; half of the cube is gone in the middle: 0.8 (1 - 0.5³) = 0.7 at step 20.
    schedule = Method(begin=0.25, end=0.75, every=1).schedule(0.8, 40)
    assert [schedule(step) for step in (0, 10, 20, 30, 39)] == pytest.approx([0, 0, 0.7, 0.8, 0.8])
    late = Method(begin=1, end=1).schedule(0.8, 40)
    assert (late.begin, late.end) == (39, 39)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"begin": 0.8, "end": 0.5},
            "some: begin and end must be shares with 0 <= begin <= end <= 1, got 0.8 and 0.5.",
        ),
        ({"every": 0}, "some: every must be at least 1 step, got 0."),
        ({"sparsity": 1.0}, "some: sparsity must be a share in [0, 1), got 1.0."),
        ({"score_rate": -1.0}, "some: score_rate must be at least 0, got -1.0."),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Method(**options)  # type: ignore[arg-type]
    assert str(caught.value) == message
