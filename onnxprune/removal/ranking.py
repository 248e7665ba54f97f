"""Which units go first: scores by weights alone, by the inputs of what consumes them, or by the error after a refit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from onnxprune.inputs import Inputs
from onnxprune.removal.layers import Layer
from onnxprune.solvers.obs import Consumer, joint_removal_order

Array = np.ndarray[Any, Any]
Score = Literal["obs", "wanda", "minitron", "output-norm", "magnitude", "random"]

# Scores that look at weights alone.
BLIND = frozenset({"magnitude", "random"})


def obs(layers: Sequence[Layer], inputs: Sequence[Inputs]) -> Array:
    """[units]: the error added when each unit goes in the best order, all others refitted; never falls in that order.

    Source: Kurtic, Frantar, Alistarh 2023, ZipLM, section 3.1.
    """
    rows = sum(one.rows for one in inputs)
    consumers = [
        Consumer(weight=layer.matrix, gram=one.gram / rows, groups=layer.groups, mean=one.mean if alone else None)
        for layer, one in zip(layers, inputs, strict=True)
        for alone in (len(layers) == 1,)
    ]
    order = joint_removal_order(consumers)
    added = np.maximum.accumulate(np.diff(np.concatenate([[0.0], order.losses])))
    score = np.empty(len(order.units))
    # Equal additions keep the order of removal.
    score[list(order.units)] = added + np.arange(len(added)) * np.finfo(np.float64).tiny
    return _ordered(score, order.units)


def _ordered(score: Array, units: Sequence[int]) -> Array:
    """Scores nudged apart, so that sorting them gives `units` back."""
    ranked = score[list(units)]
    for at in range(1, len(ranked)):
        ranked[at] = max(ranked[at], np.nextafter(ranked[at - 1], np.inf))
    fixed = np.empty_like(score)
    fixed[list(units)] = ranked
    return fixed


def wanda(layers: Sequence[Layer], inputs: Sequence[Inputs]) -> Array:
    """[units]: Σ |W_ij|·‖X_i‖ over the rows of each unit and all outputs.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, section 3 (summed here).
    """
    total = np.zeros(len(layers[0].groups))
    for layer, one in zip(layers, inputs, strict=True):
        rows = np.abs(layer.matrix).sum(axis=1) * np.sqrt(np.maximum(np.diagonal(one.gram), 0))
        total += rows[layer.groups].sum(axis=1)
    return total


def minitron(layers: Sequence[Layer], inputs: Sequence[Inputs]) -> Array:
    """[units]: L2 over samples and a unit's elements of the mean magnitude over the sequence.

    Source: Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation, section 2.2.
    """
    total = np.zeros(len(layers[0].groups))
    for layer, one in zip(layers, inputs, strict=True):
        total += np.square(one.sequence_norm)[layer.groups].sum(axis=1)
    return np.sqrt(total)


def output_norm(layers: Sequence[Layer], inputs: Sequence[Inputs]) -> Array:
    """[units]: ‖X_u·W_u‖, what each unit alone contributes to the outputs."""
    total = np.zeros(len(layers[0].groups))
    for layer, one in zip(layers, inputs, strict=True):
        for unit, rows in enumerate(layer.groups):
            weight = layer.matrix[rows]
            total[unit] += max(0.0, float(np.vdot(weight, one.gram[np.ix_(rows, rows)] @ weight)))
    return np.sqrt(total)


BY_INPUTS: Mapping[str, Callable[[Sequence[Layer], Sequence[Inputs]], Array]] = {
    "minitron": minitron,
    "obs": obs,
    "output-norm": output_norm,
    "wanda": wanda,
}
