"""Shape arithmetic, evaluated for every observed run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

Array = np.ndarray[Any, Any]
# Shape tensors are short; what is longer is data.
LONGEST = 4096


def _axes(node: gs.Node, inputs: list[Array]) -> tuple[int, ...]:
    held = inputs[1] if len(inputs) > 1 else np.asarray(node.attrs.get("axes", ()), dtype=np.int64)
    return tuple(int(axis) for axis in np.ravel(held))


def _unsqueeze(node: gs.Node, inputs: list[Array]) -> Array:
    axes = _axes(node, inputs)
    rank = inputs[0].ndim + len(axes)
    return np.expand_dims(inputs[0], tuple(axis % rank for axis in axes))


def _squeeze(node: gs.Node, inputs: list[Array]) -> Array:
    axes = _axes(node, inputs)
    return np.squeeze(inputs[0], axis=axes or None)


def _slice(node: gs.Node, inputs: list[Array]) -> Array:
    if len(inputs) < 3:
        return inputs[0][int(node.attrs["starts"][0]) : int(node.attrs["ends"][0])]
    step = int(inputs[4][0]) if len(inputs) > 4 else 1
    return inputs[0][int(inputs[1][0]) : int(inputs[2][0]) : step]


def _divide(_: gs.Node, inputs: list[Array]) -> Array:
    if not np.issubdtype(inputs[0].dtype, np.integer):
        return np.asarray(inputs[0] / inputs[1])
    # ONNX rounds towards zero, numpy down.
    return np.asarray(np.trunc(inputs[0] / inputs[1]).astype(np.int64))


def _cast(node: gs.Node, inputs: list[Array]) -> Array:
    # 6, 7, 12 and 13 are the 32- and 64-bit integers of TensorProto.DataType.
    return inputs[0].astype(np.int64 if node.attrs["to"] in {6, 7, 12, 13} else np.float64)


OPERATORS: dict[str, Callable[[gs.Node, list[Array]], Array]] = {
    "Abs": lambda _, x: np.abs(x[0]),
    "Add": lambda _, x: x[0] + x[1],
    "Cast": _cast,
    "Ceil": lambda _, x: np.ceil(x[0]),
    "Concat": lambda node, x: np.concatenate(x, axis=int(node.attrs["axis"])),
    "Div": _divide,
    "Floor": lambda _, x: np.floor(x[0]),
    "Gather": lambda node, x: np.take(x[0], x[1].astype(np.int64), axis=int(node.attrs.get("axis", 0))),
    "Identity": lambda _, x: x[0],
    "Max": lambda _, x: np.maximum.reduce(x),
    "Min": lambda _, x: np.minimum.reduce(x),
    "Mod": lambda _, x: np.mod(x[0], x[1]),
    "Mul": lambda _, x: x[0] * x[1],
    "Neg": lambda _, x: -x[0],
    "ReduceProd": lambda _, x: np.asarray(np.prod(x[0])),
    "Reshape": lambda _, x: x[0].reshape(x[1].astype(np.int64)),
    "Slice": _slice,
    "Sqrt": lambda _, x: np.sqrt(x[0]),
    "Squeeze": _squeeze,
    "Sub": lambda _, x: x[0] - x[1],
    "Unsqueeze": _unsqueeze,
}


class Values:
    """Evaluates tensors that depend on constants and on observed shapes alone."""

    def __init__(self, shapes: Mapping[str, tuple[tuple[int, ...], ...]], runs: int) -> None:
        self._shapes = shapes
        self._runs = runs
        self._known: dict[str, list[Array] | None] = {}

    def fixed(self, tensor: gs.Tensor) -> Array | None:
        """The value where it is known and the same in every run."""
        values = self.each(tensor)
        if values is None or any(not np.array_equal(values[0], other) for other in values[1:]):
            return None
        return values[0]

    def each(self, tensor: gs.Tensor) -> list[Array] | None:
        """The value in every run; None where it is not known."""
        if tensor.name not in self._known:
            self._known[tensor.name] = None  # a graph has no cycles; a broken one must not hang
            self._known[tensor.name] = self._evaluate(tensor)
        return self._known[tensor.name]

    def _evaluate(self, tensor: gs.Tensor) -> list[Array] | None:
        if isinstance(tensor, gs.Constant):
            short = int(np.prod(tensor.shape, dtype=np.int64)) <= LONGEST
            return [np.asarray(tensor.values)] * self._runs if short else None
        node = tensor.inputs[0] if len(tensor.inputs) else None
        if node is None or node.domain not in {None, "", "ai.onnx"}:
            return None
        return self._sizes(node) if node.op in {"Shape", "Size"} else self._apply(node)

    def _apply(self, node: gs.Node) -> list[Array] | None:
        operator = OPERATORS.get(node.op)
        inputs = [self.each(each) for each in node.inputs if each.name] if operator is not None else []
        known = [each for each in inputs if each is not None]
        if operator is None or not known or len(known) < len(inputs):
            return None
        try:
            with np.errstate(all="ignore"):
                return [np.asarray(operator(node, [each[run] for each in known])) for run in range(self._runs)]
        except (ValueError, IndexError, KeyError, ZeroDivisionError, FloatingPointError):
            return None

    def _sizes(self, node: gs.Node) -> list[Array] | None:
        source = node.inputs[0]
        if isinstance(source, gs.Constant):
            seen: tuple[tuple[int, ...], ...] = (tuple(source.shape),) * self._runs
        elif source.name in self._shapes:
            seen = self._shapes[source.name]
        else:
            return None
        if node.op == "Size":
            return [np.asarray(int(np.prod(shape, dtype=np.int64))) for shape in seen]
        start, end = int(node.attrs.get("start", 0)), node.attrs.get("end")
        return [np.asarray(shape[start : None if end is None else int(end)], dtype=np.int64) for shape in seen]
