"""Few numbers for many: k-means on a line, each number weighed by how much its error counts."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_ROUNDS = 100
# More numbers than this are put into as many bins first, each far narrower than what lies between two centroids.
_BINS = 1 << 16


def centroids(values: Array, weights: Array | None, count: int) -> Array:
    """Numbers that stand for others with a small Σ weight · (value - nearest centroid)².

    Lloyd's algorithm from three beginnings, of which the best is kept: spread evenly over the range, over the weight,
    and as the cube root of its density, which is where the best ones lie as they become many.

    Args:
        values: [n], finite.
        weights: [n], not negative; all alike where it is None.
        count: of centroids, 1 at least.

    Returns:
        Sorted float64, at most `count`; the values themselves where they are no more.

    Source: Lloyd 1982, Least squares quantization in PCM; Panter and Dite 1951 for the density; Han et al. 2016, Deep
    Compression, section 3, for the even spread.
    """
    points, mass = _points(values, weights)
    if len(points) <= count:
        return points
    total, moment = np.concatenate([[0], np.cumsum(mass)]), np.concatenate([[0], np.cumsum(mass * points)])
    best, least = points[:1], np.inf
    for beginning in _beginnings(points, total, count):
        found = _settled(points, total, moment, beginning)
        # Σ w (x - c)² less Σ w x², which is the same for all.
        edges = _edges(points, found)
        held, sums = np.diff(total[edges]), np.diff(moment[edges])
        error = float(np.sum(held * found**2 - 2 * sums * found))
        if error < least:
            best, least = found, error
    return best


def nearest(values: Array, codebook: Array) -> Array:
    """Places of the nearest numbers of a sorted codebook, in the shape of `values`."""
    return np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)


def _points(values: Array, weights: Array | None) -> tuple[Array, Array]:
    """Different numbers, sorted, with the weight of each."""
    flat = np.asarray(values, np.float64).ravel()
    mass = np.ones(len(flat)) if weights is None else np.asarray(weights, np.float64).ravel()
    if not mass.any():
        mass = np.ones(len(flat))
    if len(flat) > _BINS:
        low, high = float(flat.min()), float(flat.max())
        width = (high - low) / _BINS or 1.0
        place = np.minimum(((flat - low) / width).astype(np.int64), _BINS - 1)
        held, sums = np.bincount(place, mass, _BINS), np.bincount(place, mass * flat, _BINS)
        kept = held > 0
        return sums[kept] / held[kept], held[kept]
    points, place = np.unique(flat, return_inverse=True)
    held = np.bincount(place, mass, len(points))
    return points[held > 0], held[held > 0]


def _beginnings(points: Array, total: Array, count: int) -> tuple[Array, ...]:
    steps = (np.arange(count) + 0.5) / count
    even = points[0] + steps * (points[-1] - points[0])
    middle = (total[1:] + total[:-1]) / 2
    by_weight = np.interp(steps * total[-1], middle, points)
    # The density of weight over bins, to the power of 1/3, and where its running sum passes equal shares.
    held, borders = np.histogram(points, bins=min(1024, 4 * count), weights=np.diff(total))
    risen = np.concatenate([[0], np.cumsum(np.cbrt(held))])
    by_root = np.interp(steps * risen[-1], risen, borders)
    return even, by_weight, by_root


def _settled(points: Array, total: Array, moment: Array, found: Array) -> Array:
    """Each centroid in the middle of the points that are nearest to it; one without points takes the farthest point."""
    for _ in range(_ROUNDS):
        edges = _edges(points, found)
        held, sums = np.diff(total[edges]), np.diff(moment[edges])
        moved = np.where(held > 0, sums / np.where(held > 0, held, 1), found)
        empty = np.flatnonzero(held <= 0)
        if len(empty):
            far = np.argsort(-np.abs(points - moved[nearest(points, found)]) * np.diff(total), kind="stable")
            moved[empty] = points[far[: len(empty)]]
            moved = np.sort(moved)
        if np.array_equal(moved, found):
            break
        found = moved
    return np.unique(found)


def _edges(points: Array, found: Array) -> Array:
    """[count + 1] where among the points each centroid's own begin and end."""
    inner = np.searchsorted(points, (found[1:] + found[:-1]) / 2)
    return np.concatenate([[0], inner, [len(points)]])
