"""Small questions about graphs."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

Array = np.ndarray[Any, Any]

# Weights are floats or small integers; int32 and int64 constants are shapes, indices and biases on an integer grid.
_WEIGHT_KINDS = ("f", "V")


def walk(graph: gs.Graph) -> Iterator[tuple[gs.Graph, gs.Node]]:
    """Every node with the graph that holds it, bodies of If, Loop and Scan included, outermost first."""
    for node in graph.nodes:
        yield graph, node
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from walk(value)


def constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Every constant that a node reads or the graph gives out, once each, bodies included."""
    seen: set[int] = set()
    for holder in [graph, *(value for _, node in walk(graph) for value in node.attrs.values())]:
        if not isinstance(holder, gs.Graph):
            continue
        for tensor in [t for node in holder.nodes for t in node.inputs] + list(holder.outputs):
            if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor


def is_weight(constant: gs.Constant) -> bool:
    """Whether a constant holds weights rather than shapes or indices."""
    values = constant._values  # noqa: SLF001 - the type is known without reading the weights
    if hasattr(values, "stored"):
        return True
    dtype = numbers(constant).dtype
    return bool(dtype.kind in _WEIGHT_KINDS or dtype in (np.int8, np.uint8))


def stored_bytes(constant: gs.Constant) -> int:
    """Bytes of a constant in the file; weights are not read."""
    values = constant._values  # noqa: SLF001
    stored = getattr(values, "stored", values)
    return int(stored.nbytes)


def elements(constant: gs.Constant) -> int:
    """Numbers in a constant; weights are not read."""
    return int(np.prod(constant.shape, dtype=np.int64)) if constant.shape else 1


def numbers(constant: gs.Constant) -> Array:
    """The array of a constant; unlike `values` it leaves the constant packed, sparse or mapped as it is stored."""
    values = constant._values  # noqa: SLF001
    array: Array = values.load() if isinstance(values, LazyValues) else values
    return array


def is_floating(constant: gs.Constant) -> bool:
    """Whether the constant holds float16, float32 or float64 numbers."""
    return bool(np.issubdtype(numbers(constant).dtype, np.floating))


def storage(graph: gs.Graph) -> tuple[int, int]:
    """Numbers and bytes of all constants, bodies included; weights are not read."""
    held = list(constants(graph))
    return sum(map(elements, held)), sum(map(stored_bytes, held))


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def circle(graph: gs.Graph) -> gs.Node | None:
    """A node that reads what follows from its own outputs, bodies included; None where all data flows forward."""
    nodes = {id(node): node for _, node in walk(graph)}
    read = {
        name: {id(source) for tensor in node.inputs for source in tensor.inputs if id(source) in nodes}
        for name, node in nodes.items()
    }
    try:
        TopologicalSorter(read).prepare()
    except CycleError as error:
        return nodes[error.args[1][0]]
    return None


def fresh_name(graph: gs.Graph, name: str, taken: set[str] | None = None) -> str:
    """`name`, or the first of `name.1`, `name.2`, … that no tensor of the graph has."""
    used = taken if taken is not None else set(graph.tensors())
    candidate, number = name, 0
    while candidate in used:
        number += 1
        candidate = f"{name}.{number}"
    if taken is not None:
        taken.add(candidate)
    return candidate
