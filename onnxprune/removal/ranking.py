"""Which units go first: scores by weights alone, by the inputs of what consumes them, or by the error after a refit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from onnxprune.dimensions import Dimension
from onnxprune.inputs import Inputs
from onnxprune.model import Model
from onnxprune.protocol import Gradients
from onnxprune.removal.layers import Layer
from onnxprune.solvers.importance import unit_minitron, unit_output_norm, unit_wanda
from onnxprune.solvers.obs import Consumer, joint_removal_order
from onnxprune.solvers.taylor import Aggregate, Order, WeightGradient, unit_taylor

Array = np.ndarray[Any, Any]
Score = Literal[
    "gradient-output", "lrp", "magnitude", "michel", "minitron", "obs", "output-norm", "random",
    "taylor", "taylor-mixed", "taylor2", "vector", "wanda",
]  # fmt: skip

# Scores that look at weights alone.
BLIND = frozenset({"magnitude", "random"})
# Scores that need gradients of the loss.
BY_GRADIENTS = frozenset({"gradient-output", "lrp", "michel", "taylor", "taylor-mixed", "taylor2", "vector"})


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


def by_gradients(
    score: Score, gradients: Gradients, model: Model, dimensions: Sequence[Dimension], aggregate: Aggregate
) -> list[Array]:
    """[units] of each dimension, from gradients of the loss at the model as it is."""
    if score == "lrp":
        return list(gradients.relevance(model, dimensions))
    if score == "michel":
        return [gate.absolute for gate in gradients.gates(model, dimensions)]
    if score == "gradient-output":
        return [gate.elementwise for gate in gradients.gates(model, dimensions)]
    found = gradients.weights(model)
    return [unit_taylor(_parts(found, each), each.units, cast("Order", score), aggregate) for each in dimensions]


def _parts(found: Mapping[str, WeightGradient], dimension: Dimension) -> Iterator[tuple[WeightGradient, int, Array]]:
    """Every weight that makes or sums the units, as `unit_taylor` reads it, in data order."""
    named = {producer.weight for producer in dimension.producers} | {end.weight for end in dimension.consumers}
    for member in dimension.members:
        if member.tensor in named and member.tensor in found:
            yield found[member.tensor], member.axis, member.elements


BY_INPUTS: Mapping[str, Callable[[Sequence[Layer], Sequence[Inputs]], Array]] = {
    "minitron": _summed(_minitron),
    "obs": obs,
    "output-norm": _summed(_output_norm),
    "wanda": _summed(_wanda),
}
