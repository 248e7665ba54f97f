"""Whole numbers of a graph as sums of multiples of what is not computed further: how keys are packed from ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer

Array = np.ndarray[Any, Any]

# What moves values or their type and does not change them.
_PLAIN = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
# Larger constants are no radices.
_MOST = 16


@dataclass(frozen=True)
class Form:
    """Σ multiple · atom + constant. An atom is named by the tensor that it is, or by a tensor and a place in it."""

    multiples: Mapping[str, int]
    constant: int = 0

    def plus(self, other: Form, sign: int = 1) -> Form:
        """The sum or difference of two."""
        joined = dict(self.multiples)
        for name, multiple in other.multiples.items():
            joined[name] = joined.get(name, 0) + sign * multiple
        return Form({name: m for name, m in joined.items() if m}, self.constant + sign * other.constant)

    def times(self, factor: int) -> Form:
        """A multiple of it."""
        return Form({name: m * factor for name, m in self.multiples.items() if m * factor}, self.constant * factor)

    @property
    def atom(self) -> str | None:
        """The atom that it is; None where it is more than one alone."""
        return next(iter(self.multiples)) if list(self.multiples.values()) == [1] and not self.constant else None


class Forms:
    """Forms of the tensors of one graph, each found once."""

    def __init__(self) -> None:
        self._found: dict[str, Form] = {}

    def of(self, tensor: gs.Tensor) -> Form:
        """How a tensor's numbers are put together, element by element."""
        # Chains are walked without recursion: they may be as long as a graph.
        pending = [tensor]
        while pending:
            one = pending[-1]
            if one.name in self._found:
                pending.pop()
                continue
            waiting = [t for t in _read(one) if t.name not in self._found]
            if waiting:
                pending += waiting
            else:
                self._found[one.name] = self._one(one)
                pending.pop()
        return self._found[tensor.name]

    def _one(self, tensor: gs.Tensor) -> Form:
        node = producer(tensor)
        if node is None or not _read(tensor):
            return self._place(tensor, node)
        held = [_whole(t) for t in node.inputs]
        first = node.inputs[0]
        if node.op in _PLAIN:
            return self._found[first.name]
        if node.op == "Neg":
            return self._found[first.name].times(-1)
        if node.op in {"Add", "Sub"}:
            parts = [
                Form({}, value) if value is not None else self._found[t.name]
                for t, value in zip(node.inputs, held, strict=True)
            ]
            return parts[0].plus(parts[1], 1 if node.op == "Add" else -1)
        factor, other = (held[1], first) if held[1] is not None else (held[0], node.inputs[1])
        return self._found[other.name].times(factor or 0)

    def _place(self, tensor: gs.Tensor, node: gs.Node | None) -> Form:
        """An atom: a tensor, one place of its last axes, or a weighted sum over the last one."""
        if node is None:
            return Form({tensor.name: 1})
        summed = _weighted(node)
        if summed is not None:
            source, weights = summed
            return Form({_at(source, -1, at): int(w) for at, w in enumerate(weights) if w})
        place = _chosen(node, tensor)
        return Form({tensor.name if place is None else _at(*place): 1})


def _read(tensor: gs.Tensor) -> list[gs.Tensor]:
    """The tensors that a tensor is a sum or multiple of; none where it is an atom."""
    node = producer(tensor)
    if node is None:
        return []
    first = node.inputs[0] if node.inputs else None
    if node.op in _PLAIN | {"Neg"} and not isinstance(first, gs.Constant):
        return [first]
    if node.op in {"Add", "Sub", "Mul"} and len(node.inputs) == 2:
        known = [_whole(t) is not None for t in node.inputs]
        constant = [isinstance(t, gs.Constant) for t in node.inputs]
        if constant == known and not all(known) and (node.op != "Mul" or any(known)):
            return [t for t, is_known in zip(node.inputs, known, strict=True) if not is_known]
    return []


def _whole(tensor: gs.Tensor) -> int | None:
    """The one whole number of a constant; None where it is none."""
    values = _vector(tensor)
    return int(values[0]) if values is not None and len(values) == 1 else None


def _vector(tensor: gs.Tensor) -> Array | None:
    if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape)) > _MOST:
        return None
    values = numbers(tensor)
    return values.ravel() if values.dtype.kind in "iu" else None


def _weighted(node: gs.Node) -> tuple[gs.Tensor, Array] | None:
    """Of a product with one column, or of the sum of a row of products: what is weighed, and how."""
    if node.op == "MatMul":
        weights = _vector(node.inputs[1])
        column = isinstance(node.inputs[1], gs.Constant) and list(node.inputs[1].shape[1:]) in ([], [1])
        return (node.inputs[0], weights) if weights is not None and column else None
    if node.op == "ReduceSum":
        product = producer(node.inputs[0])
        axes = node.attrs.get("axes") if len(node.inputs) < 2 else _vector(node.inputs[1])
        if (
            product is None
            or product.op != "Mul"
            or axes is None
            or list(axes) not in ([-1], [_rank(node.inputs[0]) - 1])
        ):
            return None
        for own, other in (product.inputs, product.inputs[::-1]):
            weights = _vector(own)
            if weights is not None and not isinstance(other, gs.Constant):
                return other, weights
    return None


def _chosen(node: gs.Node, tensor: gs.Tensor) -> tuple[gs.Tensor, int, int] | None:
    """The tensor, axis and place that one value of an axis is taken from."""
    source = node.inputs[0]
    if node.op == "Gather" and not isinstance(source, gs.Constant):
        at = _whole(node.inputs[1])
        return None if at is None else (source, int(node.attrs.get("axis", 0)), at)
    if node.op == "Split":
        sizes = node.attrs.get("split") if len(node.inputs) < 2 else _vector(node.inputs[1])
        even = sizes is None and source.shape is not None
        axis = int(node.attrs.get("axis", 0))
        if even and source.shape[axis] == len(node.outputs):
            sizes = [1] * len(node.outputs)
        at = next(at for at, out in enumerate(node.outputs) if out is tensor)
        return (source, axis, at) if sizes is not None and set(sizes) == {1} else None
    if node.op == "Slice" and len(node.inputs) >= 4:
        start, end, along = (_whole(t) for t in node.inputs[1:4])
        if start is not None and along is not None and end == start + 1 and end != 0:
            return source, along, start
    return None


def _at(source: gs.Tensor, axis: int, at: int) -> str:
    rank = _rank(source)
    axis = axis - rank if axis >= 0 and rank else axis
    size = source.shape[axis] if rank and -rank <= axis < 0 else None
    return f"{source.name}[{axis}:{at + size if isinstance(size, int) and at < 0 else at}]"


def _rank(tensor: gs.Tensor) -> int:
    return len(tensor.shape) if tensor.shape is not None else 0
