"""Options of methods whose share of zeros grows along a cubic schedule. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from onnxprune.errors import OptionError
from onnxprune.learn.schedules import Cubic
from onnxprune.ranges import at_least, check_ranges, within


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """When zeros come, and where.

    Attributes:
        begin: share of the steps before the first zero.
        end: share of the steps after which the share of zeros stays.
        every: steps between masks.
        head: prune products that stand straight before an output, too.
    """

    name: ClassVar[str]
    begin: float = 0.1
    end: float = 0.7
    every: Annotated[int, at_least(1, "step")] = 10
    head: bool = False

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_ranges(self, self.name)
        if not 0 <= self.begin <= self.end <= 1:
            raise OptionError(
                f"{self.name}: begin and end must be shares with 0 <= begin <= end <= 1, got {self.begin} and "
                f"{self.end}."
            )

    def schedule(self, final: float, steps: int) -> Cubic:
        """From no zeros to a share of `final` in a run of so many steps; the last change leaves at least one step."""
        first, last = (min(round(share * steps), steps - 1) for share in (self.begin, self.end))
        return Cubic(final=final, begin=first, end=last, every=self.every)


@dataclass(frozen=True, kw_only=True)
class Scored(Scheduled):
    """Zeros by scores, one a weight.

    Attributes:
        sparsity: share of each matrix that is zero in the end, in [0, 1).
        score_rate: highest learning rate of the scores.
    """

    sparsity: Annotated[float, within("[0, 1)", "a share")] = 0.8
    score_rate: Annotated[float, at_least(0)] = 1e-2
