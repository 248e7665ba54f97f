"""When gates are decided, and how many units they leave: options that methods with gates share. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from onnxprune.errors import OptionError
from onnxprune.ranges import Range, above, check_ranges, share_or_count, within

KEEP = Range("a share in [0, 1) or a count", share_or_count("[0, 1)", 0).holds)


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """How gates are learned, and until when.

    Attributes:
        gate_lr: learning rate of the gates, and of the price where it has to find itself.
        decide: share of the steps after which gates are fixed; the rest trains the weights alone.
    """

    name: ClassVar[str]
    gate_lr: Annotated[float, above(0)] = 0.05
    decide: Annotated[float, within("(0, 1)", "a share")] = 0.6

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_ranges(self, self.name)

    def decision(self, steps: int) -> int:
        """The step at which gates are decided: the last at the latest."""
        return min(round(self.decide * steps), steps - 1)


def count_of(name: str, keep: float, whole: int) -> int:
    """How many of all units are to stay; 0 where nothing was asked.

    Raises:
        OptionError: more than there are.
    """
    if not keep:
        return 0
    count = keep if isinstance(keep, int) else max(1, round(keep * whole))
    if count > whole:
        raise OptionError(f"{name}: keep must be at most the model's {whole} heads, got {keep}.")
    return count
