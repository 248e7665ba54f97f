"""Operators that compute each entry from the entries at its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from onnxprune.unchanging.walk import Unchanging

Array = np.ndarray[Any, Any]


def together(find: Unchanging, node: gs.Node) -> Array | None:
    """An operator that computes every entry from its operands' entries there."""
    held = [find.of(tensor) for tensor in node.inputs if tensor.name]
    known = [each for each in held if each is not None]
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*known))) if len(known) == len(held) else None


def times(find: Unchanging, node: gs.Node) -> Array | None:
    """Products: zero where one factor always is."""
    held = together(find, node)
    for tensor in node.inputs:
        zero = find.zero(tensor)
        if zero is not None and zero.any():
            held = zero if held is None else held | zero
    return held


def chosen(find: Unchanging, node: gs.Node) -> Array | None:
    """Where with a constant condition."""
    condition = find.known(node.inputs[0])
    if condition is None:
        return None
    first, second = (find.of(tensor) for tensor in node.inputs[1:3])
    return np.where(condition, False if first is None else first, False if second is None else second)
