"""Fused attention: value heads that give a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from onnxprune.unchanging.walk import Unchanging

Array = np.ndarray[Any, Any]


def attended(find: Unchanging, node: gs.Node) -> Array | None:
    """Fused attention of separate queries, keys and values: a constant value head gives that constant."""
    if any(tensor.name for tensor in node.inputs[4 if not node.domain else 6 : 6 if not node.domain else 8]):
        return None
    value, out = node.inputs[2], find.shape(node.outputs[0])
    shape = find.shape(value)
    if not value.name or len(shape) != len(out) or len(shape) not in {3, 4}:
        return None
    held = find.alike(value, len(shape) - 2)
    return held if held is not None and held.shape[-1] == out[-1] and held.shape[1:-2] == out[1:-2] else None


def attended_with_weight(find: Unchanging, node: gs.Node) -> Array | None:
    """Fused attention with its own weight [hidden, q + k + v]: a value head of zero weights gives its bias."""
    weight = find.known(node.inputs[1])
    if weight is None or (len(node.inputs) > 4 and node.inputs[4].name) or weight.ndim != 2:
        return None
    width = find.shape(node.outputs[0])[-1]
    return np.asarray(~np.any(weight[:, -width:], axis=0))
