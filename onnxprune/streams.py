"""One output of two models, compared sample by sample."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from onnxprune.figures import Array, Kind, OutputFigures, Terms
from onnxprune.moments import Cosines, Moments, Spread, blocks

Sizes = tuple[int | str | None, ...]

# A constant computed in floats wobbles by a few units in the last place; that is no variance to be explained.
_EPSILONS = 4


class Stream(Protocol):
    """Figures of one output, gathered sample by sample."""

    def add(self, expected: Array, obtained: Array, valid: Array | None) -> str | None:
        """Take in one sample.

        Args:
            expected: of the reference.
            obtained: of the candidate, of the same shape.
            valid: booleans that broadcast to the shape; False where a position is padding.

        Returns:
            The reason where the candidate's output is broken.
        """

    def figures(self, kind: Kind) -> OutputFigures:
        """What came of it."""

    def terms(self) -> Terms:
        """Each sample's part in the score."""


class FloatStream:
    """Figures of an output of floats.

    Args:
        declared: sizes as the file declares them; a name or None where an axis is dynamic.
    """

    def __init__(self, declared: Sizes) -> None:
        self._declared = declared
        self._spread = Spread()
        self._cosines = Cosines()
        self._errors: list[float] = []
        self._squares: list[float] = []
        self._same_top = self._tops = self._elements = 0
        self._max_abs = self._largest = self._epsilon = 0.0

    def add(self, expected: Array, obtained: Array, valid: Array | None) -> str | None:
        """Take in one sample; see `Stream.add`."""
        wrong, kept = _kept_elements(expected, obtained, valid)
        if wrong:
            return f"NaN or infinite at {wrong} of {expected.size} elements where the reference differs"
        axes = row_axes(self._declared, expected.ndim)
        # Numbers near the end of float64's range have no square; the figures then say so.
        with np.errstate(over="ignore", invalid="ignore"):
            self._add_rows(
                rows_first(expected, axes),
                rows_first(obtained, axes),
                None if kept is None else rows_first(kept, axes),
                expected.shape[0] if expected.ndim else 1,
            )
        self._epsilon = max(self._epsilon, float(np.finfo(expected.dtype).eps))
        self._add_tops(expected, obtained, kept, axes)
        return None

    def _add_rows(self, expected: Array, obtained: Array, kept: Array | None, batch: int) -> None:
        """Matrices [rows, features]; rows are ordered by batch entry."""
        rows, features = expected.shape
        length = _vector_rows(rows, features, batch)
        products = np.zeros((3, rows // length))
        moments = Moments(features)
        error = square = 0.0
        for block in blocks(rows, features):
            y, z = expected[block].astype(np.float64), obtained[block].astype(np.float64)
            inside = None if kept is None else kept[block]
            moments.add(y, inside)
            if inside is not None:
                y, z = np.where(inside, y, 0.0), np.where(inside, z, 0.0)
            difference = y - z
            error += float(np.square(difference).sum())
            square += float(np.square(y).sum())
            self._max_abs = max(self._max_abs, float(np.abs(difference).max(initial=0.0)))
            self._largest = max(self._largest, float(np.abs(y).max(initial=0.0)))
            vector = np.arange(block.start, block.stop) // length
            for total, left, right in zip(products, (y, y, z), (z, y, z), strict=True):
                np.add.at(total, vector, np.einsum("rf,rf->r", left, right))
        self._spread.add(moments)
        self._errors.append(error)
        self._squares.append(square)
        self._elements += int(moments.count.sum())
        if length * features > 1:
            there = slice(None) if kept is None else kept.reshape(len(products[0]), -1).any(axis=1)
            self._cosines.add(*products[:, there])

    def _add_tops(self, expected: Array, obtained: Array, kept: Array | None, axes: tuple[int, ...]) -> None:
        # Classes stand last, but before the height and width of an image.
        axis = 1 if expected.ndim > 3 else expected.ndim - 1
        if axis < 1 or axis in axes or expected.shape[axis] < 2:
            return
        chosen = np.expand_dims(obtained.argmax(axis), axis)
        own = np.expand_dims(expected.argmax(axis), axis)
        # Where several elements of the reference are the largest, each of them is right.
        same = (chosen == own) | (np.take_along_axis(expected, chosen, axis) == np.take_along_axis(expected, own, axis))
        there = np.ones_like(same) if kept is None else kept.any(axis=axis, keepdims=True)
        self._same_top += int((same & there).sum())
        self._tops += int(there.sum())

    @property
    def _constant(self) -> bool:
        return self._spread.deviation <= (_EPSILONS * self._epsilon) ** 2 * math.fsum(self._squares)

    def figures(self, kind: Kind) -> OutputFigures:
        """What came of it."""
        if not self._elements:
            return OutputFigures(kind=kind, why="there is nothing in it to compare")
        error, square = sum(self._errors), sum(self._squares)
        if not math.isfinite(error + square + self._spread.deviation):
            return OutputFigures(kind=kind, failed=True, why="the values are too large to be squared")
        relative = math.sqrt(error / square) if square else math.inf if error else 0.0
        explained = 1 - relative if self._constant else 1 - error / self._spread.deviation
        cosine_mean, cosine_p05 = self._cosines.figures()
        return OutputFigures(
            kind=kind,
            explained=explained,
            cosine_mean=cosine_mean,
            cosine_p05=cosine_p05,
            max_abs=self._max_abs,
            relative_l2=relative,
            top1_agreement=self._same_top / self._tops if self._tops else None,
            largest=self._largest,
            failed=not square and error > 0,
            why="the reference is zero everywhere, the candidate is not" if not square and error else None,
        )

    def terms(self) -> Terms:
        """Each sample's part in the score."""
        if self._constant:
            return Terms(np.array(self._errors), np.array(self._squares), root=True)
        return Terms(np.array(self._errors), self._spread.parts())


class EqualStream:
    """Agreement of an output of integers, booleans or strings."""

    def __init__(self) -> None:
        self._different: list[int] = []
        self._elements: list[int] = []

    def add(self, expected: Array, obtained: Array, valid: Array | None) -> str | None:
        """Take in one sample; see `Stream.add`."""
        different = np.asarray(expected != obtained, np.bool_)
        there = np.ones(expected.shape, np.bool_) if valid is None else np.broadcast_to(valid, expected.shape)
        self._different.append(int((different & there).sum()))
        self._elements.append(int(there.sum()))
        return None

    def figures(self, kind: Kind) -> OutputFigures:
        """What came of it."""
        elements = sum(self._elements)
        if not elements:
            return OutputFigures(kind=kind, why="there is nothing in it to compare")
        return OutputFigures(kind=kind, top1_agreement=1 - sum(self._different) / elements)

    def terms(self) -> Terms:
        """Each sample's part in the score."""
        return Terms(np.array(self._different, np.float64), np.array(self._elements, np.float64))


def row_axes(declared: Sizes, rank: int) -> tuple[int, ...]:
    """Axes whose positions are observations, not features: the first, and every dynamic one."""
    if len(declared) != rank:
        # The file says nothing of the axes; by custom the last one holds features.
        return tuple(range(max(rank - 1, min(rank, 1))))
    return tuple(axis for axis, size in enumerate(declared) if axis == 0 or not isinstance(size, int))


def rows_first(array: Array, axes: tuple[int, ...]) -> Array:
    """The array as [rows, features], where `axes` make the rows."""
    moved = np.moveaxis(array, axes, range(len(axes)))
    rows = math.prod(moved.shape[: len(axes)])
    return moved.reshape(rows, math.prod(moved.shape[len(axes) :]))


def _vector_rows(rows: int, features: int, batch: int) -> int:
    """Rows in one vector of the cosines: one where a row holds several features, else those of a batch entry or all."""
    if features > 1 or not rows:
        return 1
    return rows // batch if rows > batch else rows


def _kept_elements(expected: Array, obtained: Array, valid: Array | None) -> tuple[int, Array | None]:
    """How many elements are broken, and which ones count; None where all do."""
    inside = None if valid is None else np.broadcast_to(valid, expected.shape)
    finite = np.isfinite(expected) & np.isfinite(obtained)
    if finite.all():
        return 0, inside
    same = (expected == obtained) | (np.isnan(expected) & np.isnan(obtained))
    wrong = ~finite & ~same if inside is None else ~finite & ~same & inside
    return int(wrong.sum()), finite if inside is None else finite & inside
