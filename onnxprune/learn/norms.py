"""Normalisations, plain and fused with what stands before them. `d` is the last axis, `c` the channels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from onnxprune.learn.call import Call, Operator, Tensor, entry, positive


def layer_norm(call: Call, x: Tensor, gain: Tensor | None, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(result, mean, 1/deviation) over the axes from `axis` on."""
    axes = tuple(range(positive(int(call.get("axis", -1)), x.dim()), x.dim()))
    epsilon = float(call.get("epsilon", 1e-5))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    shape = [x.shape[axis] for axis in axes]
    if gain is not None and list(gain.shape) == shape and (bias is None or list(bias.shape) == shape):
        return functional.layer_norm(x, shape, gain, bias, epsilon), mean, inverse
    scaled = (x - mean) * inverse
    scaled = scaled if gain is None else scaled * gain
    return scaled if bias is None else scaled + bias, mean, inverse


def _layer_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Any:
    result, mean, inverse = layer_norm(call, x, gain, bias)
    return (result, mean, inverse)[: len(call.wanted)] if len(call.wanted) > 1 else result


def _root_mean_square(call: Call, x: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
    axes = tuple(range(positive(int(call.get("axis", -1)), x.dim()), x.dim()))
    inverse = torch.rsqrt(x.square().mean(axes, keepdim=True) + float(call.get("epsilon", 1e-5)))
    return x * inverse if gain is None else x * inverse * gain, inverse


def _rms_norm(call: Call, x: Tensor, gain: Tensor) -> Any:
    result, inverse = _root_mean_square(call, x, gain)
    return (result, inverse) if len(call.wanted) > 1 else result


def _skip(call: Call, x: Tensor, skip: Tensor, *rest: Tensor | None) -> Any:
    """(result, mean, inverse, sum) of x + skip [+ bias]."""
    simplified = call.op.startswith("SkipSimplified")
    gain, beta, bias = (*rest, None, None)[0], None, None
    if simplified:
        bias = rest[1] if len(rest) > 1 else None
    else:
        beta = rest[1] if len(rest) > 1 else None
        bias = rest[2] if len(rest) > 2 else None
    total = x + skip if bias is None else x + skip + bias
    if simplified:
        result, inverse = _root_mean_square(call, total, gain)
        mean = inverse
    else:
        result, mean, inverse = layer_norm(call, total, gain, beta)
    return (result, mean, inverse, total)[: max(1, len(call.wanted))]


def _embed(call: Call, ids: Tensor, segments: Tensor | None, *rest: Tensor | None) -> Any:
    """Words + positions + segments, normalised; and the number of real tokens of each row [batch]."""
    words, places, kinds, gain, bias, mask, positions = (*rest, *[None] * 7)[:7]
    if words is None or places is None:
        raise call.refuse("it lacks a table")
    where = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape) if positions is None else positions
    total = functional.embedding(ids.long(), words) + functional.embedding(where.long(), places)
    if kinds is not None and segments is not None:
        total = total + functional.embedding(segments.long(), kinds)
    result, _, _ = layer_norm(call, total, gain, bias)
    counts = torch.zeros(ids.shape[0], dtype=torch.int32) if mask is None else mask.sum(1).int()
    return (result, counts, total)[: max(1, len(call.wanted))]


def _batch_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    # [n, c, …], each channel by stored moments
    if call.get("training_mode", 0):
        raise call.refuse("training mode")
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = gain * torch.rsqrt(variance + float(call.get("epsilon", 1e-5)))
    return x * scale.reshape(shape) + (bias - mean * scale).reshape(shape)


def _instance_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    axes = tuple(range(2, x.dim()))
    shape = [1, -1, *[1] * len(axes)]
    centred = x - x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + float(call.get("epsilon", 1e-5)))
    return centred * inverse * gain.reshape(shape) + bias.reshape(shape)


def _group_norm(call: Call, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    groups, shape = int(call.get("num_groups")), [1, -1, *[1] * (x.dim() - 2)]
    if gain.numel() != x.shape[1]:
        # Before opset 21: one gain a group.
        gain, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (gain, bias))
    normal = functional.group_norm(x, groups, eps=float(call.get("epsilon", 1e-5)))
    return normal * gain.reshape(shape) + bias.reshape(shape)


def _lp_norm(call: Call, x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x, ord=int(call.get("p", 2)), dim=int(call.get("axis", -1)), keepdim=True)
    return x / size


def _mean_variance(call: Call, x: Tensor) -> Tensor:
    axes = tuple(call.get("axes", (0, 2, 3)))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def _local_response(call: Call, x: Tensor) -> Tensor:
    # Each channel by the squares of its neighbours.
    size = int(call.get("size"))
    low, high = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
    squares = functional.pad(x.square(), [0, 0] * (x.dim() - 2) + [low, high])
    total = sum(squares.narrow(1, at, x.shape[1]) for at in range(size))
    alpha, beta, bias = (float(call.get(name, value)) for name, value in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1)))
    return x / (bias + alpha / size * total) ** beta


TABLE: dict[str, Operator] = {
    "BatchNormalization": entry(_batch_norm),
    "GroupNormalization": entry(_group_norm),
    "InstanceNormalization": entry(_instance_norm),
    "LRN": entry(_local_response),
    "LayerNormalization": entry(_layer_norm),
    "LpNormalization": entry(_lp_norm),
    "MeanVarianceNormalization": entry(_mean_variance),
    "RMSNormalization": entry(_rms_norm),
    "SimplifiedLayerNormalization": entry(_rms_norm),
}

MICROSOFT: dict[str, Operator] = {
    "EmbedLayerNormalization": entry(_embed),
    "SimplifiedLayerNormalization": entry(_rms_norm),
    "SkipLayerNormalization": entry(_skip),
    "SkipSimplifiedLayerNormalization": entry(_skip),
}
