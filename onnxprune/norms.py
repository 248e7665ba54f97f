"""Norms, and the linears that alone read what they give out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.weights import Use, Weight, find_weights

Array = np.ndarray[Any, Any]

# Where a norm's gain and bias stand among its inputs.
_VECTORS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,),
    ("com.microsoft", "SimplifiedLayerNormalization"): (1,),
    ("com.microsoft", "SkipLayerNormalization"): (2, 3),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): (2,),
}


@dataclass(frozen=True)
class Norm:
    """A tensor [..., k] that constants scale and shift last, and all that reads it.

    Attributes:
        output: the tensor.
        vectors: node and slot of each constant [k] that an output channel is a multiple of.
        readers: linears, each with a weight of its own.
    """

    output: gs.Tensor
    vectors: tuple[tuple[gs.Node, int], ...]
    readers: tuple[tuple[Weight, Use], ...]

    @property
    def width(self) -> int:
        """How many channels it has."""
        node, slot = self.vectors[0]
        return int(node.inputs[slot].shape[-1])


def find_norms(model: Model) -> tuple[tuple[Norm, ...], dict[str, str]]:
    """Norms whose channels can be scaled at no cost, and why others cannot, by tensor, in data order."""
    weights = find_weights(model.graph, model.overridable)
    reading: dict[str, list[tuple[Weight, Use]]] = {}
    for weight in weights:
        for use in weight.uses:
            if use.role == "linear" and use.slot == 1:
                reading.setdefault(use.node.inputs[0].name, []).append((weight, use))
    found: list[Norm] = []
    why: dict[str, str] = {}
    tensors = model.graph.tensors()
    for name, readers in reading.items():
        try:
            found.append(_norm(model, tensors[name], readers))
        except Declined as reason:
            why[name] = str(reason)
    return tuple(found), why


def _norm(model: Model, tensor: gs.Tensor, readers: list[tuple[Weight, Use]]) -> Norm:
    vectors = _vectors(tensor, model.overridable)
    if not vectors:
        raise Declined("no norm gives it out")
    if any(out is tensor for out in model.graph.outputs):
        raise Declined("it is an output of the graph, too")
    others = [node for node in tensor.outputs if all(node is not use.node for _, use in readers)]
    if others:
        raise Declined(f"also read by {others[0].op} {others[0].outputs[0].name!r}, which wants it as it is")
    for weight, use in readers:
        shared = len(weight.uses) > 1 or weight.others or weight.given_out
        if shared or use.views or len(weight.constant.shape) != 2 or use.node.attrs.get("transA", 0):
            raise Declined(f"{use.node.op} {use.name!r} has no plain weight of its own")
    return Norm(tensor, vectors, tuple(readers))


def _vectors(tensor: gs.Tensor, overridable: frozenset[str]) -> tuple[tuple[gs.Node, int], ...]:
    node = producer(tensor)
    if node is None:
        return ()
    slots = _VECTORS.get((node.domain or "", node.op))
    if slots is not None:
        own = node.outputs[0] is tensor and node.attrs.get("axis", -1) == -1
        given = tuple((node, slot) for slot in slots if len(node.inputs) > slot and node.inputs[slot].name)
        return given if own and all(_vector(each, at, overridable) for each, at in given) else ()
    return _spelled_out(tensor, overridable)


def _spelled_out(tensor: gs.Tensor, overridable: frozenset[str]) -> tuple[tuple[gs.Node, int], ...]:
    """A product with a constant vector, and perhaps a sum with another behind it, as exporters write norms."""
    node = producer(tensor)
    found: list[tuple[gs.Node, int]] = []
    if node is not None and node.op == "Add" and not node.domain:
        slot = next((at for at in (0, 1) if _vector(node, at, overridable)), None)
        if slot is None or len(node.inputs[1 - slot].outputs) != 1:
            return ()
        found.append((node, slot))
        node = producer(node.inputs[1 - slot])
    if node is None or node.op != "Mul" or node.domain:
        return ()
    slot = next((at for at in (0, 1) if _vector(node, at, overridable)), None)
    if slot is None or isinstance(node.inputs[1 - slot], gs.Constant):
        return ()
    return (*found, (node, slot))


def _vector(node: gs.Node, slot: int, overridable: frozenset[str]) -> bool:
    tensor = node.inputs[slot]
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable:
        return False
    return len(tensor.shape) == 1 and tensor.shape[0] > 1 and numbers(tensor).dtype == np.float32
