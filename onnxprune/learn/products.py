"""Operators that multiply matrices: linears, convolutions and their fused forms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from onnxprune.learn import elementwise
from onnxprune.learn.call import Call, Operator, Tensor, entry

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    # [m, k] · [k, n] + [n]
    left = a.T if call.get("transA", 0) else a
    right = b.T if call.get("transB", 0) else b
    product = left @ right
    alpha, beta = float(call.get("alpha", 1.0)), float(call.get("beta", 1.0))
    product = product if alpha == 1 else product * alpha
    if c is None:
        return activated(call, product)
    return activated(call, product + (c if beta == 1 else c * beta))


def _fused_matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    # transBatch moves the first axis behind all but the last: [k, b…, m] or the like.
    left, right = (
        x.movedim(0, -2) if call.get(f"transBatch{side}", 0) else x for side, x in (("A", a), ("B", b))
    )  # fmt: skip
    left = left.transpose(-1, -2) if call.get("transA", 0) else left
    right = right.transpose(-1, -2) if call.get("transB", 0) else right
    return (left @ right) * float(call.get("alpha", 1.0))


def activated(call: Call, x: Tensor) -> Tensor:
    """The activation that fused forms name by an attribute."""
    name = call.get("activation", "")
    if not name:
        return x
    numbers = [float(value) for value in call.get("activation_params", ())]
    if name == "Clip":
        return torch.clamp(x, numbers[0], numbers[1])
    if name == "LeakyRelu":
        return functional.leaky_relu(x, numbers[0] if numbers else 0.01)
    if name == "HardSigmoid":
        return torch.clamp(x * numbers[0] + numbers[1], 0, 1)
    result: Tensor = elementwise.TABLE[name].run(call, x)
    return result


def spatial_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis."""
    mode = call.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = list(call.get("pads", [0] * 2 * len(sizes)))
        return list(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    if mode == "VALID":
        return [(0, 0)] * len(sizes)
    made = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        made.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return made


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Spatial axes, the last of `pads` being the last axis, with so many entries more."""
    if not any(low or high for low, high in pads):
        return x
    return functional.pad(x, [amount for pair in reversed(pads) for amount in pair], value=value)


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, fill: float = 0.0) -> Tensor:
    """[n, c, *space] with weights [out, c/groups, *kernel]; `fill` stands beyond the borders."""
    axes = x.dim() - 2
    strides, dilations = (list(call.get(name, [1] * axes)) for name in ("strides", "dilations"))
    pads = spatial_pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    inside = 0
    if fill == 0 and all(low == high for low, high in pads):
        inside = tuple(low for low, _ in pads)  # type: ignore[assignment]
    else:
        x = padded(x, pads, fill)
    run = _CONVOLUTIONS[axes]
    return run(x, weight, bias, stride=strides, padding=inside, dilation=dilations, groups=int(call.get("group", 1)))


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    result = convolve(call, x, weight, bias)
    return activated(call, result if added is None else result + added)


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # [n, c, *space] with weights [c, out/groups, *kernel]
    axes = x.dim() - 2
    strides, dilations = (list(call.get(name, [1] * axes)) for name in ("strides", "dilations"))
    extra = list(call.get("output_padding", [0] * axes))
    full = [
        (size - 1) * stride + (k - 1) * dilation + 1 + more
        for size, k, stride, dilation, more in zip(
            x.shape[2:], weight.shape[2:], strides, dilations, extra, strict=True
        )
    ]
    mode, asked = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if asked is None and mode.startswith("SAME"):
        asked = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    if asked is None:
        pads = spatial_pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    else:
        total = [size - int(wanted) for size, wanted in zip(full, list(asked)[-axes:], strict=True)]
        pads = [(t - t // 2, t // 2) if mode != "SAME_UPPER" else (t // 2, t - t // 2) for t in total]
    run = _TRANSPOSED[axes]
    whole = run(x, weight, None, stride=strides, groups=int(call.get("group", 1)), dilation=dilations)
    # The output padding is zeros behind the last entry.
    whole = padded(whole, [(0, more) for more in extra])
    whole = padded(whole, [(-low, -high) for low, high in pads])
    return whole if bias is None else whole + bias.reshape(-1, *[1] * axes)


TABLE: dict[str, Operator] = {
    "Conv": entry(_conv),
    "ConvTranspose": entry(_conv_transpose),
    "Einsum": entry(lambda call, *parts: torch.einsum(call.get("equation").replace(" ", ""), *parts)),
    "Gemm": entry(_gemm),
    "MatMul": entry(lambda _, a, b: torch.matmul(a, b)),
}

MICROSOFT: dict[str, Operator] = {
    "FusedConv": entry(_conv),
    "FusedGemm": entry(_gemm),
    "FusedMatMul": entry(_fused_matmul),
    "TransposeMatMul": entry(_fused_matmul),
}
