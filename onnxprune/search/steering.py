"""Which limit the tables must be given, so that what is measured comes out as asked: a bracket, narrowed by results."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A limit inside a bracket keeps this share of it away from both ends, so that the bracket shrinks.
_KEPT_AWAY = 0.1


@dataclass(eq=False)
class Steering:
    """One quantity, milliseconds or bytes, of which less is better.

    Attributes:
        wanted: what is to be measured, at most.
        least: by the tables, below which no levels lie.
        close: how far below `wanted`, as a ratio, is near enough.
        limit: what the tables are given.
    """

    wanted: float
    least: float
    close: float
    limit: float = math.nan
    _kept: tuple[float, float] | None = None
    _broken: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Begin where the tables say so, or with the least that they know."""
        self.limit = max(self.wanted, self.least)

    @property
    def asked(self) -> bool:
        """Whether there is a limit at all."""
        return math.isfinite(self.wanted)

    def misses(self, measured: float) -> bool:
        """Whether it is more than wanted."""
        return measured > self.wanted

    def generous(self, measured: float) -> bool:
        """Whether much less is used than may be."""
        return self.asked and measured * self.close < self.wanted

    def told(self, measured: float) -> bool:
        """Move the limit by what was measured at it; False where there is no other limit to try."""
        if self.misses(measured):
            if self.limit <= self.least:
                return False
            self._broken = (self.limit, measured)
        else:
            self._kept = (self.limit, measured)
        # Aiming into the middle of what is near enough forgives the clock the most.
        aim = self.wanted / math.sqrt(self.close)
        if self._kept is None or self._broken is None:
            moved = self.limit * aim / measured
        else:
            low, high = self._kept, self._broken
            rise = high[1] - low[1]
            share = (aim - low[1]) / rise if rise > 0 else 0.5
            share = min(max(share, _KEPT_AWAY), 1 - _KEPT_AWAY)
            moved = low[0] + share * (high[0] - low[0])
        before, self.limit = self.limit, max(moved, self.least)
        return not math.isclose(before, self.limit, rel_tol=1e-4)
