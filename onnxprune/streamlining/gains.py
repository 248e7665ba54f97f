"""Gains of channels move into the linears that alone read them, row by row of their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers
from onnxprune.model import Model
from onnxprune.rewrite import substitute
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

Array = np.ndarray[Any, Any]


def _carry_out(model: Model, _: Wish) -> Done:
    places, kept = 0, []
    outputs = {id(tensor) for tensor in model.graph.outputs}
    for node in list(model.graph.nodes):
        found = _gain_of(node, model.overridable)
        if found is None or id(node.outputs[0]) in outputs:
            continue
        slot, gain = found
        out, readers = node.outputs[0], list(node.outputs[0].outputs)
        scaled = [_scaled(reader, out, gain, model.overridable) for reader in readers]
        if not any(weight is not None for weight in scaled):
            continue
        if any(weight is None for weight in scaled):
            why = "a gain of channels stays: not all that reads it are linears with float weights of their own"
            kept.append((out.name, why))
            continue
        for reader, weight in zip(readers, scaled, strict=True):
            reader.inputs[1].values = weight
        substitute(out, node.inputs[slot])
        node.inputs.clear()
        node.outputs.clear()
        places += 1
    return Done(places, tuple(kept))


def _gain_of(node: gs.Node, overridable: frozenset[str]) -> tuple[int, Array] | None:
    """The operand that is scaled, and the factors of its last axis [channels]."""
    if node.op != "Mul" or node.domain:
        return None
    for slot in (0, 1):
        other = node.inputs[1 - slot]
        if isinstance(node.inputs[slot], gs.Constant) or not isinstance(other, gs.Constant):
            continue
        # One number for each channel of a partner that has as many, so that nothing is spread.
        shape = node.inputs[slot].shape
        if other.name in overridable or len(other.shape) != 1 or not shape or shape[-1] != other.shape[0]:
            continue
        held = numbers(other)
        if held.dtype.kind == "f":
            return slot, held.astype(np.float64)
    return None


def _scaled(node: gs.Node, tensor: gs.Tensor, gain: Array, overridable: frozenset[str]) -> Array | None:
    """A linear's weight for what is not scaled before; None where it has none of its own."""
    if node.op not in {"Gemm", "MatMul"} or node.domain or node.inputs[0] is not tensor or node.inputs[1] is tensor:
        return None
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or weight.name in overridable or len(weight.outputs) != 1:
        return None
    held = numbers(weight)
    if held.dtype.kind != "f" or held.ndim != 2 or node.attrs.get("transA", 0):
        return None
    across = bool(node.attrs.get("transB", 0))
    if held.shape[1 if across else 0] != len(gain):
        return None
    with np.errstate(over="ignore"):
        values: Array = (held.astype(np.float64) * (gain if across else gain[:, None])).astype(held.dtype)
    return values if np.isfinite(values).all() else None


GAINS = Rewrite(
    name="gains",
    what=("gain moved into weights", "gains moved into weights"),
    carry_out=_carry_out,
)
