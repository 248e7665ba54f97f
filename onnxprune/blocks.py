"""Residual blocks, found by their Add: one operand is computed from the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.cut import POSITIONS
from onnxprune.graph import elements

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]

_ADDS = {
    ("", "Add"),
    ("", "Sum"),
    ("com.microsoft", "SkipLayerNormalization"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"),
}
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv"}
_ATTENTIONS = {"Attention", "GroupQueryAttention", "MultiHeadAttention", "Softmax"}
# What may stand between a sum of scores and the Softmax over them.
_POINTWISE = {"Add", "Cast", "Clip", "Div", "Identity", "Max", "Min", "Mul", "Sub", "Where"}
# What a cache may pass through on its way out.
_MOVES = {"Cast", "Concat", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulNBits", "Attention"} | _CONVOLUTIONS


@dataclass(frozen=True)
class Block:
    """What lies between a residual stream's value and the Add that joins the two again.

    Attributes:
        output: name of the sum.
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


def find_blocks(graph: gs.Graph, shapes: Shapes) -> tuple[Block, ...]:
    """Residual blocks that hold weights, in data order."""
    order = {id(node): at for at, node in enumerate(graph.nodes)}
    return tuple(_blocks(graph, shapes, order))


def _blocks(graph: gs.Graph, shapes: Shapes, order: dict[int, int]) -> Iterator[Block]:
    given_out = {tensor.name for tensor in graph.outputs}
    scores = _sums_of_scores(graph)
    for node in graph.nodes:
        if (node.domain or "", node.op) not in _ADDS or (node.op == "Sum" and len(node.inputs) != 2):
            continue
        first, second = node.inputs[:2]
        if isinstance(first, gs.Constant) or isinstance(second, gs.Constant):
            continue
        # The operand that is made earlier can only be the one that bypasses.
        stream, branch = sorted((first, second), key=lambda tensor: _made_at(tensor, order))
        if _differ(shapes, stream.name, node.outputs[0].name) or id(node) in scores:
            # Masks and position biases are added to scores, and depend on each other from layer to layer.
            continue
        region = _between(stream, branch, order)
        if region is None or not any(inner.op in _PRODUCTS for inner in region):
            continue
        own = _exclusive(region, node, given_out)
        weights = {
            tensor.name: elements(tensor)
            for inner in own
            for tensor in inner.inputs
            if isinstance(tensor, gs.Constant) and np.dtype(tensor.dtype) not in POSITIONS
        }
        yield Block(
            output=node.outputs[0].name,
            stream=stream.name,
            branch=branch.name,
            inner=tuple(inner.outputs[0].name for inner in own),
            params=sum(weights.values()),
            role=_role(region),
            pinned=_pinned(node, stream, region, shapes, given_out),
        )


def _differ(shapes: Shapes, first: str, second: str) -> bool:
    return first in shapes and second in shapes and shapes[first] != shapes[second]


def _sums_of_scores(graph: gs.Graph) -> set[int]:
    """Nodes whose results reach, entry by entry, a Softmax that weighs values."""
    found: set[int] = set()
    queue = [node for node in graph.nodes if node.op == "Softmax" and _weighs(node)]
    while queue:
        for tensor in queue.pop().inputs:
            made_by = tensor.inputs[0] if tensor.inputs else None
            if made_by is not None and made_by.op in _POINTWISE and id(made_by) not in found:
                found.add(id(made_by))
                queue.append(made_by)
    return found


def _weighs(softmax: gs.Node) -> bool:
    queue = [softmax]
    while queue:
        for reader in queue.pop().outputs[0].outputs:
            if reader.op in {"MatMul", "FusedMatMul", "Einsum"}:
                return not any(isinstance(tensor, gs.Constant) for tensor in reader.inputs)
            if reader.op in _POINTWISE | {"Dropout"}:
                queue.append(reader)
    return False


def _made_at(tensor: gs.Tensor, order: dict[int, int]) -> int:
    return order.get(id(tensor.inputs[0]), -1) if tensor.inputs else -1


def _between(stream: gs.Tensor, branch: gs.Tensor, order: dict[int, int]) -> list[gs.Node] | None:
    """Nodes that compute `branch`, back to `stream`, in data order; None where `branch` does not come from it."""
    start = _made_at(stream, order)
    source = stream.inputs[0] if stream.inputs else None
    if source is None and len(stream.outputs) < 2:
        return None
    if source is not None and sum(len(tensor.outputs) for tensor in source.outputs) < 2:
        # Nothing but the sum reads it.
        return None
    found: dict[int, gs.Node] = {}
    queue, reached = [branch], False
    while queue:
        tensor = queue.pop()
        made_by = tensor.inputs[0] if tensor.inputs else None
        # A fused sum gives out its normalised value beside the stream's own.
        if tensor is stream or (made_by is not None and made_by is source):
            reached = True
            continue
        # What was made before the stream's value (masks, positions) is fetched from outside.
        if made_by is None or id(made_by) in found or order.get(id(made_by), -1) <= start:
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


def _role(region: list[gs.Node]) -> str:
    if any(node.op in _ATTENTIONS for node in region):
        return "attention"
    return "convolution" if any(node.op in _CONVOLUTIONS for node in region) else "feed-forward"


def _pinned(node: gs.Node, stream: gs.Tensor, region: list[gs.Node], shapes: Shapes, given_out: set[str]) -> str:
    if node.op not in {"Add", "Sum"}:
        return f"the residual is added inside {node.op}"
    if stream.name not in shapes or node.outputs[0].name not in shapes:
        return "its shapes were not observed"
    public = next(_given_out(region, node, given_out), None)
    return "" if public is None else f"graph output {public!r} is computed inside it"


def _given_out(region: list[gs.Node], add: gs.Node, given_out: set[str]) -> Iterator[str]:
    """Outputs of the graph that the region computes, or that are only a move away from it."""
    inside = {id(add), *map(id, region)}
    queue = list(region)
    seen = set(inside)
    while queue:
        for tensor in queue.pop().outputs:
            if tensor.name in given_out:
                yield tensor.name
            for reader in tensor.outputs:
                if id(reader) not in seen and reader.op in _MOVES:
                    seen.add(id(reader))
                    queue.append(reader)
