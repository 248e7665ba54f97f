"""Small questions that every fold asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import elements, numbers

Array = np.ndarray[Any, Any]


def floats(tensor: gs.Tensor, overridable: frozenset[str]) -> Array | None:
    """The numbers of a constant of full precision that nobody can replace; None of everything else."""
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable:
        return None
    held = numbers(tensor)
    return held if held.dtype in (np.float32, np.float64) else None


def number(tensor: gs.Tensor, overridable: frozenset[str]) -> float | None:
    """The one number of a constant; None where it is none or holds several."""
    if not isinstance(tensor, gs.Constant) or elements(tensor) != 1:
        return None
    held = floats(tensor, overridable)
    return None if held is None else float(held.reshape(-1)[0])


def sole_reader(tensor: gs.Tensor, graph: gs.Graph) -> gs.Node | None:
    """The one node that reads a tensor, once; None where others do, a body may, or it is given out."""
    if len(tensor.outputs) != 1 or any(out is tensor for out in graph.outputs):
        return None
    reader: gs.Node = tensor.outputs[0]
    return reader


def private(tensor: gs.Tensor, graph: gs.Graph, overridable: frozenset[str]) -> bool:
    """Whether a weight of full precision is read once, so that it may change."""
    return floats(tensor, overridable) is not None and sole_reader(tensor, graph) is not None


def replace_values(tensor: gs.Constant, values: Array) -> gs.Constant:
    """A constant of the same name and type with other numbers."""
    return gs.Constant(tensor.name, np.ascontiguousarray(values, dtype=numbers(tensor).dtype))


def bypass(node: gs.Node, source: gs.Tensor) -> None:
    """Let all that read a node's output read `source`; the node is left idle."""
    out = node.outputs[0]
    for reader in list(out.outputs):
        reader.inputs = [source if tensor is out else tensor for tensor in reader.inputs]
    node.inputs.clear()
    node.outputs.clear()
