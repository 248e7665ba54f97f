"""Figures out of a worker's answer: of the right number, finite and positive, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import TargetError
from onnxprune.targets.timing import Latency, Timed, latency, paired_ratio

_NO_MS = Latency(math.nan, math.nan, math.nan)


def timed_models(target: str, values: Mapping[str, Any], paths: Sequence[Path]) -> tuple[Timed, ...]:
    """Wall times of each model, against the first.

    Args:
        target: as reports name it.
        values: an answer with `rounds_ms` [rounds, models] and `loads_ms` [models, loads].
        paths: of the models.

    Raises:
        TargetError: the figures are not what a clock gives.
    """
    rounds = _table(target, values.get("rounds_ms"))
    loads = values.get("loads_ms")
    if rounds.shape[1] != len(paths) or not isinstance(loads, list) or len(loads) != len(paths):
        raise _nonsense(target, "times of another number of models")
    return summarise(paths, rounds, [_table(target, [own])[0] for own in loads])


def summarise(paths: Sequence[Path], rounds_ms: np.ndarray[Any, Any], loads_ms: Sequence[Any]) -> tuple[Timed, ...]:
    """Medians, spreads and paired ratios of alternated runs, [rounds, models]."""
    return tuple(
        Timed(
            name=path.name,
            load_ms=float(np.median(loads_ms[at])),
            latency_ms=latency(rounds_ms[:, at]),
            speedup=paired_ratio(rounds_ms[:, 0], rounds_ms[:, at]),
        )
        for at, path in enumerate(paths)
    )


def counted_models(target: str, counts: Sequence[int], paths: Sequence[Path]) -> tuple[Timed, ...]:
    """Executed instructions of each model, against the first; no milliseconds.

    Args:
        target: as reports name it.
        counts: before and after each run, round by round, models in order.
        paths: of the models.

    Raises:
        TargetError: there are not two counts a run.
    """
    marks = 2 * len(paths)
    if not counts or len(counts) % marks:
        raise _nonsense(target, f"{len(counts)} counts of instructions for runs of {len(paths)} models")
    pairs = np.array(counts, np.float64).reshape(-1, len(paths), 2)
    rounds = pairs[:, :, 1] - pairs[:, :, 0]
    if not (rounds > 0).all():
        raise _nonsense(target, "runs of no instructions")
    return tuple(
        Timed(
            name=path.name,
            load_ms=math.nan,
            latency_ms=_NO_MS,
            speedup=paired_ratio(rounds[:, 0], rounds[:, at]),
            instructions=float(np.median(rounds[:, at])),
        )
        for at, path in enumerate(paths)
    )


def _table(target: str, rows: Any) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise _nonsense(target, "no table of times")
    if len({len(row) for row in rows}) > 1 or not all(_is_time(value) for row in rows for value in row):
        raise _nonsense(target, "times that are no positive numbers")
    return np.array(rows, np.float64)


def _is_time(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and value > 0


def _nonsense(target: str, what: str) -> TargetError:
    return TargetError(f"{target}: its process gave {what}; nothing of it is used. Set the target up anew.")
