"""Sums over samples, of which one is alive at a time, in float64.

Variances are merged from means and deviations, never from Σy² - n·ȳ², which cancels where an output has a large offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Elements converted to float64 at a time: 8 MiB an operand.
_BLOCK_ELEMENTS = 2**20
# Cosines kept of one sample for the percentile; evenly spaced where there are more. The mean uses all.
_KEPT_COSINES = 4096
# Features whose means are kept sample by sample for the interval; the score itself uses all.
_KEPT_FEATURES = 1024


class Moments:
    """Count, mean and summed squared deviation of each feature, merged without cancellation.

    Source: Chan, Golub and LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """

    def __init__(self, features: int) -> None:
        self.count: Array = np.zeros(features)
        self.mean: Array = np.zeros(features)
        self.deviation: Array = np.zeros(features)

    def add(self, rows: Array, kept: Array | None) -> None:
        """Take in rows [rows, features]; of those, `kept` [rows, features] says which elements count."""
        other = Moments(rows.shape[1])
        if kept is None:
            other.count += len(rows)
            other.mean = rows.mean(axis=0)
            other.deviation = np.square(rows - other.mean).sum(axis=0)
        else:
            other.count = kept.sum(axis=0, dtype=np.float64)
            other.mean = np.where(kept, rows, 0).sum(axis=0) / np.maximum(other.count, 1)
            other.deviation = np.square(np.where(kept, rows - other.mean, 0)).sum(axis=0)
        self.merge(other)

    def merge(self, other: Moments) -> None:
        """Take in another part's moments."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        step = other.mean - self.mean
        self.mean = self.mean + step * share
        self.deviation = self.deviation + other.deviation + np.square(step) * self.count * share
        self.count = count

    def pooled(self) -> Moments:
        """The moments of all features as one."""
        pool = Moments(1)
        pool.count[0] = self.count.sum()
        pool.mean[0] = np.sum(self.count * self.mean) / max(pool.count[0], 1)
        pool.deviation[0] = np.sum(self.deviation + self.count * np.square(self.mean - pool.mean[0]))
        return pool


def blocks(rows: int, features: int) -> Iterator[slice]:
    """Slices of rows of at most a block's elements each."""
    step = max(1, _BLOCK_ELEMENTS // max(features, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


class Cosines:
    """Cosines between the vectors of two outputs."""

    def __init__(self) -> None:
        self._total = 0.0
        self.count = 0
        self.kept: list[Array] = []

    def add(self, dot: Array, left: Array, right: Array) -> None:
        """Take in one sample's vectors by their products and squared lengths, [vectors] each."""
        norms = np.sqrt(left) * np.sqrt(right)
        # Two zero vectors point the same way; a zero vector and another do not.
        cosines = np.where(norms > 0, dot / np.where(norms > 0, norms, 1), np.where(left == right, 1.0, 0.0))
        self._total += float(cosines.sum())
        self.count += len(cosines)
        if len(cosines) > _KEPT_COSINES:
            cosines = cosines[np.linspace(0, len(cosines) - 1, _KEPT_COSINES).astype(np.int64)]
        self.kept.append(cosines)

    def figures(self) -> tuple[float | None, float | None]:
        """Mean and fifth percentile."""
        if not self.count:
            return None, None
        return self._total / self.count, float(np.percentile(np.concatenate(self.kept), 5))


class Spread:
    """Variance of the reference around each feature's mean, and each sample's part in it."""

    def __init__(self) -> None:
        self._total: Moments | None = None
        # Of each sample: deviation around its own means, and count and mean of the kept features.
        self._samples: list[tuple[float, Array, Array]] = []
        self._pools: list[Moments] = []
        self._kept: Array = np.zeros(0, np.int64)

    def add(self, sample: Moments) -> None:
        """Take in one sample's moments."""
        features = len(sample.mean)
        self._pools.append(sample.pooled())
        if self._total is None:
            self._total = Moments(features)
            self._kept = np.arange(features)
            if features > _KEPT_FEATURES:
                self._kept = np.sort(np.random.default_rng(0).choice(features, _KEPT_FEATURES, replace=False))
        elif features != len(self._total.mean):
            # A size that varies although the file fixes it: no feature lines up with its own mean any more.
            self._total = self._total.pooled()
            self._kept = np.zeros(1, np.int64)
            self._samples = [(float(pool.deviation[0]), pool.count, pool.mean) for pool in self._pools[:-1]]
            sample = self._pools[-1]
        self._total.merge(sample)
        self._samples.append((float(sample.deviation.sum()), sample.count[self._kept], sample.mean[self._kept]))

    @property
    def deviation(self) -> float:
        """Σ‖y-ȳ‖²."""
        return 0.0 if self._total is None else float(self._total.deviation.sum())

    def parts(self) -> Array:
        """Each sample's part of `deviation`, [samples]; they add up to it."""
        if self._total is None:
            return np.zeros(0)
        mean = self._total.mean[self._kept]
        within = np.array([inner for inner, _, _ in self._samples])
        between = np.array([np.sum(count * np.square(own - mean)) for _, count, own in self._samples])
        # The kept features stand for all of them.
        whole = max(self.deviation - float(within.sum()), 0.0)
        drawn = float(between.sum())
        return within + (between * (whole / drawn) if drawn else 0.0)
