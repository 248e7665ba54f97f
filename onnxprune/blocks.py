"""Residual blocks, found by their Add: one operand is computed from the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxprune.dimensions import Dimensions
from onnxprune.graph import elements

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]

_ADDS = {
    ("", "Add"),
    ("com.microsoft", "SkipLayerNormalization"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"),
}
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv"}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulNBits", "Attention"} | _CONVOLUTIONS


@dataclass(frozen=True)
class Block:
    """What lies between a residual stream's value and the Add that joins the two again.

    Attributes:
        output: name of the Add's output.
        stream: name of the operand that bypasses the block.
        branch: name of the operand that the block computes.
        inner: names of the outputs of the block's nodes that nothing else reads, the Add left out.
        params: numbers in the weights that go with the block.
        role: attention, feed-forward or convolution.
        pinned: why it cannot be removed; empty where it can.
    """

    output: str
    stream: str
    branch: str
    inner: tuple[str, ...]
    params: int
    role: str
    pinned: str = ""


def find_blocks(graph: gs.Graph, shapes: Shapes, dimensions: Dimensions) -> tuple[Block, ...]:
    """Residual blocks that hold weights, in data order."""
    normalisers = {name for dimension in dimensions.all for name in dimension.normalisers}
    order = {id(node): at for at, node in enumerate(graph.nodes)}
    return tuple(_blocks(graph, shapes, order, normalisers))


def _blocks(graph: gs.Graph, shapes: Shapes, order: dict[int, int], normalisers: set[str]) -> Iterator[Block]:
    given_out = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        if (node.domain or "", node.op) not in _ADDS:
            continue
        first, second = node.inputs[:2]
        if isinstance(first, gs.Constant) or isinstance(second, gs.Constant):
            continue
        # The operand that is made earlier can only be the one that bypasses.
        stream, branch = sorted((first, second), key=lambda tensor: _made_at(tensor, order))
        if _differ(shapes, stream.name, node.outputs[0].name):
            # A mask that meets the scores of a later layer: what is added there is no stream.
            continue
        region = _between(stream, branch, order)
        if region is None or not any(inner.op in _PRODUCTS for inner in region):
            continue
        own = _exclusive(region, node, given_out)
        weights = {
            tensor.name: elements(tensor) for inner in own for tensor in inner.inputs if isinstance(tensor, gs.Constant)
        }
        yield Block(
            output=node.outputs[0].name,
            stream=stream.name,
            branch=branch.name,
            inner=tuple(inner.outputs[0].name for inner in own),
            params=sum(weights.values()),
            role=_role(region, normalisers),
            pinned=_pinned(node, stream, region, shapes, given_out),
        )


def _differ(shapes: Shapes, first: str, second: str) -> bool:
    return first in shapes and second in shapes and shapes[first] != shapes[second]


def _made_at(tensor: gs.Tensor, order: dict[int, int]) -> int:
    return order.get(id(tensor.inputs[0]), -1) if tensor.inputs else -1


def _between(stream: gs.Tensor, branch: gs.Tensor, order: dict[int, int]) -> list[gs.Node] | None:
    """Nodes that compute `branch`, back to `stream`, in data order; None where `branch` does not come from it."""
    start = _made_at(stream, order)
    found: dict[int, gs.Node] = {}
    queue, reached = [branch], False
    while queue:
        tensor = queue.pop()
        if tensor is stream:
            reached = True
            continue
        made_by = tensor.inputs[0] if tensor.inputs else None
        # What was made before the stream's value (masks, positions) is fetched from outside.
        if made_by is None or id(made_by) in found or order[id(made_by)] <= start:
            continue
        found[id(made_by)] = made_by
        queue += made_by.inputs
    if not reached:
        return None
    return sorted(found.values(), key=lambda node: order[id(node)])


def _exclusive(region: list[gs.Node], add: gs.Node, given_out: set[str]) -> list[gs.Node]:
    """Nodes of the region that nothing outside of it reads: those that go with the block."""
    own: set[int] = {id(add)}
    kept = []
    for node in reversed(region):
        readers = [reader for tensor in node.outputs for reader in tensor.outputs]
        if all(id(reader) in own for reader in readers) and not given_out & {t.name for t in node.outputs}:
            own.add(id(node))
            kept.append(node)
    return kept[::-1]


def _role(region: list[gs.Node], normalisers: set[str]) -> str:
    if any(node.op in {"Softmax", "Attention", "MultiHeadAttention", "GroupQueryAttention"} for node in region):
        return "attention"
    if any(tensor.name in normalisers for node in region for tensor in node.outputs):
        return "attention"
    return "convolution" if any(node.op in _CONVOLUTIONS for node in region) else "feed-forward"


def _pinned(node: gs.Node, stream: gs.Tensor, region: list[gs.Node], shapes: Shapes, given_out: set[str]) -> str:
    if node.op != "Add":
        return f"the residual is added inside {node.op}"
    if stream.name not in shapes or node.outputs[0].name not in shapes:
        return "its shapes were not observed"
    public = [tensor.name for inner in region for tensor in inner.outputs if tensor.name in given_out]
    if public:
        return f"graph output {public[0]!r} is computed inside it"
    return ""
