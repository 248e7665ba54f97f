"""Statistics of alternated timings; nothing here runs a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# What runs the same operators is slower only if it is so by this much, in each of so many races: where weights lie in
# memory moves runs of some microseconds by a few percent.
SLOWER = 0.95
# Less than any speed: a model that a target refuses has less.
REFUSED = 1e-3
RESAMPLES = 2000
# Elements of one batch of resamples; bounds the memory of the bootstrap to a few megabytes.
_BATCH_ELEMENTS = 2**19


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single runs: the middle and the tenth and ninetieth percentiles."""

    median: float
    p10: float
    p90: float

    def to_json(self) -> dict[str, float]:
        """Milliseconds by name."""
        return {"median": self.median, "p10": self.p10, "p90": self.p90}


@dataclass(frozen=True)
class Ratio:
    """A median of paired ratios with its 95 % interval.

    Attributes:
        low: NaN, like `high`, where a single pair says nothing about the spread.
        runs: pairs.
    """

    ratio: float
    low: float
    high: float
    runs: int

    def to_json(self) -> dict[str, float | int | None]:
        """The same by name; null stands where there is no interval."""
        low, high = (None if math.isnan(bound) else bound for bound in (self.low, self.high))
        return {"ratio": self.ratio, "low": low, "high": high, "runs": self.runs}


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What was measured of one model.

    Attributes:
        name: the file's name.
        load_ms: median time to make a session, decoding of packed weights included; NaN where it is not known,
            and like `latency_ms` where the target counts instructions instead: a count is no time.
        speedup: the first model's time, or count, over this one's, round by round; above 1 is faster.
        instructions: executed in a run, where they were counted.
    """

    name: str
    load_ms: float
    latency_ms: Latency
    speedup: Ratio
    instructions: float | None = None

    @property
    def cost(self) -> float:
        """What a run takes in the target's own unit: milliseconds, or millions of instructions."""
        return self.latency_ms.median if self.instructions is None else self.instructions / 1e6

    @property
    def fastest(self) -> float:
        """A run that nothing disturbed, in the same unit: its tenth percentile."""
        return self.latency_ms.p10 if self.instructions is None else self.cost

    def to_json(self) -> dict[str, Any]:
        """`load_ms`, `latency_ms` and `speedup` as the reports print them; no milliseconds of a count."""
        if self.instructions is not None:
            return {"instructions": self.instructions, "speedup": self.speedup.to_json()}
        return {
            "load_ms": None if math.isnan(self.load_ms) else self.load_ms,
            "latency_ms": self.latency_ms.to_json(),
            "speedup": self.speedup.to_json(),
        }


def latency(runs_ms: Sequence[float] | np.ndarray[Any, Any]) -> Latency:
    """Percentiles of single runs in milliseconds."""
    p10, median, p90 = np.percentile(np.asarray(runs_ms, np.float64), (10, 50, 90))
    return Latency(float(median), float(p10), float(p90))


def paired_ratio(
    a_ms: Sequence[float] | np.ndarray[Any, Any], b_ms: Sequence[float] | np.ndarray[Any, Any], *, seed: int = 0
) -> Ratio:
    """Median of a/b over paired runs, with a percentile bootstrap interval of that median.

    Slow spells of a shared machine hit both runs of a pair and cancel; a median forgets those that hit only one.

    Args:
        a_ms: [runs], milliseconds.
        b_ms: [runs], of the same rounds.
        seed: of the resampling.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    ratios = np.asarray(a_ms, np.float64) / np.asarray(b_ms, np.float64)
    runs = len(ratios)
    middle = float(np.median(ratios))
    if runs < 2:
        return Ratio(middle, math.nan, math.nan, runs)
    random = np.random.default_rng(seed)
    batch = max(1, _BATCH_ELEMENTS // runs)
    medians = np.concatenate(
        [
            np.median(ratios[random.integers(0, runs, (min(batch, RESAMPLES - start), runs))], axis=1)
            for start in range(0, RESAMPLES, batch)
        ]
    )
    low, high = np.percentile(medians, (2.5, 97.5))
    return Ratio(middle, float(low), float(high), runs)
