"""The linears and convolutions that sum the units of a dimension, as matrices that solvers understand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions import Consumer, Dimension
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.inputs import Source, patches_of

Array = np.ndarray[Any, Any]
_LINEARS = {"MatMul", "Gemm"}
_GRAPHS = {"Conv", "FusedConv"}


@dataclass(frozen=True, eq=False)
class Layer:
    """One stored weight that consumes units, with every node that reads it so.

    Attributes:
        weight: name of the stored constant.
        axis: its axis that is summed over.
        nodes: names of the first outputs of its readers.
        sources: what each reader multiplies it with.
        groups: [units, g]: the rows of `matrix` that belong to each unit.
        matrix: [k, n], applied as x @ matrix.
    """

    weight: str
    axis: int
    nodes: tuple[str, ...]
    sources: tuple[Source, ...]
    groups: Array
    matrix: Array

    def stored(self, matrix: Array, like: Array) -> Array:
        """A matrix [k, n] in the layout and type of the stored weight."""
        moved = np.moveaxis(like, self.axis, 0)
        if like.ndim == 2:
            return np.moveaxis(matrix.reshape(moved.shape), 0, self.axis).astype(like.dtype)
        # [in * kernel, out] -> [out, in, *kernel]
        return matrix.T.reshape(like.shape).astype(like.dtype)


def layers_of(graph: gs.Graph, dimension: Dimension) -> tuple[Layer, ...]:
    """The layers that consume a dimension, in data order.

    Raises:
        Declined: a consumer is no plain linear or convolution, so that nothing can be refitted there.
    """
    nodes = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
    held = {tensor.name: tensor for tensor in constants(graph)}
    by_weight: dict[tuple[str, int], list[Consumer]] = {}
    for consumer in dimension.consumers:
        by_weight.setdefault((consumer.weight, consumer.weight_axis), []).append(consumer)
    layers = []
    for (name, axis), consumers in by_weight.items():
        readers = [nodes[consumer.node] for consumer in consumers]
        if name not in held:
            raise Declined(f"{readers[0].op} {consumers[0].node!r} sums the units without a stored weight")
        elements = next(m.elements for m in dimension.members if (m.tensor, m.axis) == (name, axis))
        layers.append(_layer(held[name], axis, elements, consumers, readers))
    return tuple(layers)


def _layer(
    constant: gs.Constant, axis: int, elements: Array, consumers: Sequence[Consumer], readers: Sequence[gs.Node]
) -> Layer:
    values = constant.values
    names = tuple(consumer.node for consumer in consumers)
    if values.dtype.kind != "f":
        raise Declined(f"weight {constant.name!r} is not stored in floating point")
    if all(node.op in _LINEARS and not node.domain for node in readers) and values.ndim == 2:
        plain = all(
            consumer.input == 0 and not node.attrs.get("transA", 0) and float(node.attrs.get("alpha", 1.0)) == 1.0
            for consumer, node in zip(consumers, readers, strict=True)
        )
        if not plain:
            raise Declined(f"weight {constant.name!r} is scaled or stands on the left of its product")
        sources = tuple(Source(node.inputs[0].name) for node in readers)
        return Layer(constant.name, axis, names, sources, elements, np.moveaxis(values, axis, 0).astype(np.float64))
    if all(node.op in _GRAPHS for node in readers) and axis == 1 and values.ndim > 2:
        if any(node.attrs.get("group", 1) != 1 for node in readers):
            raise Declined(f"convolution {names[0]!r} is grouped: its units are not those of its patches")
        sources = tuple(Source(node.inputs[0].name, patches_of(node, values.shape[2:])) for node in readers)
        size = int(np.prod(values.shape[2:]))
        groups = (elements[:, :, None] * size + np.arange(size)).reshape(len(elements), -1)
        matrix = values.reshape(len(values), -1).T.astype(np.float64)
        return Layer(constant.name, axis, names, sources, groups, matrix)
    raise Declined(f"{readers[0].op} {names[0]!r} sums the units in a form that is not refitted")
