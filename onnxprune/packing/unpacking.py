"""Packed weights made dense again."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from onnxprune.model import Model
from onnxprune.packing.reading import Packed, find_packed
from onnxprune.rewrite import substitute


def unpacked(model: Model) -> tuple[Model, int]:
    """The model with dense weights, as it was before packing, and how many were packed.

    Each weight has its old name, shape and numbers; the model itself is given back where nothing is packed.
    """
    if not find_packed(model.graph):
        return model, 0
    result = model.copy()
    found = find_packed(result.graph)
    for packed in found:
        _make_dense(packed)
    _drop(result.graph, {id(node) for packed in found for node in packed.nodes})
    return result, len(found)


def _make_dense(packed: Packed) -> None:
    dense = gs.Constant(packed.tensor.name, packed.decoded())
    substitute(packed.tensor, dense)


def _drop(graph: gs.Graph, nodes: Collection[int]) -> None:
    """Take away what decoded the weights, but not what others read, too."""
    given_out = {id(tensor) for tensor in graph.outputs}
    kept: list[gs.Node] = []
    for node in reversed(graph.nodes):
        read = any(tensor.outputs or id(tensor) in given_out for tensor in node.outputs)
        if id(node) in nodes and not read:
            node.inputs.clear()
            node.outputs.clear()
        else:
            kept.append(node)
    graph.nodes = kept[::-1]
