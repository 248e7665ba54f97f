"""Clips and rectifiers in front of a quantizer whose integers end where they would: saturation does the same.

A ReLU6 that is quantized between 0 and 6 clips twice. Rounding is monotone, so that what is beyond a bound gets the
integer of the bound, which is the last one there is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers
from onnxprune.model import Model
from onnxprune.rewrite import substitute
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish


def _carry_out(model: Model, _: Wish) -> Done:
    places = 0
    outputs = {id(tensor) for tensor in model.graph.outputs}
    for node in list(model.graph.nodes):
        bounds = _bounds(node, model.overridable)
        if bounds is None or id(node.outputs[0]) in outputs:
            continue
        out = node.outputs[0]
        if not out.outputs or not all(_saturates(reader, out, *bounds, model.overridable) for reader in out.outputs):
            continue
        substitute(out, node.inputs[0])
        node.inputs.clear()
        node.outputs.clear()
        places += 1
    return Done(places)


def _bounds(node: gs.Node, overridable: frozenset[str]) -> tuple[float, float] | None:
    """Between what a node keeps its input; None where it does something else, or a caller says between what."""
    if node.domain or len(node.outputs) != 1:
        return None
    if node.op == "Relu":
        return 0.0, math.inf
    if node.op != "Clip":
        return None
    low, high = float(node.attrs.get("min", -math.inf)), float(node.attrs.get("max", math.inf))
    given: list[float | None] = [low, high]
    for at, tensor in enumerate(node.inputs[1:3]):
        if tensor.name or isinstance(tensor, gs.Constant):
            given[at] = _one(tensor, overridable)
    if given[0] is None or given[1] is None or not given[0] <= given[1]:
        return None
    return given[0], given[1]


def _one(tensor: gs.Tensor, overridable: frozenset[str]) -> float | None:
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable:
        return None
    held = numbers(tensor)
    return float(held.reshape(-1)[0]) if held.size == 1 else None


def _saturates(node: gs.Node, tensor: gs.Tensor, low: float, high: float, overridable: frozenset[str]) -> bool:
    """Whether a quantizer's first integer stands for `low` and all below, its last for `high` and all above."""
    if node.op != "QuantizeLinear" or node.inputs[0] is not tensor or len(node.inputs) < 3 or not node.inputs[2].name:
        return False
    scale, zero = _one(node.inputs[1], overridable), _one(node.inputs[2], overridable)
    if scale is None or zero is None or not scale > 0:
        return False
    kind: np.dtype[Any] = numbers(node.inputs[2]).dtype
    if kind.kind not in "iu":
        return False
    ends = np.iinfo(kind)
    # A step's hundredth of room for the runtime's own rounding of the quotient.
    below = low == -math.inf or low / scale + zero <= ends.min + 0.49
    above = high == math.inf or high / scale + zero >= ends.max - 0.49
    return below and above


CLIPS = Rewrite(
    name="clips",
    what=("clip done by a quantizer's saturation", "clips done by quantizers' saturation"),
    carry_out=_carry_out,
)
