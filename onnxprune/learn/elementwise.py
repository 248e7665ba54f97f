"""Operators that treat each element alone, types, and choices between elements. Shapes broadcast as numpy's do."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import onnx
import torch
from torch.nn import functional

from onnxprune.learn.call import Call, Operator, Tensor, entry

_PROTO = onnx.TensorProto
FLOATS: set[int] = {_PROTO.FLOAT, _PROTO.FLOAT16, _PROTO.BFLOAT16, _PROTO.DOUBLE}
_WHOLE: dict[int, torch.dtype] = {
    _PROTO.BOOL: torch.bool,
    _PROTO.INT8: torch.int8,
    _PROTO.INT16: torch.int16,
    _PROTO.INT32: torch.int32,
    _PROTO.INT64: torch.int64,
    _PROTO.UINT8: torch.uint8,
    # torch computes little with the wider unsigned types; their values fit the next signed one.
    _PROTO.UINT16: torch.int32,
    _PROTO.UINT32: torch.int64,
    _PROTO.UINT64: torch.int64,
}


def typed(call: Call, x: Tensor, kind: int) -> Tensor:
    """A tensor in an onnx type; every float type is the one that the graph is computed in."""
    if kind in FLOATS:
        return x.to(call.floating)
    if kind not in _WHOLE:
        raise call.refuse(f"type {_PROTO.DataType.Name(kind)} has no counterpart")
    return x.to(_WHOLE[kind])


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return entry(lambda _, x: function(x))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return entry(lambda _, a, b: function(a, b))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return entry(lambda _, *parts: reduce(function, parts))


def _divide(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


def _power(_: Call, x: Tensor, exponent: Tensor) -> Tensor:
    # A number as exponent keeps the gradient of x² sound at 0, where that of the exponent is not.
    single = exponent.item() if exponent.numel() == 1 and not exponent.requires_grad else exponent
    if exponent.numel() == 1 and exponent.dim() > x.dim():
        x = x.expand(exponent.shape)
    return torch.pow(x, single).to(x.dtype)


def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least = call.get("min") if low is None else low.item()
    most = call.get("max") if high is None else high.item()
    if least is None and most is None:
        return x
    return torch.clamp(x, least, most)


def _gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh" if call.get("approximate", "none") == "tanh" else "none")


def _fast_gelu(_: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(x * call.get("alpha", 0.2) + call.get("beta", 0.5), 0, 1)


def _swish(call: Call, x: Tensor, *, alpha: float) -> Tensor:
    return x * torch.sigmoid(x * call.get("alpha", alpha))


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = float(call.get("alpha", 1.6732632423543772)), float(call.get("gamma", 1.0507009873554805))
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def _celu(call: Call, x: Tensor) -> Tensor:
    return functional.celu(x, call.get("alpha", 1.0))


def _shrink(call: Call, x: Tensor) -> Tensor:
    bias, bound = call.get("bias", 0.0), call.get("lambd", 0.5)
    return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, torch.zeros_like(x)))


def _is_inf(call: Call, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.get("detect_positive", 1):
        found = found | torch.isposinf(x)
    return found | torch.isneginf(x) if call.get("detect_negative", 1) else found


def _shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    left = call.get("direction") in {"LEFT", b"LEFT"}
    return torch.bitwise_left_shift(x, by) if left else torch.bitwise_right_shift(x, by)


def _dropout(call: Call, x: Tensor, *_: Any) -> Any:
    # The graph is an inference graph: nothing is dropped.
    return (x, torch.ones_like(x, dtype=torch.bool)) if call.wants(1) else x


TABLE: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitShift": entry(_shift),
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _unary(torch.bitwise_not),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": entry(lambda call, x: typed(call, x, int(call.get("to")))),
    "CastLike": entry(lambda _, x, like: x.to(like.dtype)),
    "Ceil": _unary(torch.ceil),
    "Celu": entry(_celu),
    "Clip": entry(_clip, 1, 2),
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": entry(_divide),
    "Dropout": entry(_dropout, 1, 2),
    "Elu": entry(lambda call, x: functional.elu(x, call.get("alpha", 1.0))),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": entry(_gelu),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": entry(_hard_sigmoid),
    "HardSwish": _unary(lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1)),
    "Identity": _unary(lambda x: x),
    "IsInf": entry(_is_inf),
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": entry(lambda call, x: functional.leaky_relu(x, call.get("alpha", 0.01))),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _folded(torch.maximum),
    "Mean": entry(lambda _, *parts: reduce(torch.add, parts) / len(parts)),
    "Min": _folded(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mod": entry(_modulo),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _binary(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pow": entry(_power),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Selu": entry(_selu),
    "Shrink": entry(_shrink),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Softplus": _unary(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "Softsign": _unary(functional.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _folded(torch.add),
    "Swish": entry(lambda call, x: _swish(call, x, alpha=1.0)),
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": entry(lambda call, x: torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))),
    "Where": entry(lambda _, which, a, b: torch.where(which, a, b)),
    "Xor": _binary(torch.logical_xor),
}

MICROSOFT: dict[str, Operator] = {
    "BiasGelu": entry(lambda _, x, bias: functional.gelu(x + bias)),
    "FastGelu": entry(_fast_gelu),
    "Gelu": entry(lambda _, x: functional.gelu(x)),
    "QuickGelu": entry(lambda call, x: _swish(call, x, alpha=1.702)),
}
