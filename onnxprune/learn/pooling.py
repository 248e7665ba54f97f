"""Windows over space: pools, and resizing as a product with one interpolation matrix an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from onnxprune.learn.call import Call, Operator, Tensor, entry
from onnxprune.learn.products import padded, spatial_pads

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _window(call: Call, x: Tensor) -> tuple[list[int], list[int], list[int], list[tuple[int, int]], list[int]]:
    """(kernel, strides, dilations, pads, entries that rounding up adds behind)."""
    axes = x.dim() - 2
    kernel = [int(size) for size in call.get("kernel_shape")]
    strides, dilations = ([int(n) for n in call.get(name, [1] * axes)] for name in ("strides", "dilations"))
    pads = spatial_pads(call, x.shape[2:], kernel, strides, dilations)
    beyond = [0] * axes
    if call.get("ceil_mode", 0):
        for at, (size, k, stride, dilation) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
            room = size + sum(pads[at]) - (k - 1) * dilation - 1
            steps = math.ceil(room / stride)
            # No window begins beyond the entries and the padding before them.
            steps -= steps * stride >= size + pads[at][0]
            beyond[at] = max(0, steps * stride - room)
    return kernel, strides, dilations, pads, beyond


def _max_pool(call: Call, x: Tensor) -> Any:
    kernel, strides, dilations, pads, beyond = _window(call, x)
    if call.wants(1):
        raise call.refuse("its second output, the places of the maxima")
    whole = padded(x, [(low, high + more) for (low, high), more in zip(pads, beyond, strict=True)], -math.inf)
    return _MAX[len(kernel)](whole, kernel, strides, 0, dilations)


def _total(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Sums over windows."""
    if all(step == 1 for step in dilations):
        means: Tensor = _MEAN[len(kernel)](x, list(kernel), list(strides))
        return means * math.prod(kernel)
    n, c = x.shape[:2]
    ones = torch.ones(1, 1, *kernel, dtype=x.dtype, device=x.device)
    convolve: Any = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(kernel)]
    flat = convolve(x.reshape(n * c, 1, *x.shape[2:]), ones, None, stride=list(strides), dilation=list(dilations))
    summed: Tensor = flat.reshape(n, c, *flat.shape[2:])
    return summed


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads, beyond = _window(call, x)
    ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    behind = [(0, more) for more in beyond]
    whole = padded(padded(x, pads), behind)
    counted = padded(padded(ones, pads, 1.0 if call.get("count_include_pad", 0) else 0.0), behind)
    return _total(whole, kernel, strides, dilations) / _total(counted, kernel, strides, dilations)


def _lp_pool(call: Call, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads, beyond = _window(call, x)
    p = int(call.get("p", 2))
    whole = padded(x.abs() ** p, [(low, high + more) for (low, high), more in zip(pads, beyond, strict=True)])
    return _total(whole, kernel, strides, dilations) ** (1 / p)


def _global(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _source(call: Call, size: int, out: int, scale: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[out]: where each entry of the result lies on the original axis."""
    places = np.arange(out, dtype=np.float64)
    mode = call.get("coordinate_transformation_mode", "half_pixel" if call.op == "Resize" else "asymmetric")
    if call.op == "Resize" and call.opset < 11:
        mode = "asymmetric"
    if mode == "asymmetric":
        return places / scale
    if mode == "align_corners":
        return places * (size - 1) / max(out - 1, 1)
    if mode == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    if mode == "half_pixel_symmetric":
        # The result is centred where its length was rounded.
        adjusted = out / (scale * size)
        return size / 2 * (1 - adjusted) + (places + 0.5) / scale - 0.5
    if mode in {"half_pixel", "pytorch_half_pixel"}:
        return (places + 0.5) / scale - 0.5
    raise call.refuse(f"coordinates {mode!r}")


def _taps(call: Call, places: np.ndarray[Any, Any], mode: str) -> list[tuple[Any, Any]]:
    """(index, share) of each neighbour that an entry is mixed from."""
    if mode == "nearest":
        default = "round_prefer_floor" if call.opset >= 11 and call.op == "Resize" else "floor"
        rounding = call.get("nearest_mode", default)
        rules: dict[str, Any] = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda x: np.ceil(x - 0.5),
            "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        }
        return [(rules[rounding](places), np.ones(len(places)))]
    base = np.floor(places)
    part = places - base
    if mode in {"linear", "bilinear"}:
        return [(base, 1 - part), (base + 1, part)]
    a = float(call.get("cubic_coeff_a", -0.75))

    # Keys' kernel, its inner and its outer part.
    def near(t: Any) -> Any:
        return ((a + 2) * t - (a + 3)) * t**2 + 1

    def far(t: Any) -> Any:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [(base - 1, far(part + 1)), (base, near(part)), (base + 1, near(1 - part)), (base + 2, far(2 - part))]


def _interpolation(call: Call, size: int, out: int, scale: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[out, size]: how each entry of the result is mixed."""
    matrix = np.zeros((out, size))
    mode = call.get("mode", "nearest")
    outside = bool(call.get("exclude_outside", 0))
    for index, share in _taps(call, _source(call, size, out, scale), mode):
        inside = (index >= 0) & (index < size)
        weight = np.where(inside, share, 0) if outside else share
        np.add.at(matrix, (np.arange(out), np.clip(index, 0, size - 1).astype(int)), weight)
    if outside:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix


def _resize(call: Call, x: Tensor, *rest: Tensor | None) -> Tensor:
    """Every axis that changes is multiplied by its interpolation matrix."""
    if call.get("antialias", 0) or call.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refuse("antialias, or a kept aspect ratio")
    newer = call.op == "Resize" and call.opset >= 11
    scales = (rest[1] if len(rest) > 1 else None) if newer else (rest[0] if rest else None)
    sizes = rest[2] if newer and len(rest) > 2 else None
    axes = [int(axis) for axis in call.get("axes", range(x.dim()))]
    if sizes is not None and sizes.numel():
        wanted = [int(size) for size in sizes.tolist()]
        factors = [size / x.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    else:
        factors = call.get("scales") if scales is None else [float(factor) for factor in scales.tolist()]
        wanted = [math.floor(x.shape[axis] * factor) for factor, axis in zip(factors, axes, strict=True)]
    for axis, out, factor in zip(axes, wanted, factors, strict=True):
        if factor == 1 and out == x.shape[axis]:
            continue
        matrix = torch.from_numpy(_interpolation(call, x.shape[axis], out, factor)).to(x)
        x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


TABLE: dict[str, Operator] = {
    "AveragePool": entry(_average_pool),
    "GlobalAveragePool": entry(lambda _, x: x.mean(_global(x), keepdim=True)),
    "GlobalLpPool": entry(
        lambda call, x: torch.linalg.vector_norm(x, ord=int(call.get("p", 2)), dim=_global(x), keepdim=True)
    ),
    "GlobalMaxPool": entry(lambda _, x: x.amax(_global(x), keepdim=True)),
    "LpPool": entry(_lp_pool),
    "MaxPool": entry(_max_pool),
    "Resize": entry(_resize, 1, 2, 3),
    "Upsample": entry(_resize, 1),
}
