"""Matrix products: a sum of terms that do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.unchanging.entries import either

if TYPE_CHECKING:
    from onnxprune.unchanging.walk import Unchanging

Array = np.ndarray[Any, Any]


def product(find: Unchanging, node: gs.Node) -> Array | None:
    """MatMul and Gemm: sums whose terms are all zero or do not change."""
    a, b = node.inputs[:2]
    if any(node.attrs.get(name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        return None
    turned = bool(node.attrs.get("transB", 0))
    if min(len(find.shape(a)), len(find.shape(b))) < 2:
        return None
    weight = find.known(b)
    weight = weight if weight is None or not turned else np.swapaxes(weight, -1, -2)
    held = find.of(a)
    if weight is not None and held is None:
        zero = ~np.any(weight, axis=-2, keepdims=True)
        held = zero if zero.any() else None
    elif node.op == "MatMul" and not node.domain and _rows_sum_to_one(find, a):
        held = either(find.alike(b, -2), _sum_of_products(find, a, b, turned=turned))
    else:
        held = _sum_of_products(find, a, b, turned=turned)
    if held is None or node.op != "Gemm" or len(node.inputs) < 3 or not node.inputs[2].name:
        return held
    bias = find.of(node.inputs[2])
    return None if bias is None else held & bias


def _sum_of_products(find: Unchanging, a: gs.Tensor, b: gs.Tensor, *, turned: bool) -> Array | None:
    """[..., m, n]: no term a·b changes, as one factor is zero or neither changes."""
    still_a, still_b = find.of(a), find.of(b)
    if still_a is None and still_b is None:
        return None
    (live_a, moving_a), (live_b, moving_b) = (_terms(find, each) for each in (a, b))
    if turned:
        live_b, moving_b = np.swapaxes(live_b, -1, -2), np.swapaxes(moving_b, -1, -2)
    held: Array = moving_a @ live_b + live_a @ moving_b == 0
    return held


def _terms(find: Unchanging, tensor: gs.Tensor) -> tuple[Array, Array]:
    """1.0 where an entry may differ from zero, and where it may also change."""
    whole = np.ones(find.shape(tensor), bool)
    zero, still = find.zero(tensor), find.of(tensor)
    live = whole if zero is None else ~zero
    moving = live if still is None else live & ~still
    return live.astype(np.float32), moving.astype(np.float32)


def _rows_sum_to_one(find: Unchanging, tensor: gs.Tensor) -> bool:
    """Whether a tensor is a Softmax over its last axis, perhaps behind a guard against rows that a mask blanks."""
    rank = len(find.shape(tensor))
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and not node.domain and node.op in {"Cast", "Dropout", "Identity", "Where"}:
        tensor = node.inputs[2 if node.op == "Where" else 0]
        if node.op == "Where" and not _guards(find, node):
            return False
        node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != "Softmax" or node.domain:
        return False
    return int(node.attrs.get("axis", -1 if find.opset >= 13 else 1)) in {-1, rank - 1}


def _guards(find: Unchanging, node: gs.Node) -> bool:
    """Whether a Where puts zeros for what is not a number."""
    test, blank = node.inputs[0].inputs, find.known(node.inputs[1])
    return bool(test and test[0].op == "IsNaN" and blank is not None and not blank.any())
