"""Numbers that change with the step: learning rates, shares of zeros, targets. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


def share_of_rate(step: int, steps: int, warmup: float) -> float:
    """What share of the learning rate step number `step` of `steps` takes: a linear rise, then half a cosine to 0."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def ramp(step: int, steps: int) -> float:
    """A linear rise from 0 to 1 over `steps` steps; 1 from the start where there are none."""
    return 1.0 if steps <= 0 else min(1.0, max(0.0, step / steps))


@dataclass(frozen=True, kw_only=True)
class Cubic:
    """A value that moves fast at first and slowly in the end: final + (first - final)·(1 - progress)³.

    Attributes:
        begin: last step at which it is `first`.
        end: first step at which it is `final`.
        every: steps between changes.

    Source: Zhu and Gupta 2017, To Prune, or Not to Prune, equation 1.
    """

    first: float = 0.0
    final: float
    begin: int
    end: int
    every: int = 1

    def __call__(self, step: int) -> float:
        """The value at a step; between changes that of the last one."""
        if step >= self.end or self.end <= self.begin:
            return self.final if step >= self.begin else self.first
        past = max(0, step - self.begin) // self.every * self.every
        left = 1 - past / (self.end - self.begin)
        return self.final + (self.first - self.final) * left**3

    def changes(self, step: int) -> bool:
        """Whether a step is one at which the value is set anew."""
        within = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        return within or step == max(self.begin, self.end)
