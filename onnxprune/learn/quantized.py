"""Integer operators, with gradients that pass straight through the rounding.

What is quantized is carried as floats that hold whole numbers, so that gradients flow; the results are those of the
integers as long as sums stay below 2^24. The gradient of rounding is one inside the range and zero beyond it (Bengio et
al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons).
"""

from __future__ import annotations

from typing import Any

import onnx
import torch

from onnxprune.learn.call import Call, Operator, Tensor, entry, positive
from onnxprune.learn.layout import looked_up
from onnxprune.learn.products import activated, convolve

_RANGES = {
    "int16": (-32768, 32767),
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "uint4": (0, 15),
    "uint8": (0, 255),
}
# Axes of GatherBlockQuantized, with their defaults.
_TABLE_AXES = {"gather_axis": 0, "quantize_axis": 1}


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The nearest whole number in the range, halves to even; the gradient is one inside the range, else zero."""
    inside = torch.clamp(x, low, high)
    return inside + (torch.round(inside) - inside).detach()


def _along(x: Tensor, given: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point, one number, one an entry of an axis, or one a block of it, spread over x."""
    if given.dim() == 0 or given.numel() == 1:
        return given.reshape(())
    at = positive(axis, x.dim())
    if given.dim() == 1 and not block:
        return given.reshape([-1 if place == at else 1 for place in range(x.dim())])
    return given.repeat_interleave(block or x.shape[at] // given.shape[at], dim=at).narrow(at, 0, x.shape[at])


def _spread(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None, default: int = 1) -> tuple[Tensor, Tensor]:
    axis, block = int(call.get("axis", default)), int(call.get("block_size", 0))
    step = _along(x, scale.to(call.floating), axis, block)
    if zero is None:
        return step, torch.zeros((), dtype=call.floating, device=x.device)
    return step, _along(x, zero.to(call.floating), axis, block)


def _quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None, slot: int = 2) -> Tensor:
    """Whole numbers of the zero point's type, `slot` being its input."""
    step, offset = _spread(call, x, scale, zero)
    low, high = _range(call, zero, slot)
    # Rounded before the zero point is added, so that halves fall as onnx has it.
    return rounded(x / step, low - offset, high - offset) + offset


def _range(call: Call, zero: Tensor | None, slot: int) -> tuple[int, int]:
    """The least and the largest number; torch holds types that it lacks in wider ones, the file knows."""
    asked = int(call.get("output_dtype", 0))
    if zero is not None:
        kind = call.type_of(slot) or str(zero.dtype).removeprefix("torch.")
    else:
        kind = str(onnx.helper.tensor_dtype_to_np_dtype(asked)) if asked else "uint8"
    if kind not in _RANGES:
        raise call.refuse(f"quantizes to {kind}")
    return _RANGES[kind]


def _dequantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    step, offset = _spread(call, x, scale, zero)
    return (x.to(call.floating) - offset) * step


def dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x as whole numbers of 0 … 255, scale, zero point) of its own range, which gets no gradient."""
    seen = x.detach()
    low = torch.clamp(seen.min(), max=0)
    high = torch.clamp(seen.max(), min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(torch.clamp(-low / scale, 0, 255))
    return rounded(x / scale, -zero, 255 - zero) + zero, scale, zero


def _shifted(call: Call, x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    whole = x.to(call.floating)
    if zero is None:
        return whole
    offset = zero.to(call.floating)
    if offset.dim() == 1 and offset.numel() > 1:
        offset = offset.reshape([-1 if at == positive(axis, x.dim()) else 1 for at in range(x.dim())])
    return whole - (offset.reshape(()) if offset.numel() == 1 else offset)


def _matmul(call: Call, a: Tensor, b: Tensor, *zeros: Tensor | None) -> Tensor:
    of_a, of_b = (*zeros, None, None)[:2]
    return _shifted(call, a, of_a, -2) @ _shifted(call, b, of_b, -1)


def _conv(call: Call, x: Tensor, weight: Tensor, *zeros: Tensor | None) -> Tensor:
    of_x, of_w = (*zeros, None, None)[:2]
    return convolve(call, _shifted(call, x, of_x, 1), _shifted(call, weight, of_w, 0))


def _scaled_matmul(call: Call, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, *rest: Tensor | None) -> Tensor:
    """MatMulIntegerToFloat."""
    of_a, of_b, bias = (*rest, *[None] * 3)[:3]
    product = _matmul(call, a, b, of_a, of_b) * (a_scale * b_scale)
    return product if bias is None else product + bias


def _dynamic_matmul(call: Call, a: Tensor, b: Tensor, b_scale: Tensor, *rest: Tensor | None) -> Tensor:
    of_b, bias = (*rest, None, None)[:2]
    whole, scale, zero = dynamic(a)
    product = ((whole - zero) @ _shifted(call, b, of_b, -1)) * (scale * b_scale)
    return product if bias is None else product + bias


def _linear_matmul(call: Call, *parts: Tensor) -> Tensor:
    """QLinearMatMul: (numbers, scale, zero point) of both operands, scale and zero point of the result."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = parts
    left = _shifted(call, a, a_zero, -2) * a_scale
    right = _shifted(call, b, b_zero, -1) * b_scale
    return _quantize(call, left @ right, y_scale, y_zero, slot=7)


def _linear_conv(call: Call, *parts: Tensor) -> Tensor:
    """QLinearConv: as above, and an int32 bias in steps of both scales."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = parts
    shape = [-1, *[1] * (x.dim() - 2)]
    steps = (x_scale * w_scale).reshape(shape) if w_scale.numel() > 1 else (x_scale * w_scale).reshape(())
    total = convolve(call, _shifted(call, x, x_zero, 1), _shifted(call, w, w_zero, 0))
    total = total + bias[0].to(call.floating).reshape(shape) if bias else total
    return _quantize(call, activated(call, total * steps), y_scale, y_zero, slot=7)


def _nbits(call: Call, x: Tensor, packed: Tensor, scales: Tensor, *rest: Tensor | None) -> Tensor:
    """MatMulNBits: [n, blocks, bytes], each byte one number of 8 bits or two of 4, in blocks along k."""
    zeros, groups, bias = (*rest, *[None] * 3)[:3]
    k, n, bits, block = (int(call.get(name)) for name in ("K", "N", "bits", "block_size"))
    if bits not in {4, 8} or groups is not None:
        raise call.refuse(f"{bits} bits, or reordered groups")
    weight = _unpacked(packed, bits).reshape(n, -1, block).to(call.floating)
    blocks = weight.shape[1]
    if zeros is None:
        offset = torch.full((n, blocks), float(2 ** (bits - 1)), dtype=call.floating)
    elif zeros.is_floating_point():
        offset = zeros.reshape(n, blocks)
    else:
        offset = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks].to(call.floating)
    whole = ((weight - offset[..., None]) * scales.reshape(n, blocks)[..., None]).reshape(n, -1)[:, :k]
    product = x @ whole.T
    return product if bias is None else product + bias


def _gathered_blocks(call: Call, table: Tensor, places: Tensor, scales: Tensor, *rest: Tensor | None) -> Tensor:
    """GatherBlockQuantized: what is looked up in a table of 4 or 8 bits, one scale a block of numbers.

    Bytes hold two numbers of 4 bits each where the scales say that rows are twice as long.
    """
    bits, block = int(call.get("bits", 4)), int(call.get("block_size", 128))
    at, along = (positive(int(call.get(name, axis)), table.dim()) for name, axis in _TABLE_AXES.items())
    if at == along:
        raise call.refuse("looks up along the axis of its blocks")
    in_bytes, zeros = table.dtype == torch.uint8, rest[0] if rest else None
    packed = (
        bits == 4 and in_bytes and -(-2 * table.shape[-1] // block) == scales.shape[-1] and along == table.dim() - 1
    )
    # Only what is looked up is decoded; the axis of the blocks moves with the indices that stand before it.
    moved = along + (places.dim() - 1 if at < along else 0)
    rows, step = looked_up(table, places, at), looked_up(scales, places, at)
    rows = _unpacked(rows, bits) if packed else rows
    if zeros is None:
        offset = torch.full((), float(2 ** (bits - 1)) if in_bytes else 0.0, dtype=call.floating, device=table.device)
    else:
        offset = looked_up(zeros, places, at)
        offset = offset if zeros.shape == scales.shape else _unpacked(offset, bits).narrow(-1, 0, step.shape[-1])
        offset = _blocks(offset.to(call.floating), rows.shape, moved, block)
    return (rows.to(call.floating) - offset) * _blocks(step, rows.shape, moved, block)


def _blocks(given: Tensor, shape: torch.Size, along: int, block: int) -> Tensor:
    return given.repeat_interleave(block, dim=along).narrow(along, 0, shape[along])


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return packed
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def _dynamic_entry(_: Call, x: Tensor) -> Any:
    return dynamic(x)


TABLE: dict[str, Operator] = {
    "ConvInteger": entry(_conv),
    "DequantizeLinear": entry(_dequantize),
    "DynamicQuantizeLinear": entry(_dynamic_entry),
    "MatMulInteger": entry(_matmul),
    "QLinearConv": entry(_linear_conv),
    "QLinearMatMul": entry(_linear_matmul),
    "QuantizeLinear": entry(_quantize),
}

MICROSOFT: dict[str, Operator] = {
    "DequantizeLinear": entry(_dequantize),
    "DynamicQuantizeMatMul": entry(_dynamic_matmul),
    "GatherBlockQuantized": entry(_gathered_blocks),
    "MatMulIntegerToFloat": entry(_scaled_matmul),
    "MatMulNBits": entry(_nbits),
    "QuantizeLinear": entry(_quantize),
}
