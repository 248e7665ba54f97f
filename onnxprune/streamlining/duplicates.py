"""What is computed twice is computed once: equal operators on equal operands, in all layers."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from onnxprune.graph import elements, numbers
from onnxprune.model import Model
from onnxprune.rewrite import substitute
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

# What gives another answer each time.
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
# Runtimes fuse these with their one reader.
_FUSED_BY_READER = {"DequantizeLinear"}
# Constants up to this size are compared by value: larger ones are weights, which are shared where they are equal.
_MOST_ELEMENTS = 64


def _carry_out(model: Model, _: Wish) -> Done:
    graph = model.graph
    bodies = graph.subgraphs(recursive=True)
    outputs = {id(tensor) for holder in (graph, *bodies) for tensor in holder.outputs}
    first: dict[tuple[Any, ...], gs.Node] = {}
    places = 0
    for node in graph.nodes:
        key = _key(node, model.overridable)
        if key is None:
            continue
        known = first.setdefault(key, node)
        if known is node or outputs & {id(out) for out in node.outputs}:
            continue
        for mine, other in zip(node.outputs, known.outputs, strict=True):
            substitute(mine, other)
        node.inputs.clear()
        node.outputs.clear()
        places += 1
    return Done(places)


def _key(node: gs.Node, overridable: frozenset[str]) -> tuple[Any, ...] | None:
    """The same for nodes that give the same; None where they may not."""
    if (
        node.op in _RANDOM
        or node.op in _FUSED_BY_READER
        or not node.outputs
        or any(isinstance(value, gs.Graph) for value in node.attrs.values())
    ):
        return None
    if node.op == "Dropout" and len(node.inputs) > 2:
        return None
    attributes = tuple(sorted((name, _plain(value)) for name, value in node.attrs.items()))
    operands = tuple(_operand(tensor, overridable) for tensor in node.inputs)
    named = tuple(bool(out.name) for out in node.outputs)
    return (node.op, node.domain or "", attributes, operands, named)


def _operand(tensor: gs.Tensor, overridable: frozenset[str]) -> Any:
    small = isinstance(tensor, gs.Constant) and tensor.name not in overridable and elements(tensor) <= _MOST_ELEMENTS
    if not small:
        return id(tensor) if tensor.name else None
    values = numbers(tensor)
    return (values.dtype.str, values.shape, values.tobytes())


def _plain(value: Any) -> Any:
    if isinstance(value, gs.Constant):
        return (value.values.dtype.str, value.values.shape, value.values.tobytes())
    return repr(value)


DUPLICATES = Rewrite(
    name="duplicates",
    what=("operator that another equals", "operators that others equal"),
    carry_out=_carry_out,
)
