"""Stored integers that stand for floats: on which grid each weight of a quantized graph lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import constants, numbers, producer

Array = np.ndarray[Any, Any]

# Slots of (integers, scale, zero point) in operators that carry them side by side, and the axis of the scales. Where
# weights are stacked by direction, so are scales: one a direction, or [directions, outputs].
_STACKED = frozenset({"DynamicQuantizeLSTM"})
_TRIPLES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "DynamicQuantizeLSTM": ((1, 8, 9, -1), (2, 10, 11, -1)),
    "DynamicQuantizeMatMul": ((1, 2, 3, -1),),
    "MatMulIntegerToFloat": ((1, 3, 5, -1),),
    "QLinearConv": ((3, 4, 5, 0),),
    "QLinearMatMul": ((3, 4, 5, -1),),
}


@dataclass(frozen=True, eq=False)
class Grid:
    """A stored tensor of integers q stands for (q - zero) * scale.

    Attributes:
        scale: float64, broadcasts against the stored tensor.
        zero: float64, likewise.
        low: least integer of the type.
        high: largest integer of the type.
        step: name of the stored scale.
    """

    name: str
    scale: Array
    zero: Array
    low: int
    high: int
    step: str

    def floats(self, stored: Array) -> Array:
        """What the integers stand for."""
        values: Array = (stored.astype(np.float64) - self.zero) * self.scale
        return values

    def integers(self, values: Array, dtype: np.dtype[Any]) -> Array:
        """The nearest integers."""
        whole: Array = np.clip(np.rint(values / self.scale) + self.zero, self.low, self.high).astype(dtype)
        return whole


@dataclass(frozen=True, eq=False)
class _Reading:
    """How one reader scales integers: scale and zero point as they broadcast, and the name of the stored scale."""

    scale: Array
    zero: Array
    step: str


def find_grids(graph: gs.Graph) -> dict[str, Grid]:
    """Weights of int8, uint8 or 4 bits whose every reader scales them alike, by name."""
    found: dict[str, Grid] = {}
    for constant in constants(graph):
        dtype = numbers(constant).dtype
        if dtype.itemsize != 1 or len(constant.shape) < 2 or dtype == np.bool_:
            continue
        seen = list(_readings(constant))
        if not seen or any(one is None for one in seen):
            continue
        first, *others = [one for one in seen if one is not None]
        if any(not _same(one, first) for one in others) or not np.all(first.scale > 0):
            continue
        found[constant.name] = Grid(constant.name, first.scale, first.zero, *_range(dtype), first.step)
    return found


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return int(info.min), int(info.max)
    return (0, 15) if "uint" in dtype.name else (-8, 7)


def _same(one: _Reading, other: _Reading) -> bool:
    return np.array_equal(one.scale, other.scale) and np.array_equal(one.zero, other.zero)


def _readings(tensor: gs.Tensor) -> Iterator[_Reading | None]:
    """(scale, zero) as every reader has it; None where one cannot be told."""
    for node in tensor.outputs:
        for slot, source in enumerate(node.inputs):
            if source is tensor:
                yield _reading(tensor, node, slot)


def _reading(tensor: gs.Tensor, node: gs.Node, slot: int) -> _Reading | None:
    rank = len(tensor.shape) if tensor.shape is not None else 0
    for place, scale_slot, zero_slot, axis in _TRIPLES.get(node.op, ()):
        if slot == place and node.op in _STACKED:
            return _by_direction(_at(node, scale_slot), _at(node, zero_slot))
        if slot == place:
            return _placed(_at(node, scale_slot), _at(node, zero_slot), axis, rank)
    rule, place = _RULES.get(node.op, (None, 0))
    return rule(node, rank) if rule is not None and slot == place else None


def _dequantized(node: gs.Node, rank: int) -> _Reading | None:
    if node.attrs.get("block_size", 0):
        return None
    return _placed(_at(node, 1), _at(node, 2), int(node.attrs.get("axis", 1)), rank)


def _summed(node: gs.Node, rank: int) -> _Reading | None:
    """An integer product or convolution whose sums are scaled behind it."""
    return _placed(_scale_behind(node.outputs[0]), _at(node, 3), -1 if node.op == "MatMulInteger" else 0, rank)


def _transposed(node: gs.Node, rank: int) -> _Reading | None:
    seen = list(_readings(node.outputs[0]))
    behind = seen[0] if len(seen) == 1 else None
    if behind is None:
        return None
    back = np.argsort(node.attrs.get("perm", range(rank)[::-1]))
    scale, zero = (np.transpose(_full(part, rank), back) for part in (behind.scale, behind.zero))
    return _Reading(scale, zero, behind.step)


def _at(node: gs.Node, slot: int) -> gs.Constant | None:
    found = node.inputs[slot] if slot < len(node.inputs) else None
    return found if isinstance(found, gs.Constant) else None


def _floats(constant: gs.Constant) -> Array:
    values: Array = numbers(constant).astype(np.float64)
    return values


def _full(part: Array, rank: int) -> Array:
    return part.reshape((1,) * (rank - part.ndim) + part.shape)


def _placed(step: gs.Constant | None, zero: gs.Constant | None, axis: int, rank: int) -> _Reading | None:
    """One scale and zero point, or one an entry of the axis."""
    if step is None:
        return None
    sizes = [1] * rank
    sizes[axis] = -1
    scale, offset = _floats(step).ravel(), np.zeros(1) if zero is None else _floats(zero).ravel()
    scale, offset = (part.reshape(sizes if part.size > 1 else [1] * rank) for part in (scale, offset))
    return _Reading(scale, offset, step.name)


def _by_direction(step: gs.Constant | None, zero: gs.Constant | None) -> _Reading | None:
    """Scales and zero points [directions] or [directions, outputs] of weights [directions, inputs, outputs]."""
    if step is None:
        return None
    scale = _floats(step)
    offset = np.zeros(len(scale)) if zero is None else _floats(zero)
    return _Reading(scale.reshape(len(scale), 1, -1), offset.reshape(len(offset), 1, -1), step.name)


def _only_reader(tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    readers = list(tensor.outputs)
    return readers[0] if len(readers) == 1 and readers[0].op in ops else None


def _other(node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
    return node.inputs[1] if node.inputs[0] is tensor else node.inputs[0]


def _scale_behind(product: gs.Tensor) -> gs.Constant | None:
    """The weight's scale: of the sums Cast to float and multiplied by it, or by its product with the input's."""
    cast = _only_reader(product, "Cast")
    times = _only_reader(cast.outputs[0], "Mul") if cast is not None else None
    if cast is None or times is None:
        return None
    factor = _other(times, cast.outputs[0])
    if isinstance(factor, gs.Constant):
        return factor
    steps = producer(factor)
    parts = steps.inputs if steps is not None and steps.op == "Mul" else []
    return next((part for part in parts if isinstance(part, gs.Constant)), None)


def _decoded(cast: gs.Node, rank: int) -> _Reading | None:
    """Cast and Mul by a stored scale."""
    times = _only_reader(cast.outputs[0], "Mul")
    factor = None if times is None else _other(times, cast.outputs[0])
    if not isinstance(factor, gs.Constant) or len(factor.shape) > rank:
        return None
    return _Reading(_full(_floats(factor), rank), np.zeros((1,) * rank), factor.name)


def _looked_up(gather: gs.Node, rank: int) -> _Reading | None:
    """Rows looked up as integers, Cast, and multiplied by scales that are looked up alike."""
    cast = _only_reader(gather.outputs[0], "Cast")
    times = _only_reader(cast.outputs[0], "Mul") if cast is not None else None
    if cast is None or times is None:
        return None
    source = producer(_other(times, cast.outputs[0]))
    if source is not None and source.op == "Cast":
        source = producer(source.inputs[0])
    step = _at(source, 0) if source is not None and source.op == "Gather" else None
    if source is None or step is None or source.inputs[1] is not gather.inputs[1] or len(step.shape) > rank:
        return None
    if int(source.attrs.get("axis", 0)) or int(gather.attrs.get("axis", 0)):
        return None
    # Rows are the first axis of both.
    scale = _floats(step)
    return _Reading(scale.reshape(scale.shape + (1,) * (rank - scale.ndim)), np.zeros((1,) * rank), step.name)


# Operators that read integers at a slot, and how the scale is told from there.
_RULES: dict[str, tuple[Callable[[gs.Node, int], _Reading | None], int]] = {
    "Cast": (_decoded, 0),
    "ConvInteger": (_summed, 1),
    "DequantizeLinear": (_dequantized, 0),
    "Gather": (_looked_up, 0),
    "MatMulInteger": (_summed, 1),
    "Transpose": (_transposed, 0),
}
