"""Stored integers that stand for floats: on which grid each weight of a quantized graph lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import constants, numbers, producer

Array = np.ndarray[Any, Any]

# Slots of (integers, scale, zero point) in operators that carry them side by side, and the axis of the scales.
_TRIPLES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
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
    """

    name: str
    scale: Array
    zero: Array
    low: int
    high: int

    def floats(self, stored: Array) -> Array:
        """What the integers stand for."""
        values: Array = (stored.astype(np.float64) - self.zero) * self.scale
        return values

    def integers(self, values: Array, dtype: np.dtype[Any]) -> Array:
        """The nearest integers."""
        whole: Array = np.clip(np.rint(values / self.scale) + self.zero, self.low, self.high).astype(dtype)
        return whole


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
        scales = [one for one in seen if one is not None]
        if any(not _same(one, scales[0]) for one in scales[1:]) or not np.all(scales[0][0] > 0):
            continue
        low, high = _range(dtype)
        found[constant.name] = Grid(constant.name, *scales[0], low, high)
    return found


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return int(info.min), int(info.max)
    return (0, 15) if "uint" in dtype.name else (-8, 7)


def _same(one: tuple[Array, Array], other: tuple[Array, Array]) -> bool:
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _readings(tensor: gs.Tensor) -> Iterator[tuple[Array, Array] | None]:
    """(scale, zero) as every reader has it; None where one cannot be told."""
    for node in tensor.outputs:
        for slot, source in enumerate(node.inputs):
            if source is tensor:
                yield _reading(tensor, node, slot)


def _reading(tensor: gs.Tensor, node: gs.Node, slot: int) -> tuple[Array, Array] | None:
    rank = len(tensor.shape) if tensor.shape is not None else 0
    for place, scale_slot, zero_slot, axis in _TRIPLES.get(node.op, ()):
        if slot == place:
            return _placed(_constant(node, scale_slot), _constant(node, zero_slot), axis, rank)
    rule, place = _RULES.get(node.op, (None, 0))
    return rule(node, rank) if rule is not None and slot == place else None


def _dequantized(node: gs.Node, rank: int) -> tuple[Array, Array] | None:
    if node.attrs.get("block_size", 0):
        return None
    return _placed(_constant(node, 1), _constant(node, 2), int(node.attrs.get("axis", 1)), rank)


def _summed(node: gs.Node, rank: int) -> tuple[Array, Array] | None:
    """An integer product or convolution whose sums are scaled behind it."""
    scale = _scale_behind(node.outputs[0])
    axis = -1 if node.op == "MatMulInteger" else 0
    return None if scale is None else _placed(scale.ravel(), _constant(node, 3), axis, rank)


def _transposed(node: gs.Node, rank: int) -> tuple[Array, Array] | None:
    seen = list(_readings(node.outputs[0]))
    if len(seen) != 1 or seen[0] is None:
        return None
    back = np.argsort(node.attrs.get("perm", range(rank)[::-1]))
    scale, zero = (np.transpose(_full(part, rank), back) for part in seen[0])
    return scale, zero


def _constant(node: gs.Node, slot: int) -> Array | None:
    if slot >= len(node.inputs) or not isinstance(node.inputs[slot], gs.Constant):
        return None
    return numbers(node.inputs[slot]).astype(np.float64)


def _full(part: Array, rank: int) -> Array:
    return part.reshape((1,) * (rank - part.ndim) + part.shape)


def _placed(scale: Array | None, zero: Array | None, axis: int, rank: int) -> tuple[Array, Array] | None:
    """Scale and zero point of one number, or one an entry of the axis, as they broadcast."""
    if scale is None or scale.ndim > 1:
        return None
    sizes = [1] * rank
    sizes[axis] = -1
    offset = np.zeros(1) if zero is None else zero
    return scale.reshape(sizes if scale.size > 1 else [1] * rank), offset.reshape(
        sizes if offset.size > 1 else [1] * rank
    )  # fmt: skip


def _only_reader(tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    readers = list(tensor.outputs)
    return readers[0] if len(readers) == 1 and readers[0].op in ops else None


def _other(node: gs.Node, tensor: gs.Tensor) -> gs.Tensor:
    return node.inputs[1] if node.inputs[0] is tensor else node.inputs[0]


def _scale_behind(product: gs.Tensor) -> Array | None:
    """The weight's scale: of the sums Cast to float and multiplied by it, or by its product with the input's."""
    cast = _only_reader(product, "Cast")
    times = _only_reader(cast.outputs[0], "Mul") if cast is not None else None
    if cast is None or times is None:
        return None
    factor = _other(times, cast.outputs[0])
    if isinstance(factor, gs.Constant):
        return numbers(factor).astype(np.float64)
    steps = producer(factor)
    if steps is None or steps.op != "Mul":
        return None
    for part in steps.inputs:
        if isinstance(part, gs.Constant):
            return numbers(part).astype(np.float64)
    return None


def _decoded(cast: gs.Node, rank: int) -> tuple[Array, Array] | None:
    """Cast and Mul by a stored scale."""
    times = _only_reader(cast.outputs[0], "Mul")
    if times is None:
        return None
    factor = _other(times, cast.outputs[0])
    if not isinstance(factor, gs.Constant) or len(factor.shape) > rank:
        return None
    return _full(numbers(factor).astype(np.float64), rank), np.zeros((1,) * rank)


def _looked_up(gather: gs.Node, rank: int) -> tuple[Array, Array] | None:
    """Rows looked up as integers, Cast, and multiplied by scales that are looked up alike."""
    cast = _only_reader(gather.outputs[0], "Cast")
    times = _only_reader(cast.outputs[0], "Mul") if cast is not None else None
    if cast is None or times is None:
        return None
    source = producer(_other(times, cast.outputs[0]))
    if source is not None and source.op == "Cast":
        source = producer(source.inputs[0])
    if source is None or source.op != "Gather" or source.inputs[1] is not gather.inputs[1]:
        return None
    if int(gather.attrs.get("axis", 0)):
        return None
    scale = _constant(source, 0)
    if scale is None or scale.ndim > rank or int(source.attrs.get("axis", 0)):
        return None
    # Rows are the first axis of both.
    return scale.reshape(scale.shape + (1,) * (rank - scale.ndim)), np.zeros((1,) * rank)


# Operators that read integers at a slot, and how the scale is told from there.
_RULES: dict[str, tuple[Callable[[gs.Node, int], tuple[Array, Array] | None], int]] = {
    "Cast": (_decoded, 0),
    "ConvInteger": (_summed, 1),
    "DequantizeLinear": (_dequantized, 0),
    "Gather": (_looked_up, 0),
    "MatMulInteger": (_summed, 1),
    "Transpose": (_transposed, 0),
}
