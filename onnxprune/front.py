"""Which of several results nobody would choose: another is at least as fast, as small and as faithful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.figures import finite
from onnxprune.targets.timing import Timed


@dataclass(frozen=True, kw_only=True)
class Point:
    """A result as three figures, and how it was made.

    Attributes:
        asked: of the trial, by the names of the options.
        plan: its file; None where it was not kept.
        timed: against the original.
        low: lower end of the fidelity's 95 % interval, as `high` is the upper.
        predicted: speed-up by the search's latency table; None where nothing was searched.
    """

    name: str
    asked: Mapping[str, Any]
    plan: str | None
    timed: Timed
    size_bytes: int
    fidelity: float
    low: float
    high: float
    samples: int
    predicted: float | None = None

    @property
    def speedup(self) -> float:
        """Times as fast as the original."""
        return self.timed.speedup.ratio

    def covers(self, other: Point) -> bool:
        """Whether this one is nowhere worse than another, and somewhere better."""
        mine = (self.speedup, -self.size_bytes, self.fidelity)
        theirs = (other.speedup, -other.size_bytes, other.fidelity)
        return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "name": self.name,
            "asked": dict(self.asked),
            "plan": self.plan,
            "speedup": self.timed.speedup.to_json(),
            "latency_ms": self.timed.latency_ms.to_json(),
            "size_bytes": self.size_bytes,
            "fidelity": {
                "score": finite(self.fidelity),
                "low": finite(self.low),
                "high": finite(self.high),
                "samples": self.samples,
            },
            "predicted": self.predicted,
        }


def split(points: Sequence[Point]) -> tuple[tuple[Point, ...], tuple[tuple[Point, str], ...]]:
    """The front, the slowest first; and the points that are not on it, each with the name of one that covers it."""
    front: list[Point] = []
    covered: list[tuple[Point, str]] = []
    for at, point in enumerate(points):
        # Of points that are alike in all three figures the first stays.
        others = [other for other in points if other.covers(point)]
        twins = [other for other in points[:at] if _figures(other) == _figures(point)]
        better = max(others, key=lambda other: other.fidelity) if others else next(iter(twins), None)
        if better is None:
            front.append(point)
        else:
            covered.append((point, better.name))
    return tuple(sorted(front, key=lambda point: point.speedup)), tuple(covered)


def _figures(point: Point) -> tuple[float, int, float]:
    return (point.speedup, point.size_bytes, point.fidelity)
