"""The rule of each operator: which entries of its output never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.unchanging.attention import attended, attended_with_weight
from onnxprune.unchanging.movement import VIEWS, joined, moved, picked, sliced
from onnxprune.unchanging.pointwise import chosen, times, together
from onnxprune.unchanging.products import product
from onnxprune.unchanging.windows import convolved, normalised, pooled, reduced

if TYPE_CHECKING:
    from onnxprune.unchanging.walk import Unchanging

Array = np.ndarray[Any, Any]
Rule = Callable[["Unchanging", gs.Node], "Array | None"]

_UNARY = {
    "Abs", "Cast", "Celu", "Ceil", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip
RULES: dict[tuple[str, str], Rule] = {
    **dict.fromkeys((("", op) for op in _UNARY), lambda find, node: find.of(node.inputs[0])),
    **dict.fromkeys((("", op) for op in VIEWS), moved),
    **dict.fromkeys((("", op) for op in ("Add", "Div", "Max", "Mean", "Min", "PRelu", "Pow", "Sub", "Sum")), together),
    **dict.fromkeys((("com.microsoft", op) for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")), together),
    **dict.fromkeys((("", op) for op in ("MatMul", "Gemm")), product),
    **dict.fromkeys((("", op) for op in ("Conv", "ConvTranspose")), convolved),
    **dict.fromkeys((("", op) for op in ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool")), pooled),
    ("", "Attention"): attended,
    ("", "BatchNormalization"): normalised,
    ("", "Concat"): joined,
    ("", "Expand"): lambda find, node: find.of(node.inputs[0]),
    ("", "Gather"): picked,
    ("", "Mul"): times,
    ("", "ReduceMean"): reduced,
    ("", "Slice"): sliced,
    ("", "Where"): chosen,
    ("com.microsoft", "Attention"): attended_with_weight,
    ("com.microsoft", "FusedMatMul"): product,
    ("com.microsoft", "MultiHeadAttention"): attended,
}
