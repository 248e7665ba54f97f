"""What a graph does with its inputs: which index a table of which size, and which start a recurrent layer.

The data is followed forward from each input, node by node in the graph's own (topological) order, through operators
that move values or shift them by constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import elements, producer
from onnxprune.ngrams.encoders import is_encoder, keys_of

# Names of inputs, each with the least and greatest number that was added on the way.
Shifts = Mapping[str, tuple[int, int]]

# Operators that hand on the values of some operands: the positions of those.
_MOVERS: Mapping[str, Sequence[int]] = {
    **dict.fromkeys(
        [
            "Cast",
            "CastLike",
            "Clip",
            "Expand",
            "Flatten",
            "Gather",
            "GatherElements",
            "GatherND",
            "Identity",
            "Pad",
            "Reshape",
            "ReverseSequence",
            "Slice",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Trilu",
            "Unsqueeze",
        ],
        (0,),
    ),
    **dict.fromkeys(("Concat", "Max", "Min"), range(64)),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}
# Operands of a fused embedding that are indices, with the operand that is their table.
_FUSED_TABLES = {0: 2, 1: 4, 8: 3}
_FUSED = {"EmbedLayerNormalization", "QEmbedLayerNormalization"}
_RECURRENT = {"GRU", "LSTM", "RNN"}
# Constants that are larger than this are not read for the numbers that they add.
_MOST_ELEMENTS = 1 << 20


@dataclass
class Uses:
    """What becomes of a graph's inputs, by name.

    Attributes:
        bounds: (least index, one past the greatest) that every table takes that the input is looked up in.
        states: inputs that are the initial state of a recurrent layer.
    """

    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    states: set[str] = field(default_factory=set)


def input_uses(graph: gs.Graph) -> Uses:
    """Follow every input through the graph and its bodies; linear in the number of nodes."""
    uses = Uses()
    _follow(graph, {tensor.name: {tensor.name: (0, 0)} for tensor in graph.inputs}, uses)
    return uses


def _follow(graph: gs.Graph, known: dict[str, Shifts], uses: Uses) -> None:
    for node in graph.nodes:
        shifts = [known.get(tensor.name, {}) for tensor in node.inputs]
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            _follow_bodies(node, shifts, known, uses)
        elif any(shifts):
            _note(node, shifts, uses)
            handed = _handed_on(node, shifts)
            if handed:
                known.update({tensor.name: handed for tensor in node.outputs})


def _follow_bodies(node: gs.Node, shifts: Sequence[Shifts], known: dict[str, Shifts], uses: Uses) -> None:
    for body in node.attrs.values():
        if not isinstance(body, gs.Graph):
            continue
        # Loop: iteration number and condition come first; what it gives out follows the condition.
        if node.op in {"Loop", "Scan"}:
            known.update({inner.name: given for inner, given in zip(body.inputs, shifts, strict=False) if given})
        _follow(body, known, uses)
        results = body.outputs[1:] if node.op == "Loop" else body.outputs
        for outer, inner in zip(node.outputs, results, strict=False):
            known[outer.name] = _joined([known.get(outer.name, {}), known.get(inner.name, {})])


def _note(node: gs.Node, shifts: Sequence[Shifts], uses: Uses) -> None:
    """Record which inputs are indices or states here."""
    for at, size in _tables(node):
        for name, (least, greatest) in (shifts[at] if at < len(shifts) else {}).items():
            low, high = uses.bounds.get(name, (0, np.iinfo(np.int64).max))
            uses.bounds[name] = (max(low, -least), min(high, size - greatest))
    if node.op in _RECURRENT:
        uses.states.update(name for given in shifts[5:7] for name in given)


def _tables(node: gs.Node) -> Iterable[tuple[int, int]]:
    """Operands that are indices, with the size of what they index."""
    size: int | None = None
    if node.op in {"Gather", "GatherElements", "GatherBlockQuantized"}:
        size = _size(node.inputs[0], int(node.attrs.get("axis", node.attrs.get("gather_axis", 0))))
    elif node.op == "GatherND":
        size = _size(node.inputs[0], int(node.attrs.get("batch_dims", 0)))
    elif node.op == "OneHot":
        yield from ((0, int(depth)) for depth in _numbers(node.inputs[1]) if np.isfinite(depth))
    elif node.op == "Equal":
        yield from ((at, length) for at in (0, 1) if (length := _counted(node.inputs[1 - at])) > 1)
    elif node.op in _FUSED:
        for at, table in _FUSED_TABLES.items():
            found = _size(node.inputs[table], 0) if at < len(node.inputs) else None
            if found is not None:
                yield at, found
    if size is not None:
        yield 1, size
    if (known := _looked_up(node)) is not None:
        yield 0, known


def _looked_up(node: gs.Node) -> int | None:
    """One past the greatest number that a table of keys or a pool of n-grams knows."""
    keys = keys_of(node) if is_encoder(node) else np.asarray(node.attrs.get("pool_int64s", ()))
    return int(keys.max()) + 1 if len(keys) else None


def _size(tensor: gs.Tensor, axis: int) -> int | None:
    """Size of an axis, of constants and of what is unpacked, scaled or reshaped from constants."""
    while not (isinstance(tensor, gs.Constant) or (tensor.shape and isinstance(tensor.shape[axis], int))):
        node = producer(tensor)
        if node is None:
            return None
        if node.op == "Reshape":
            shape = _numbers(node.inputs[1])
            return int(shape[axis]) if len(shape) > axis and shape[axis] > 0 else None
        if node.op == "Transpose" and "perm" in node.attrs:
            axis = node.attrs["perm"][axis]
        elif node.op not in {"Add", "Cast", "Clip", "DequantizeLinear", "Identity", "Mul", "QuantizeLinear"}:
            return None
        tensor = node.inputs[0]
    return int(tensor.shape[axis]) if tensor.shape else None


def _numbers(tensor: gs.Tensor) -> Any:
    if isinstance(tensor, gs.Constant) and elements(tensor) <= _MOST_ELEMENTS:
        return np.atleast_1d(tensor.values)
    return np.empty(0)


def _counted(tensor: gs.Tensor) -> int:
    """How many numbers a constant 0, 1, 2, … holds: compared with it, an index becomes one-hot."""
    numbers = _numbers(tensor).reshape(-1)
    return len(numbers) if np.array_equal(numbers, np.arange(len(numbers))) else 0


def _handed_on(node: gs.Node, shifts: Sequence[Shifts]) -> Shifts:
    if node.op in _MOVERS:
        return _joined([shifts[at] for at in _MOVERS[node.op] if at < len(shifts)])
    if node.op == "Add" or (node.op == "Sub" and shifts[0]):
        at = 0 if shifts[0] else 1
        added = _numbers(node.inputs[1 - at])
        # What minus infinity masks is no index any more.
        if added.size and added.dtype.kind in "iuf" and np.isfinite(added).all():
            low, high = int(added.min()), int(added.max())
            low, high = (-high, -low) if node.op == "Sub" else (low, high)
            return {name: (least + low, greatest + high) for name, (least, greatest) in shifts[at].items()}
    return {}


def _joined(several: Sequence[Shifts]) -> Shifts:
    joined: dict[str, tuple[int, int]] = {}
    for shifts in several:
        for name, (least, greatest) in shifts.items():
            low, high = joined.get(name, (least, greatest))
            joined[name] = (min(low, least), max(high, greatest))
    return joined
