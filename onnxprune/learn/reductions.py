"""Operators that sum, choose or normalise along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from onnxprune.learn.call import Call, Operator, Tensor, entry, positive

Fold = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _axes(call: Call, x: Tensor, given: Tensor | None) -> tuple[int, ...]:
    listed = call.listed("axes", given)
    if not listed:
        return () if call.get("noop_with_empty_axes", 0) else tuple(range(x.dim()))
    return tuple(positive(axis, x.dim()) for axis in listed)


def _reduction(fold: Fold) -> Operator:
    def run(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = _axes(call, x, axes)
        return fold(x, over, bool(call.get("keepdims", 1))) if over else x

    return entry(run, 1)


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return torch.div(x.sum(axes, keepdim=keep), math.prod(x.shape[a] for a in axes), rounding_mode="trunc").to(x.dtype)


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep).to(x.dtype)


def softmax(x: Tensor, axis: int) -> Tensor:
    """Softmax whose gradient is 0, not NaN, where a whole row is -inf and the result is NaN."""
    dead = torch.isneginf(x.detach().amax(axis, keepdim=True)) if x.numel() else None
    if dead is None or not x.requires_grad or not bool(dead.any()):
        return torch.softmax(x, axis)
    p = torch.softmax(torch.where(dead, torch.zeros_like(x), x), axis)
    return torch.where(dead, torch.full_like(p, torch.nan), p)


def _over_axis(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def run(call: Call, x: Tensor) -> Tensor:
        if call.opset >= 13:
            return function(x, int(call.get("axis", -1)))
        # Before opset 13: over everything from the axis on.
        axis = positive(int(call.get("axis", 1)), x.dim())
        flat = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return function(flat, 1).reshape(x.shape)

    return entry(run)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _arg(function: Callable[..., Tensor]) -> Operator:
    def run(call: Call, x: Tensor) -> Tensor:
        axis = positive(int(call.get("axis", 0)), x.dim())
        keep = bool(call.get("keepdims", 1))
        if call.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
        return function(x, axis, keepdim=keep)

    return entry(run)


def _top_k(call: Call, x: Tensor, k: Tensor | None = None) -> Any:
    count = int(call.get("k") if k is None else k.item())
    largest = bool(call.get("largest", 1))
    # Stable: of equals the earlier stands first, as onnx asks.
    values, places = torch.sort(x, dim=int(call.get("axis", -1)), descending=largest, stable=True)
    axis = int(call.get("axis", -1))
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _cumulative(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    along = positive(int(axis.item()), x.dim())
    source = x.flip(along) if call.get("reverse", 0) else x
    total = source.cumsum(along).to(x.dtype)
    if call.get("exclusive", 0):
        total = total - source
    return total.flip(along) if call.get("reverse", 0) else total


TABLE: dict[str, Operator] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "CumSum": entry(_cumulative, 1),
    "Hardmax": _over_axis(_hardmax),
    "LogSoftmax": _over_axis(torch.log_softmax),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_prod),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Softmax": _over_axis(softmax),
    "TopK": entry(_top_k, 1),
}
