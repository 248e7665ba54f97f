"""What elementwise nodes make of table values, in numpy: how a graph combines its tables is seen by trying it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers

Array = np.ndarray[Any, Any]
Values = Mapping[str, Array]

_OPERATORS: Mapping[str, Callable[..., Array]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Div": np.divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Flatten": lambda x, *_: x,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Identity": lambda x: x,
    "IsNaN": np.isnan,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "Max": lambda *x: np.max(np.broadcast_arrays(*x), axis=0),
    "Min": lambda *x: np.min(np.broadcast_arrays(*x), axis=0),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Reshape": lambda x, *_: x,
    "Squeeze": lambda x, *_: x,
    "Sub": np.subtract,
    "Sum": lambda *x: np.sum(np.broadcast_arrays(*x), axis=0),
    "Unsqueeze": lambda x, *_: x,
    "Where": np.where,
    "Xor": np.logical_xor,
}
_DATA_ONLY = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}


def interpreted(node: gs.Node, known: Values) -> Array | None:
    """[n] the output of a node on values [n] of its inputs; None where it is not elementwise or reads others."""
    if node.domain not in {None, "", "ai.onnx"} or len(node.outputs) != 1:
        return None
    read = node.inputs[:1] if node.op in _DATA_ONLY else node.inputs
    values = [_value(tensor, known) for tensor in read]
    if not values or any(value is None for value in values):
        return None
    with np.errstate(all="ignore"):
        if node.op == "Cast":
            kind = onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"])
            return np.asarray(values[0]).astype(kind)
        rule = _OPERATORS.get(node.op)
        return None if rule is None else np.asarray(rule(*values))


def _value(tensor: gs.Tensor, known: Values) -> Array | None:
    if tensor.name in known:
        return known[tensor.name]
    if isinstance(tensor, gs.Constant) and int(np.prod(tensor.shape)) == 1:
        return numbers(tensor).reshape(-1)
    return None
