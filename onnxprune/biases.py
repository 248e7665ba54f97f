"""A constant vector added to what a linear node gives out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import fresh_name

Array = np.ndarray[Any, Any]


def add_bias(graph: gs.Graph, name: str, bias: Array) -> gs.Tensor | None:
    """Add `bias` [n] to the output `name` of a MatMul or Gemm, into a bias that it has for itself where it can.

    Returns:
        The tensor that took over the node's output where an Add had to be made, else None.

    Raises:
        Declined: no such node.
    """
    node = next((node for node in graph.nodes if node.outputs and node.outputs[0].name == name), None)
    if node is None:
        raise Declined(f"the model has no tensor {name!r}")
    held = _bias_of(node, graph)
    if held is not None:
        values = held.values
        held.values = (values.astype(np.float64) + bias).astype(values.dtype)
        return None
    out = node.outputs[0]
    weight = next((t for t in node.inputs if isinstance(t, gs.Constant)), None)
    dtype = np.float32 if weight is None else weight.values.dtype
    raw = gs.Variable(fresh_name(graph, f"{name}.raw"))
    constant = gs.Constant(fresh_name(graph, f"{name}.bias"), bias.astype(dtype))
    node.outputs.clear()
    node.outputs.append(raw)
    add = gs.Node("Add", name=f"{name}.biased", inputs=[raw, constant], outputs=[out])
    graph.nodes.insert(next(at for at, each in enumerate(graph.nodes) if each is node) + 1, add)
    return raw


def _bias_of(node: gs.Node, graph: gs.Graph) -> gs.Constant | None:
    """A constant vector that is added already and belongs to this node alone."""
    if node.op == "Gemm" and len(node.inputs) > 2:
        bias = node.inputs[2]
        alone = isinstance(bias, gs.Constant) and len(bias.outputs) == 1 and float(node.attrs.get("beta", 1.0)) == 1.0
        return bias if alone and len(bias.shape) == 1 else None
    out = node.outputs[0]
    if len(out.outputs) != 1 or out.outputs[0].op != "Add" or any(out is tensor for tensor in graph.outputs):
        return None
    other = next((t for t in out.outputs[0].inputs if t is not out), None)
    alone = isinstance(other, gs.Constant) and len(other.outputs) == 1 and len(other.shape) == 1
    return other if alone else None
