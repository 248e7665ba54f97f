"""Which units go first: scores by weights alone, by the inputs of what consumes them, or by the error after a refit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from onnxprune.inputs import Inputs
from onnxprune.removal.layers import Layer
from onnxprune.solvers.importance import unit_minitron, unit_output_norm, unit_wanda
from onnxprune.solvers.obs import Consumer, joint_removal_order

Array = np.ndarray[Any, Any]
Score = Literal["obs", "wanda", "minitron", "output-norm", "magnitude", "random"]

# Scores that look at weights alone.
BLIND = frozenset({"magnitude", "random"})


def obs(layers: Sequence[Layer], inputs: Sequence[Inputs]) -> Array:
    """[units]: the error added when each unit goes in the best order, all others refitted; rises along that order."""
    order = joint_removal_order(
        [
            Consumer(weight=layer.matrix, gram=one.gram / one.rows, groups=layer.groups, mean=one.mean)
            for layer, one in zip(layers, inputs, strict=True)
        ]
    )
    rising = np.maximum.accumulate(np.diff(np.concatenate([[0.0], order.losses])))
    # Equal additions are nudged apart, so that sorting the scores gives the order back.
    for at in range(1, len(rising)):
        rising[at] = max(rising[at], np.nextafter(rising[at - 1], np.inf))
    score = np.empty(len(rising))
    score[list(order.units)] = rising
    return score


def _wanda(layer: Layer, one: Inputs) -> Array:
    return unit_wanda(layer.matrix, np.sqrt(np.maximum(np.diagonal(one.gram), 0)), layer.groups)


def _minitron(layer: Layer, one: Inputs) -> Array:
    return unit_minitron(one.sequence_norm, layer.groups)


def _output_norm(layer: Layer, one: Inputs) -> Array:
    return unit_output_norm(layer.matrix, one.gram, layer.groups)


def _summed(score: Callable[[Layer, Inputs], Array]) -> Callable[[Sequence[Layer], Sequence[Inputs]], Array]:
    """A score of one layer's inputs, added up over all layers that consume the units."""
    return lambda layers, inputs: np.sum(
        [score(layer, one) for layer, one in zip(layers, inputs, strict=True)], axis=0
    )  # fmt: skip


BY_INPUTS: Mapping[str, Callable[[Sequence[Layer], Sequence[Inputs]], Array]] = {
    "minitron": _summed(_minitron),
    "obs": obs,
    "output-norm": _summed(_output_norm),
    "wanda": _summed(_wanda),
}
