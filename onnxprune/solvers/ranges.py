"""Where an 8-bit grid of activations should begin and end: what is cut off against how fine the rest is."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onnxprune.solvers.histogram import Histogram

Array = np.ndarray[Any, Any]
Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")

# Share of the values that the percentile range covers, in percent.
PERCENTILE = 99.99
_LEVELS = 256
# Ends that are tried on either side of zero, from all of it down to a fifth.
_TRIED = 41
_LEAST_SHARE = 0.2


def choose_range(histogram: Histogram, method: Method, *, percentile: float = PERCENTILE) -> tuple[float, float]:
    """The [low, high] that a grid of 256 levels should cover; it holds zero and lies within what was seen and zero.

    Args:
        histogram: of a tensor's values.
        method: `minmax`, all of them; `percentile`, all but an equal share at either end; `entropy`, the range whose
            quantized distribution diverges least; `mse`, the one whose expected squared error is least.
        percentile: percent of the values that the percentile range covers.

    Sources: Migacz 2017, 8-bit inference with TensorRT (entropy); Choukroun et al. 2019, low-bit quantization (mse).
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if method == "minmax" or high <= low:
        return low, high
    if method == "percentile":
        return _covering(histogram, low, high, percentile)
    pick = _least_error if method == "mse" else _least_divergence
    return pick(histogram, low, high)


def expected_error(histogram: Histogram, low: float, high: float) -> float:
    """Expected squared error of values on a grid of 256 levels over [low, high]: cut off at its ends, rounded inside.

    Rounding costs step²/12, as for values spread evenly over a step.
    """
    counts, centres = histogram.counts.astype(np.float64), histogram.centres
    cut = np.where(centres < low, low - centres, np.maximum(centres - high, 0.0))
    inside = counts[(centres >= low) & (centres <= high) & (centres != 0)].sum()
    step = (high - low) / (_LEVELS - 1)
    return float((counts @ np.square(cut) + inside * step**2 / 12) / counts.sum())


def _covering(histogram: Histogram, low: float, high: float, percentile: float) -> tuple[float, float]:
    share = (1 - percentile / 100) / 2 * histogram.counts.sum()
    running = np.cumsum(histogram.counts)
    edges = (histogram.first + np.arange(len(running) + 1)) * histogram.width
    begin = edges[int(np.searchsorted(running, share, side="right"))]
    end = edges[int(np.searchsorted(running, running[-1] - share, side="left")) + 1]
    return max(min(float(begin), 0.0), low), min(max(float(end), 0.0), high)


def _least_error(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """Both ends searched in turn, the cheaper one moved until neither helps: the error is convex enough for that."""
    shares = np.linspace(1.0, _LEAST_SHARE, _TRIED)
    best = expected_error(histogram, low, high)
    ends = [low, high]
    for _ in range(4):
        before = best
        for side, end in enumerate((low, high)):
            if end == 0:
                continue
            for share in shares:
                tried = list(ends)
                tried[side] = end * share
                error = expected_error(histogram, tried[0], tried[1])
                if error < best:
                    best, ends = error, tried
        if best == before:
            break
    return float(ends[0]), float(ends[1])


def _least_divergence(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    best, ends = np.inf, (low, high)
    for share in np.linspace(1.0, _LEAST_SHARE, _TRIED):
        divergence = _divergence(histogram, low * share, high * share)
        if divergence < best:
            best, ends = divergence, (float(low * share), float(high * share))
    return ends


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """KL divergence of the values, cut off at both ends, from what 256 levels make of the values between them."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return float(np.inf)
    kept = counts[inside]
    cut = kept.copy()
    cut[0] += counts[centres < low].sum()
    cut[-1] += counts[centres > high].sum()
    # Each level's count is spread evenly over its bins that are not empty. Zero and both ends lie on the grid, and what
    # piles up there, as behind a Relu or a Clip, is not spread.
    level = np.clip(np.rint((centres[inside] - low) / (high - low) * (_LEVELS - 1)), 0, _LEVELS - 1).astype(np.int64)
    exact = np.zeros(len(kept), bool)
    exact[[0, -1, int(np.argmin(np.abs(centres[inside])))]] = True
    loose = np.where(exact, 0.0, kept)
    filled = np.bincount(level, weights=loose > 0, minlength=_LEVELS)
    total = np.bincount(level, weights=loose, minlength=_LEVELS)
    spread = np.where(loose > 0, total[level] / np.maximum(filled[level], 1), np.where(exact, kept, 0.0))
    p, q = cut / cut.sum(), spread / max(spread.sum(), 1.0)
    # A bin that only values from outside fall into counts as almost empty, not as impossible.
    known = p > 0
    return float(np.sum(p[known] * np.log(p[known] / np.maximum(q[known], 1e-9))))
