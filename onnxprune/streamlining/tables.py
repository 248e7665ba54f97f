"""Constants that are added to looked-up rows are added to the table: position and type embeddings become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.rewrite import substitute
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

Array = np.ndarray[Any, Any]

# Words, places, types and one more.
_DEEPEST = 4


def _carry_out(model: Model, _: Wish) -> Done:
    places = 0
    outputs = {id(tensor) for tensor in model.graph.outputs}
    for node in list(model.graph.nodes):
        if node.op != "Add" or node.domain or id(node.outputs[0]) in outputs:
            continue
        for slot in (0, 1):
            row = _row(node.inputs[slot], node.inputs[1 - slot].shape, model.overridable)
            table = None if row is None else _table(node.inputs[1 - slot], len(row), outputs, model.overridable)
            if row is None or table is None:
                continue
            held = numbers(table)
            with np.errstate(over="ignore"):
                added = (held.astype(np.float64) + row).astype(held.dtype)
            if not np.isfinite(added).all():
                continue
            table.values = added
            substitute(node.outputs[0], node.inputs[1 - slot])
            node.inputs.clear()
            node.outputs.clear()
            places += 1
            break
    return Done(places)


def _row(tensor: gs.Tensor, partner: Sequence[Any] | None, overridable: frozenset[str]) -> Array | None:
    """A constant that is the same for every row: [width]."""
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable:
        return None
    held = numbers(tensor)
    # Leading axes of 1 could give the sum an axis more than its partner has.
    fits = held.ndim == 1 or (partner is not None and held.ndim <= len(partner))
    if held.dtype.kind != "f" or not held.ndim or held.size != held.shape[-1] or not fits:
        return None
    return held.reshape(-1).astype(np.float64)


def _table(
    tensor: gs.Tensor, width: int, outputs: set[int], overridable: frozenset[str], depth: int = 0
) -> gs.Constant | None:
    """The float table [rows, width] that a tensor's rows come from, if they are read for nothing else."""
    node = producer(tensor)
    if node is None or node.domain or len(tensor.outputs) != 1 or id(tensor) in outputs:
        return None
    if node.op == "Add" and depth < _DEEPEST:
        found = (_table(each, width, outputs, overridable, depth + 1) for each in node.inputs)
        tables = [table for table in found if table is not None]
        # The fewest rows: the least to write.
        return min(tables, key=lambda table: int(table.shape[0]), default=None)
    if node.op != "Gather" or int(node.attrs.get("axis", 0)) != 0 or isinstance(node.inputs[1], gs.Constant):
        return None
    table = node.inputs[0]
    if not isinstance(table, gs.Constant) or table.name in overridable or len(table.outputs) != 1:
        return None
    if len(table.shape) != 2 or int(table.shape[1]) != width or numbers(table).dtype.kind != "f":
        return None
    return table


TABLES = Rewrite(
    name="tables",
    what=("constant added to a table", "constants added to tables"),
    carry_out=_carry_out,
)
