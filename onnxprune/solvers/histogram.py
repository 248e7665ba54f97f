"""A histogram that grows with what it is shown: bounded memory, exact merging, the same in any order of batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Bins behind one range: eight for each of an 8-bit grid's steps.
BINS = 2048


@dataclass(frozen=True)
class Histogram:
    """How often values fell into bins of one width.

    Attributes:
        counts: [n], n at most `BINS`.
        first: number of the first bin; bin i holds values in [(first + i)·width, (first + i + 1)·width).
        exponent: the width is 2^exponent.
        low, high: the least and the largest value itself.
    """

    counts: Array
    first: int
    exponent: int
    low: float
    high: float

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def centres(self) -> Array:
        """[n] the middle of each bin, within what was seen."""
        middles = (self.first + np.arange(len(self.counts)) + 0.5) * self.width
        return np.asarray(np.clip(middles, self.low, self.high))


def histogram_of(values: Array) -> Histogram | None:
    """The histogram of finite `values`, any shape; None where there is none.

    Widths are powers of two and bins start at their multiples, so that two histograms merge without moving a count.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    flat = flat[np.isfinite(flat)]
    if not flat.size:
        return None
    low, high = float(flat.min()), float(flat.max())
    exponent = _exponent(low, high)
    first = math.floor(math.ldexp(low, -exponent))
    places = np.floor(np.ldexp(flat, -exponent)).astype(np.int64) - first
    return Histogram(np.bincount(places), first, exponent, low, high)


def merged(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    """Both histograms as one; associative and commutative."""
    if one is None or other is None:
        return other if one is None else one
    low, high = min(one.low, other.low), max(one.high, other.high)
    exponent = max(_exponent(low, high), one.exponent, other.exponent)
    parts = [_widened(part, exponent) for part in (one, other)]
    first = min(begin for begin, _ in parts)
    counts = np.zeros(max(begin + len(held) for begin, held in parts) - first, np.int64)
    for begin, held in parts:
        counts[begin - first : begin - first + len(held)] += held
    return Histogram(counts, first, exponent, low, high)


def _exponent(low: float, high: float) -> int:
    """The least width that covers [low, high] in `BINS` bins, wherever they start."""
    # A bin more than the span asks for, since its ends lie inside bins.
    span = max(high - low, max(abs(low), abs(high)) * 2.0**-20, math.ldexp(1.0, -140))
    return math.ceil(math.log2(span / (BINS - 1)))


def _widened(histogram: Histogram, exponent: int) -> tuple[int, Array]:
    """First bin and counts at a larger width."""
    by = exponent - histogram.exponent
    if not by:
        return histogram.first, histogram.counts
    places = (histogram.first + np.arange(len(histogram.counts))) >> min(by, 62)
    first = int(places[0])
    return first, np.bincount(places - first, weights=histogram.counts).astype(np.int64)
