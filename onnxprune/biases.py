"""A constant vector added to what linear nodes give out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import fresh_name

Array = np.ndarray[Any, Any]
# Operators with a bias input of their own, after which an Add would be one node too many.
_BIAS_SLOT = {"Conv": 2, "FusedConv": 2, "Gemm": 2}
# Fused sums of com.microsoft that take the bias of one of their two summands.
_FUSED_SLOT = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}


def add_bias(
    graph: gs.Graph, names: Sequence[str], bias: Array, *, overridable: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Add one vector to the outputs of nodes that share a weight: MatMul, Gemm or Conv.

    It goes into the bias that they have already, where nothing else reads that; else each gets one.

    Args:
        graph: edited in place.
        names: of the nodes' outputs.
        bias: [n], on the last axis, of a convolution on the channels.
        overridable: initializers that a caller may replace, so that nothing can be hidden in them.

    Returns:
        Tensors that took over a node's output because an Add had to be made: new name -> name of the output.

    Raises:
        Declined: no such node.
    """
    made_by = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
    missing = [name for name in names if name not in made_by]
    if missing:
        raise Declined(f"the model has no tensor {missing[0]!r}")
    nodes = [made_by[name] for name in names]
    held = _common_bias(nodes, graph)
    if held is not None and held.name not in overridable and held.values.shape == bias.shape:
        values = held.values
        held.values = (values.astype(np.float64) + bias).astype(values.dtype)
        return {}
    taken = set(graph.tensors())
    dtype = next((t.values.dtype for t in nodes[0].inputs if isinstance(t, gs.Constant)), np.dtype(np.float32))
    constant = gs.Constant(fresh_name(graph, f"{names[0]}.bias", taken), bias.astype(dtype))
    raw: dict[str, str] = {}
    added: dict[int, gs.Node] = {}
    for node in nodes:
        slot = _BIAS_SLOT.get(node.op)
        if slot is not None and len(node.inputs) == slot:
            node.inputs.append(constant)
            continue
        out = node.outputs[0]
        before = gs.Variable(fresh_name(graph, f"{out.name}.raw", taken))
        values = constant
        if slot is not None and node.op != "Gemm":
            # After a convolution the vector stands on the channels.
            shape = (-1, *(1 for _ in _kernel(node)))
            values = gs.Constant(fresh_name(graph, f"{out.name}.bias", taken), constant.values.reshape(shape))
        node.outputs.clear()
        node.outputs.append(before)
        added[id(node)] = gs.Node("Add", name=f"{out.name}.biased", inputs=[before, values], outputs=[out])
        raw[before.name] = out.name
    if added:
        graph.nodes = [one for node in graph.nodes for one in (node, added.get(id(node))) if one is not None]
    return raw


def has_bias(graph: gs.Graph, names: Sequence[str], *, overridable: frozenset[str] = frozenset()) -> bool:
    """Whether `add_bias` to these nodes' outputs would need no operator more."""
    made_by = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
    held = _common_bias([made_by[name] for name in names], graph)
    return held is not None and held.name not in overridable


def _kernel(node: gs.Node) -> tuple[int, ...]:
    return tuple(node.inputs[1].shape[2:])


def _common_bias(nodes: Sequence[gs.Node], graph: gs.Graph) -> gs.Constant | None:
    """The constant vector that is added behind these very nodes and nowhere else."""
    given_out = {id(tensor) for tensor in graph.outputs}
    found: gs.Constant | None = None
    readers: set[int] = set()
    for node in nodes:
        bias, reader = _own_bias(node, given_out)
        if bias is None or reader is None or (found is not None and bias is not found):
            return None
        found = bias
        readers.add(id(reader))
    if found is None or {id(reader) for reader in found.outputs} != readers or id(found) in given_out:
        return None
    return found


def _own_bias(node: gs.Node, given_out: set[int]) -> tuple[gs.Constant | None, gs.Node | None]:
    slot = _BIAS_SLOT.get(node.op)
    if slot is not None and len(node.inputs) > slot:
        bias = node.inputs[slot]
        plain = isinstance(bias, gs.Constant) and len(bias.shape) == 1 and float(node.attrs.get("beta", 1.0)) == 1.0
        return (bias, node) if plain else (None, None)
    out = node.outputs[0]
    if slot is not None or len(out.outputs) != 1 or id(out) in given_out:
        return None, None
    reader = out.outputs[0]
    if reader.op in _FUSED_SLOT and len(reader.inputs) > _FUSED_SLOT[reader.op]:
        other = reader.inputs[_FUSED_SLOT[reader.op]]
    elif reader.op == "Add":
        other = next((tensor for tensor in reader.inputs if tensor is not out), None)
    else:
        return None, None
    plain = isinstance(other, gs.Constant) and len(other.shape) == 1
    return (other, reader) if plain else (None, None)
