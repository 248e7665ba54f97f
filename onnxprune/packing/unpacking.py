"""Packed weights made dense again."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_graphsurgeon as gs

from onnxprune.graph import fresh_name
from onnxprune.memory import kept
from onnxprune.model import Model
from onnxprune.packing.lookups import Lookup, find_lookups
from onnxprune.packing.reading import Packed, find_packed
from onnxprune.rewrite import substitute


def unpacked(model: Model, *, lookups: bool = False) -> tuple[Model, int]:
    """The model with dense weights, as it was before packing, and how many were packed.

    Each weight has its old name, shape and numbers; the model itself is given back where nothing is packed.

    Args:
        model: of any origin.
        lookups: make tables dense, too, whose rows are decoded after they are looked up.
    """
    if not find_packed(model.graph) and not (lookups and find_lookups(model.graph)):
        return model, 0
    result = model.copy()
    graph = result.graph
    tables, found = find_lookups(graph) if lookups else (), find_packed(graph)
    tabled = {id(node) for table in tables for node in _look_up_dense(table, graph)}
    for packed in found:
        _make_dense(packed)
    _drop(graph, tabled | {id(node) for packed in found for node in packed.nodes})
    return result, len(found) + len(tables)


def _look_up_dense(table: Lookup, graph: gs.Graph) -> Iterator[gs.Node]:
    """Rows looked up in the dense table; gives what is no longer read."""
    name = str(table.codes.name)
    dense = gs.Constant(fresh_name(graph, name.removesuffix(".codes")), kept(table.decoded()))
    for indices, nodes, result in table.readers:
        last = nodes[-1]
        last.outputs.clear()
        gather = gs.Node("Gather", str(result.name), {"axis": 0}, [dense, indices], [result])
        graph.nodes.insert(next(at for at, node in enumerate(graph.nodes) if node is last), gather)
        yield from nodes
    yield from table.makers


def _make_dense(packed: Packed) -> None:
    dense = gs.Constant(packed.tensor.name, kept(packed.decoded()))
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
