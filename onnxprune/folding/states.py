"""Recurrent operators that begin with zeros: an absent state says that, too, and nothing has to compute its shape."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer

_RECURRENT = {"GRU", "LSTM", "RNN"}
# initial_h, and an LSTM's initial_c.
_STATES = (5, 6)
# Operators that give nothing but entries of their first input.
_VIEWS = {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}


def drop_zero_states(graph: gs.Graph, overridable: frozenset[str] = frozenset()) -> int:
    """Leave out initial states of zeros.

    Args:
        graph: edited in place.
        overridable: initializers that a caller may replace.

    Returns:
        How many went.
    """
    dropped = 0
    for node in graph.nodes:
        for slot in _STATES if node.op in _RECURRENT and not node.domain else ():
            if slot < len(node.inputs) and node.inputs[slot].name and _is_zero(node.inputs[slot], overridable):
                node.inputs[slot] = gs.Variable.empty()
                dropped += 1
    return dropped


def _is_zero(tensor: gs.Tensor, overridable: frozenset[str]) -> bool:
    if isinstance(tensor, gs.Constant):
        return tensor.name not in overridable and not numbers(tensor).any()
    node = producer(tensor)
    if node is None or node.domain:
        return False
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return value is None or not np.any(value.values)
    return node.op in _VIEWS and _is_zero(node.inputs[0], overridable)
