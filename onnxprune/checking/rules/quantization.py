"""Integer arithmetic that costs accuracy or time for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.graph import numbers, producer, walk

_VIEWS = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_QUANTIZERS = {"DynamicQuantizeLinear", "QuantizeLinear"}
# Which input of an integer product is the weight [k, n].
_PRODUCTS = {"MatMulInteger": 1, "QLinearMatMul": 3, "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1}
# Integer kernels work on rows of 16 and more; below, packing costs more than it saves.
_SMALL = 16
_SCALE_TOLERANCE = 1e-3


@rule(
    "double-quantized", "warning", needs="graph", do="Quantize once, from the float model: rounding twice loses twice."
)
def double_quantized(case: Case) -> Iterator[Spot]:
    """What was just dequantized is quantized again, with other steps."""
    for _, node in walk(case.model.graph):
        if node.op not in _QUANTIZERS or not node.inputs:
            continue
        source = _behind_views(node.inputs[0])
        if source is not None and source.op == "DequantizeLinear" and not _same_steps(source, node):
            yield Spot(
                f"{node.op} {node.name or node.outputs[0].name!r}",
                f"reads what {source.name or source.outputs[0].name!r} has dequantized",
            )


@rule(
    "float-stored-int8",
    "warning",
    needs="graph",
    do="Store the integers: fold QuantizeLinear into the weight, as onnxprune optimize MODEL does.",
)
def float_stored_int8(case: Case) -> Iterator[Spot]:
    """A weight is used as int8 but stored as floats: it is quantized at each load or run."""
    for _, node in walk(case.model.graph):
        if node.op == "QuantizeLinear" and node.inputs and isinstance(node.inputs[0], gs.Constant):
            weight = node.inputs[0]
            yield Spot(
                f"weight {weight.name!r}",
                f"{numbers(weight).nbytes} bytes that {node.name or node.op!r} rounds to a quarter",
            )


@rule(
    "small-int8-product",
    "warning",
    needs="graph",
    do="Leave such products in float: onnxprune optimize MODEL times each and decides.",
)
def small_int8_product(case: Case) -> Iterator[Spot]:
    """An integer product is too small to be faster than the float one."""
    for _, node in walk(case.model.graph):
        slot = _PRODUCTS.get(node.op)
        weight = node.inputs[slot] if slot is not None and len(node.inputs) > slot else None
        if isinstance(weight, gs.Constant) and len(weight.shape) > 1 and min(weight.shape[-2:]) < _SMALL:
            size = "x".join(map(str, weight.shape))
            yield Spot(
                f"{node.op} {node.name or node.outputs[0].name!r}",
                f"its weight is {size}; below {_SMALL} int8 is slower",
            )


@rule(
    "quantized-softmax",
    "warning",
    needs="graph",
    do="Leave Softmax and LayerNormalization in float: rounding there ruins accuracy and XNNPACK refuses it.",
)
def quantized_softmax(case: Case) -> Iterator[Spot]:
    """Softmax or LayerNormalization reads rounded numbers and its result is rounded again."""
    for _, node in walk(case.model.graph):
        if node.op not in {"LayerNormalization", "Softmax"} or not node.inputs or not node.outputs:
            continue
        source = producer(node.inputs[0])
        rounded = any(reader.op == "QuantizeLinear" for reader in node.outputs[0].outputs)
        if source is not None and source.op == "DequantizeLinear" and rounded:
            yield Spot(f"{node.op} {node.name or node.outputs[0].name!r}", "is quantized on both sides")


@rule(
    "bias-scale",
    "warning",
    needs="graph",
    do="Quantize the bias with input scale x weight scale: kernels take it to be so.",
)
def bias_scale(case: Case) -> Iterator[Spot]:
    """The steps of an int32 bias are not those of the input times those of the weight."""
    for _, node in walk(case.model.graph):
        if node.op not in {"Conv", "Gemm"} or len(node.inputs) < 3:
            continue
        steps = [_steps(tensor) for tensor in node.inputs[:3]]
        if any(step is None for step in steps) or numbers(_stored(node.inputs[2])).dtype != np.int32:
            continue
        x, weight, bias = (np.ravel(step).astype(np.float64) for step in steps)  # type: ignore[arg-type]
        wanted = x * weight
        if bias.size in {1, wanted.size} or wanted.size == 1:
            error = float(np.max(np.abs(bias - wanted) / np.maximum(np.abs(wanted), 1e-30)))
            if error > _SCALE_TOLERANCE:
                yield Spot(
                    f"{node.op} {node.name or node.outputs[0].name!r}", f"its bias steps are off by up to {error:.1%}"
                )


def _behind_views(tensor: gs.Tensor) -> gs.Node | None:
    node = producer(tensor)
    while node is not None and node.op in _VIEWS and not node.domain and node.inputs:
        node = producer(node.inputs[0])
    return node


def _same_steps(left: gs.Node, right: gs.Node) -> bool:
    if right.op == "DynamicQuantizeLinear":
        return False
    pairs = zip(left.inputs[1:], right.inputs[1:], strict=False)
    return all(one is other or _equal(one, other) for one, other in pairs)


def _equal(one: gs.Tensor, other: gs.Tensor) -> bool:
    both = isinstance(one, gs.Constant) and isinstance(other, gs.Constant)
    return bool(both and np.array_equal(numbers(one), numbers(other)))


def _steps(tensor: gs.Tensor) -> np.ndarray[Any, Any] | None:
    node = producer(tensor)
    if node is None or node.op != "DequantizeLinear" or not isinstance(node.inputs[1], gs.Constant):
        return None
    return numbers(node.inputs[1])


def _stored(tensor: gs.Tensor) -> gs.Constant:
    node = producer(tensor)
    source = node.inputs[0] if node is not None else tensor
    return source if isinstance(source, gs.Constant) else gs.Constant("", np.zeros(0, np.int8))


RULES = (double_quantized, float_stored_int8, small_int8_product, quantized_softmax, bias_scale)
