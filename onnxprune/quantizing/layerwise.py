"""One weight's solve from what its readers take in, as a piece of work that anyone may do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.inputs import Inputs
from onnxprune.memory import kept
from onnxprune.quantizing.matrices import Layout
from onnxprune.quantizing.rounding import Problem, Rounded, Seen, decoded, rounded
from onnxprune.solvers.gram import centred
from onnxprune.solvers.reconstruction import Against, refit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Readings:
    """What a weight's readers take in, and what the weight is to do with it.

    Attributes:
        inputs: their moments, added up.
        moved: whether they are other than the original's.
        table: whether rows are looked up, too.
        corrected: whether a bias takes up the mean, so that the solve need not.
    """

    inputs: Inputs
    moved: bool = False
    table: bool = False
    corrected: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight to be solved: plain data.

    Attributes:
        readings: None where its recipe looks at no inputs.
    """

    problem: Problem
    readings: Readings | None = None


def solved(layer: Layer) -> Rounded:
    """The weight's integers, and what the bias behind it gains; out of the way where memory is short."""
    problem, readings = layer.problem, layer.readings
    if readings is None:
        found = rounded(problem)
    else:
        seen = seen_by(problem.stored, problem.layout, readings)
        found = rounded(problem, seen)
        if seen.means is not None:
            found = replace(found, gain=_gain(problem, found, seen.means))
    return replace(found, integers=kept(found.integers), scale=kept(found.scale))


def seen_by(stored: Array, layout: Layout, readings: Readings) -> Seen:
    """Second moments as means over rows, and what the solve aims at."""
    inputs = readings.inputs
    gram = inputs.gram / max(inputs.rows, 1)
    if gram.ndim == 2:
        gram = gram[None]
    dense = layout.matrices(stored).astype(np.float64)
    if readings.table:
        # Rows that are looked up count for themselves, and as much as what they are multiplied with.
        gram = gram + np.eye(gram.shape[-1]) * np.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[-1]
        return Seen(gram, dense)
    mean = inputs.mean if readings.corrected else None
    means = None if mean is None else (mean, inputs.reference_mean)
    whole = gram if mean is None else np.array([centred(one, mean) for one in gram])
    if not readings.moved:
        return Seen(whole, dense, means)
    cross = inputs.cross / max(inputs.rows, 1)
    if cross.ndim == 2:
        cross = cross[None]
    every = np.arange(gram.shape[-1])
    target = [
        refit(
            matrix, gram[at], every, mean=None if means is None else means[1],
            against=Against(gram=gram[at], cross=cross[at], mean=mean),
        )[0]
        for at, matrix in zip(np.minimum(np.arange(len(dense)), len(gram) - 1), dense, strict=True)
    ]  # fmt: skip
    return Seen(whole, np.array(target), means)


def _gain(problem: Problem, found: Rounded, means: tuple[Array, Array]) -> Array:
    """What the bias behind the weight gains, so that the mean output is the original's."""
    mean, reference = means
    after_all = decoded(
        problem.layout, problem.recipe.block, found, turned=problem.turned, dtype=problem.stored.dtype
    )  # fmt: skip
    (before,), (after,) = (problem.layout.matrices(values).astype(np.float64) for values in (problem.stored, after_all))
    gain: Array = (reference @ before - mean @ after).astype(np.float32)
    return gain
