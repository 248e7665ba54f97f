"""Which form each reader of a weight gets, and why it cannot have another."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from onnxprune.errors import Declined
from onnxprune.protocol import Context
from onnxprune.quantizing.ranges import can_be_static, has_ranges
from onnxprune.weights import Use, Weight

Form = Literal["dynamic", "gather", "static", "stored"]

# Below this many inputs or outputs the integer product loses to the float one (TRAPS: measured for K or N < 16).
_SMALLEST_PRODUCT = 16
# The opsets that have per-channel DequantizeLinear, and DynamicQuantizeLinear.
OPSETS: dict[Form, int] = {"static": 13, "dynamic": 11}


class Options(Protocol):
    """What a user may ask of forms; the pass declares and explains it."""

    @property
    def linears(self) -> str:
        """`dynamic`, `stored` or `float`."""

    @property
    def convs(self) -> str:
        """`auto`, `static`, `stored` or `float`."""

    @property
    def embeddings(self) -> bool:
        """Whether tables become integers."""


def form_of(use: Use, weight: Weight, options: Options, context: Context, overridable: frozenset[str]) -> Form:
    """The form of one reader.

    Raises:
        Declined: it keeps the weight in float, and so do all that share it.
    """
    if use.role == "embedding":
        return _embedding_form(use, options)
    if use.role == "linear":
        return _linear_form(use, weight, options, overridable)
    if use.role == "recurrent":
        return "stored"
    if options.convs == "float":
        raise Declined("option convs=float")
    ranged = context.statistics is not None and can_be_static(use, overridable) and has_ranges(use, context)
    if options.convs in {"auto", "static"} and ranged:
        return "static"
    if options.convs == "static":
        raise Declined(
            "option convs=static: needs sample inputs, and a float32 Conv of constants whose output others read"
        )
    return "stored"


def _embedding_form(use: Use, options: Options) -> Form:
    if not options.embeddings:
        raise Declined("option embeddings=no")
    if use.node.op != "Gather":
        return "stored"
    if use.node.attrs.get("axis", 0) != 0 or use.views:
        raise Declined("rows are not looked up on the table's first axis")
    return "gather"


def _linear_form(use: Use, weight: Weight, options: Options, overridable: frozenset[str]) -> Form:
    if options.linears == "float":
        raise Declined("option linears=float")
    if use.node.op not in {"MatMul", "Gemm"} or options.linears == "stored":
        return "stored"
    if use.slot != 1:
        raise Declined("the weight is the left operand of the product")
    if use.permutation is None or len(weight.constant.shape) != 2:
        return "stored"
    if use.node.attrs.get("transA", 0):
        raise Declined("the activations are transposed by the product (transA)")
    if use.node.attrs.get("beta", 1.0) != 1.0 and use.node.inputs[2:] and use.node.inputs[2].name in overridable:
        raise Declined("the bias is a graph input too: a caller may override it")
    if weight.constant.dtype not in (np.float32, np.float16):
        raise Declined(f"{weight.constant.dtype} products have no integer form")
    rows, columns = weight.constant.shape
    if min(rows, columns) < _SMALLEST_PRODUCT:
        raise Declined(f"narrower than {_SMALLEST_PRODUCT}: such a product is slower with integers")
    return "dynamic"
