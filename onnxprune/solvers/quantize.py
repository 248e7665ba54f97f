"""Symmetric integer grids: zero is exact, so that pruned weights stay pruned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

INT8_MAX = 127
# Numbers that are rounded at a time.
_BLOCK = 2**22
# Shares of the largest value that are tried as the end of a grid.
_SHRUNK = np.linspace(1.0, 0.3, 36)


def symmetric_scale(weight: Array, axes: Sequence[int], *, largest: int = INT8_MAX, dtype: Any = np.float32) -> Array:
    """The step that maps the largest magnitude of each channel to `largest`.

    Args:
        weight: any shape.
        axes: the axes that keep a scale of their own; all others are reduced to size 1.
        largest: the largest integer of the grid.
        dtype: type the scale is stored in; rounding to it happens here, so that it costs no accuracy later.

    Returns:
        Scales that broadcast against `weight`, positive; 1 for a channel of zeros.
    """
    reduced = tuple(axis for axis in range(weight.ndim) if axis not in {a % weight.ndim for a in axes})
    # Both ends are found without a copy of the magnitudes.
    peak = np.ones(())
    if weight.size:
        high, low = (end(weight, axis=reduced, keepdims=True).astype(np.float64) for end in (np.max, np.min))
        peak = np.maximum(high, -low)
    scale = (peak / largest).astype(dtype)
    # A step that vanishes in `dtype` would divide by zero: such a channel is all zeros for every practical purpose.
    return np.where(scale > 0, scale, np.ones((), dtype)).astype(dtype)


def round_to_grid(weight: Array, scale: Array, *, largest: int = INT8_MAX) -> Array:
    """Nearest integers of `weight / scale` in [-largest, largest], as int8.

    The error is at most half a step wherever `scale` came from `symmetric_scale`, up to the rounding of the scale.
    """
    rounded = np.empty(weight.shape, np.int8)
    whole = np.broadcast_to(scale.astype(np.float32), weight.shape)
    # Some rows at a time: a table in double size is more than some machines have left.
    step = max(1, _BLOCK // max(weight[:1].size, 1)) if weight.ndim else 1
    for rows in (slice(start, start + step) for start in range(0, len(weight), step)) if weight.ndim else ((),):
        steps = np.rint(weight[rows].astype(np.float32) / whole[rows])
        rounded[rows] = np.clip(steps, -largest, largest).astype(np.int8)
    return rounded


def affine_uint8(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of an unsigned 8-bit grid that covers [low, high] and holds zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    zero_point = np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))
    return scale, zero_point


def searched_scale(
    weight: Array, importance: Array, axes: Sequence[int], *, largest: int, dtype: Any = np.float32
) -> Array:
    """The step of each channel with the least Σ importance · (rounded - weight)², the largest values clipped for it.

    Args:
        weight: any shape.
        importance: broadcasts against `weight`; not negative.
        axes: the axes that keep a scale of their own.
        largest: the largest integer of the grid.
        dtype: type the scale is stored in.

    Returns:
        Scales that broadcast against `weight`, never larger than those of `symmetric_scale`, and never worse.
    """
    whole = symmetric_scale(weight, axes, largest=largest, dtype=np.float64)
    reduced = tuple(axis for axis in range(weight.ndim) if axis not in {a % weight.ndim for a in axes})
    values, weights = np.asarray(weight, np.float32), np.broadcast_to(np.asarray(importance, np.float32), weight.shape)
    best, least = whole.astype(dtype), np.full(whole.shape, np.inf)
    for share in _SHRUNK:
        scale = (whole * share).astype(dtype)
        step = np.where(scale > 0, scale, np.ones((), dtype)).astype(np.float32)
        missed = np.clip(np.rint(values / step), -largest, largest) * step - values
        error = np.sum(weights * np.square(missed), axis=reduced, keepdims=True, dtype=np.float64)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, step.astype(dtype), best)
    return best
