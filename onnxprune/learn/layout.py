"""Operators that move elements: shapes, joins, parts, look-ups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional

from onnxprune.learn.call import Call, Operator, Tensor, entry, ints, positive
from onnxprune.learn.elementwise import typed


def _reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    sizes = call.listed("shape", shape) or []
    if not call.get("allowzero", 0):
        sizes = [x.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
    return x.reshape(tuple(sizes))


def _flatten(call: Call, x: Tensor) -> Tensor:
    # [d0 … dn] -> [d0·…·d(axis-1), d(axis)·…·dn]
    axis = positive(int(call.get("axis", 1)), x.dim())
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    listed = call.listed("axes", axes)
    return x.squeeze() if listed is None else x.squeeze(tuple(listed))


def _unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    listed = call.listed("axes", axes) or []
    rank = x.dim() + len(listed)
    for axis in sorted(positive(axis, rank) for axis in listed):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(tuple(call.get("perm", range(x.dim())[::-1])))


def _concat(call: Call, *parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=int(call.get("axis", 1)))


def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = int(call.get("axis", 0))
    listed = call.listed("split", sizes)
    if listed is None:
        step = -(-x.shape[axis] // int(call.get("num_outputs", len(call.wanted))))
        return torch.split(x, step, dim=axis)
    return torch.split(x, listed, dim=axis)


def _slice(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begin, end = call.listed("starts", starts) or [], call.listed("ends", ends) or []
    where = call.listed("axes", axes) or list(range(len(begin)))
    by = [1] * len(begin) if steps is None else ints(steps)
    for low, high, axis, step in zip(begin, end, where, by, strict=True):
        size = x.shape[axis]
        places = range(size)[slice(low, high if high > -(2**62) else None, step)]
        if places == range(size):
            continue
        if not len(places):
            x = x.narrow(axis, 0, 0)
        elif step > 0:
            x = x[(slice(None),) * positive(axis, x.dim()) + (slice(places[0], places[-1] + 1, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), device=x.device))
    return x


def looked_up(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """What is found at indices [i…] along an axis of x [.., n, ..]: [.., i…, ..]; negative ones count back."""
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    rows = functional.embedding(flat, x) if axis == 0 and x.dim() == 2 else x.index_select(axis, flat)
    return rows.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    return looked_up(x, indices, positive(int(call.get("axis", 0)), x.dim()))


def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = positive(int(call.get("axis", 0)), x.dim())
    places = indices.long()
    return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places))


def _places(x: Tensor, indices: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Coordinates for advanced indexing: those of the batch axes, then the last axis of `indices`."""
    rank = indices.dim() - 1
    leading = tuple(
        torch.arange(x.shape[axis], device=indices.device).reshape(
            [-1 if at == axis else 1 for at in range(rank)]
        )
        for axis in range(batch)
    )  # fmt: skip
    found = indices.long().unbind(-1)
    return leading + tuple(
        torch.where(each < 0, each + x.shape[batch + at], each) for at, each in enumerate(found)
    )  # fmt: skip


def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    return x[_places(x, indices, int(call.get("batch_dims", 0)))]


def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    how = call.get("reduction", "none")
    where = _places(x, indices, 0)
    if how in {"none", "add"}:
        return x.index_put(where, updates, accumulate=how == "add")
    raise call.refuse(f"reduction {how!r}")


def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, how = positive(int(call.get("axis", 0)), x.dim()), call.get("reduction", "none")
    places = indices.long()
    places = torch.where(places < 0, places + x.shape[axis], places)
    if how == "none":
        return x.scatter(axis, places, updates)
    if how == "add":
        return x.scatter_add(axis, places, updates)
    reductions = {"mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, places, updates, reduce=reductions[how])


def _expand(_: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(shape))))


def _tile(_: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(tuple(ints(repeats)))


def _pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    amounts = call.listed("pads", pads) or []
    where = list(range(x.dim())) if axes is None else [positive(axis, x.dim()) for axis in ints(axes)]
    before, after = amounts[: len(where)], amounts[len(where) :]
    mode = call.get("mode", "constant")
    if mode == "constant":
        number = call.get("value", 0.0) if value is None else value.item()
        both = {axis: (low, high) for axis, low, high in zip(where, before, after, strict=True)}
        # torch counts axes from the last.
        flat = [amount for axis in reversed(range(x.dim())) for amount in both.get(axis, (0, 0))]
        return functional.pad(x, flat, value=number)
    names: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    for axis, low, high in zip(where, before, after, strict=True):
        if low or high:
            places = np.pad(np.arange(x.shape[axis]), (low, high), mode=names[mode])
            x = x.index_select(axis, torch.from_numpy(places).to(x.device))
    return x


def _range(_: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    low, high, step = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((high - low) / step))
    return torch.arange(count, dtype=start.dtype) * step + low


def _shape(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[slice(call.get("start", 0), call.get("end"))], dtype=torch.int64)


def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    held = call.get("value")
    if held is None:
        return torch.zeros(tuple(ints(shape)), dtype=call.floating)
    value = np.asarray(held.values).reshape(-1)[0]
    dtype = call.floating if value.dtype.kind == "f" else torch.from_numpy(np.array([value])).dtype
    return torch.full(tuple(ints(shape)), value.item(), dtype=dtype)


def _eye_like(call: Call, x: Tensor) -> Tensor:
    made = torch.diagonal_scatter(
        torch.zeros(x.shape), torch.ones(_diagonal(x, int(call.get("k", 0)))), int(call.get("k", 0))
    )
    return typed(call, made, int(call.get("dtype", onnx.TensorProto.FLOAT)))


def _diagonal(x: Tensor, offset: int) -> int:
    return len(torch.zeros(x.shape).diagonal(offset))


def _trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    offset = 0 if k is None else int(k.item())
    return torch.triu(x, offset) if call.get("upper", 1) else torch.tril(x, offset)


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    # [n, c, h, w] -> [n, c/b², h·b, w·b]
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    if call.get("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(call.get("blocksize"))
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def _one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count, axis = int(depth.item()), int(call.get("axis", -1))
    places = torch.remainder(indices.long(), count)
    hot = functional.one_hot(places, count).bool()
    hot = hot.movedim(-1, axis)
    return torch.where(hot, values[1], values[0])


def _reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = int(call.get("time_axis", 0)), int(call.get("batch_axis", 1))
    moved = x.movedim((batch, time), (0, 1))
    steps = torch.arange(moved.shape[1])
    rows = [
        row.index_select(0, torch.where(steps < length, length - 1 - steps, steps).to(x.device))
        for row, length in zip(moved, ints(lengths), strict=True)
    ]
    return torch.stack(rows).movedim((0, 1), (batch, time))


def _compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.get("axis")
    source = x.reshape(-1) if axis is None else x
    return source.index_select(0 if axis is None else int(axis), condition.nonzero().reshape(-1))


TABLE: dict[str, Operator] = {
    "Compress": entry(_compress),
    "Concat": entry(_concat),
    "ConstantOfShape": entry(_constant_of_shape, 0),
    "DepthToSpace": entry(_depth_to_space),
    "Expand": entry(_expand, 1),
    "EyeLike": entry(_eye_like),
    "Flatten": entry(_flatten),
    "Gather": entry(_gather),
    "GatherElements": entry(_gather_elements),
    "GatherND": entry(_gather_nd),
    "NonZero": entry(lambda _, x: x.nonzero().T),
    "OneHot": entry(_one_hot, 1),
    "Pad": entry(_pad, 1, 2, 3),
    "Range": entry(_range, 0, 1, 2),
    "Reshape": entry(_reshape, 1),
    "ReverseSequence": entry(_reverse_sequence, 1),
    "ScatterElements": entry(_scatter_elements),
    "ScatterND": entry(_scatter_nd),
    "Shape": entry(_shape),
    "Size": entry(lambda _, x: torch.tensor(x.numel(), dtype=torch.int64)),
    "Slice": entry(_slice, 1, 2, 3, 4),
    "SpaceToDepth": entry(_space_to_depth),
    "Split": entry(_split, 1),
    "Squeeze": entry(_squeeze, 1),
    "Tile": entry(_tile, 1),
    "Transpose": entry(_transpose),
    "Trilu": entry(_trilu, 1),
    "Unsqueeze": entry(_unsqueeze, 1),
}
