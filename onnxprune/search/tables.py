"""What levels cost and what they lose, as tables that survive a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.errors import PlanError
from onnxprune.search.levels import AS_IS, Choice, Level

Rows = Mapping[str, Mapping[Level, float]]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Milliseconds of each place at each level, on one target and one input.

    Attributes:
        target: as the user names it.
        original_ms: of the model as it was given.
        rest_ms: what a run takes besides the places.
        places: milliseconds by place and level, each monotone in the units that stay.
        check: how far the sum was from whole models that were timed: predicted over measured, by what was timed.
    """

    target: str
    original_ms: float
    rest_ms: float
    places: Rows
    check: Mapping[str, float] = field(default_factory=dict)

    def ms(self, choice: Choice) -> float:
        """Milliseconds of a run; places that the choice leaves out are as they were."""
        return self.rest_ms + sum(row[choice.get(name, AS_IS)] for name, row in self.places.items())

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        return {
            "target": self.target,
            "original_ms": self.original_ms,
            "rest_ms": self.rest_ms,
            "places": _rows_to_json(self.places),
            "check": dict(self.check),
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> LatencyTable:
        """The table that `to_json` wrote.

        Raises:
            PlanError: it is damaged.
        """
        try:
            return cls(
                target=str(held["target"]),
                original_ms=_finite(held["original_ms"]),
                rest_ms=_finite(held["rest_ms"]),
                places=_rows_from_json(held["places"]),
                check={str(name): _finite(value) for name, value in held["check"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"The latency table is damaged ({error!r}). Clear the cache.") from error


@dataclass(frozen=True, kw_only=True)
class ErrorTable:
    """What each place loses at each level, and how large the file is then.

    Attributes:
        places: the share of the place's output that is lost, in [0, 1], by place and level; 0 as it was.
        weights: how much a place's share counts for the loss of the whole model; 1 where nothing is known.
        sizes: bytes of each place's numbers at each level.
        rest_bytes: of everything else in the file.
    """

    places: Rows
    weights: Mapping[str, float] = field(default_factory=dict)
    sizes: Rows = field(default_factory=dict)
    rest_bytes: int = 0

    def error(self, choice: Choice) -> float:
        """The weighted sum over places."""
        return sum(self.weights.get(name, 1.0) * row[choice.get(name, AS_IS)] for name, row in self.places.items())

    def size(self, choice: Choice) -> float:
        """Bytes of the file."""
        return self.rest_bytes + sum(row[choice.get(name, AS_IS)] for name, row in self.sizes.items())

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        return {
            "places": _rows_to_json(self.places),
            "weights": dict(self.weights),
            "sizes": _rows_to_json(self.sizes),
            "rest_bytes": self.rest_bytes,
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> ErrorTable:
        """The table that `to_json` wrote.

        Raises:
            PlanError: it is damaged.
        """
        try:
            return cls(
                places=_rows_from_json(held["places"]),
                weights={str(name): _finite(value) for name, value in held["weights"].items()},
                sizes=_rows_from_json(held["sizes"]),
                rest_bytes=int(held["rest_bytes"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"The error table is damaged ({error!r}). Clear the cache.") from error


def monotone(row: Mapping[Level, float]) -> dict[Level, float]:
    """Milliseconds such that fewer units never take longer than more, all else equal.

    A level that was measured slower than one with more units counts as fast as that one: nobody would choose it, and
    where it was noise nothing is lost.
    """
    fastest: dict[Level, float] = {}
    found: dict[Level, float] = {}
    for level in sorted(row, key=_most_units_first):
        family = Level(rank=level.rank, bits=level.bits, sparsity=level.sparsity)
        fastest[family] = min(row[level], fastest.get(family, math.inf))
        found[level] = fastest[family]
    return {level: found[level] for level in row}


def _most_units_first(level: Level) -> float:
    return -math.inf if level.units is None else -level.units


def _rows_to_json(rows: Rows) -> dict[str, dict[str, float]]:
    return {name: {str(level): value for level, value in row.items()} for name, row in rows.items()}


def _rows_from_json(held: Mapping[str, Any]) -> dict[str, dict[Level, float]]:
    return {str(name): dict(_row(row)) for name, row in held.items()}


def _row(row: Mapping[str, Any]) -> Iterator[tuple[Level, float]]:
    for text, value in row.items():
        yield Level.parse(text), _finite(value)


def _finite(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{value} is no figure of a table")
    return number
