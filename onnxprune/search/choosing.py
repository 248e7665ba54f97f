"""Levels that keep within limits: the least error by the tables, or the same share everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.search.grid import Grid
from onnxprune.search.levels import AS_IS, Choice, Level
from onnxprune.search.places import Place
from onnxprune.search.tables import ErrorTable, LatencyTable
from onnxprune.solvers.knapsack import least_error

Array = np.ndarray[Any, Any]
Levels = tuple[int, ...]

# Of two choices that lose as much, the smaller file is better: all of its bytes count as this much loss.
_BYTES_LOSS = 1e-3
_SHARES = tuple(0.95**at for at in range(60))
_HALVINGS = 24


@dataclass(frozen=True)
class Limits:
    """Milliseconds of a run and bytes of the file, at most."""

    ms: float = math.inf
    size: float = math.inf


@dataclass(frozen=True, eq=False)
class Chooser:
    """Chooses among the levels that both tables know.

    Attributes:
        places: in order; a choice in numbers follows it.
        levels: of each place.
    """

    places: tuple[Place, ...]
    levels: tuple[tuple[Level, ...], ...]
    latency: LatencyTable
    errors: ErrorTable

    @classmethod
    def of(cls, places: Sequence[Place], grid: Grid, latency: LatencyTable, errors: ErrorTable) -> Chooser:
        """A chooser over the levels of a grid."""
        levels = tuple(
            tuple(
                level
                for level in grid[place.id]
                if level in latency.places[place.id] and level in errors.places[place.id]
            )
            for place in places
        )
        return cls(tuple(places), levels, latency, errors)

    def choice(self, numbers: Levels) -> dict[str, Level]:
        """Levels by place, those that change nothing left out."""
        picked = {
            place.id: levels[at] for place, levels, at in zip(self.places, self.levels, numbers, strict=True)
        }  # fmt: skip
        return {name: level for name, level in picked.items() if level != AS_IS}

    def numbers(self, choice: Choice) -> Levels:
        """The inverse of `choice`."""
        return tuple(
            levels.index(choice.get(place.id, AS_IS)) for place, levels in zip(self.places, self.levels, strict=True)
        )

    def cheapest(self, limits: Limits) -> Levels:
        """The fastest levels where time is limited, else the smallest."""
        rows = self._ms() if math.isfinite(limits.ms) else self._sizes()
        # Among equals the one that loses least.
        keys = zip(rows, self._errors(), strict=True)
        return tuple(int(np.lexsort((error, cost))[0]) for cost, error in keys)

    def solve(self, coefficients: Array, limits: Limits) -> Levels | None:
        """Levels of least error within the limits, each place's error times its coefficient; None where none fit.

        Args:
            coefficients: [places].
            limits: both are kept; a size beside a time by a price on bytes, found by bisection.
        """
        errors = [c * error for c, error in zip(coefficients, self._errors(), strict=True)]
        sizes = self._sizes()
        total = max(self.errors.size({}), 1.0)
        if not math.isfinite(limits.ms):
            spare = limits.size - self.errors.rest_bytes if math.isfinite(limits.size) else math.inf
            return _within(errors, sizes, spare)
        spare_ms = limits.ms - self.latency.rest_ms

        def at_price(price: float) -> Levels | None:
            priced = [error + price * size / total for error, size in zip(errors, sizes, strict=True)]
            return _within(priced, self._ms(), spare_ms)

        found = at_price(0.0)
        if found is None or self.errors.size(self.choice(found)) <= limits.size:
            return found
        low, high, best = 0.0, 1e6, None
        for _ in range(_HALVINGS):
            middle = math.sqrt(max(low, 1e-6) * high)
            found = at_price(middle)
            if found is not None and self.errors.size(self.choice(found)) <= limits.size:
                high, best = middle, found
            else:
                low = middle
        return best

    def uniform(self, limits: Limits) -> Iterator[Levels]:
        """The largest share of units that every place can keep within the limits, in each form of weights."""
        for bits in (None, 8):
            for share in _SHARES:
                numbers = tuple(_nearest(levels, share, bits) for levels in self.levels)
                choice = self.choice(numbers)
                if self.latency.ms(choice) <= limits.ms and self.errors.size(choice) <= limits.size:
                    yield numbers
                    break

    def _errors(self) -> list[Array]:
        total = max(self.errors.size({}), 1.0)
        return [
            np.array(
                [
                    self.errors.weights.get(place.id, 1.0) * self.errors.places[place.id][level]
                    + _BYTES_LOSS * self.errors.sizes[place.id][level] / total
                    for level in levels
                ]
            )
            for place, levels in zip(self.places, self.levels, strict=True)
        ]

    def _ms(self) -> list[Array]:
        return [
            np.array([self.latency.places[place.id][level] for level in levels])
            for place, levels in zip(self.places, self.levels, strict=True)
        ]

    def _sizes(self) -> list[Array]:
        return [
            np.array([self.errors.sizes[place.id][level] for level in levels])
            for place, levels in zip(self.places, self.levels, strict=True)
        ]


def _within(errors: Sequence[Array], costs: Sequence[Array], budget: float) -> Levels | None:
    if budget == math.inf:
        return tuple(int(np.argmin(error)) for error in errors)
    return least_error(errors, costs, budget)


def _nearest(levels: Sequence[Level], share: float, bits: int | None) -> int:
    """The level of a form whose count is nearest to a share of the units; the first where there is no such form."""
    counts = [level.units for level in levels if level.units]
    # The count just below all units is not the whole; what is as it was has no count.
    whole = max(counts, default=1) / 0.9
    fair = [at for at, level in enumerate(levels) if level.bits == bits and level.units != 0]
    if not fair:
        return 0
    return min(fair, key=lambda at: abs((levels[at].units or whole) - share * whole))
