"""Operators that only move entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from onnxprune.unchanging.walk import Unchanging

Array = np.ndarray[Any, Any]

VIEWS = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def moved(find: Unchanging, node: gs.Node) -> Array | None:
    """Views and copies: each entry where it went."""
    held = find.of(node.inputs[0])
    if held is None or node.op not in VIEWS:
        return held
    if node.op == "Transpose":
        return held.transpose(node.attrs.get("perm"))
    return held.reshape(find.shape(node.outputs[0]))


def joined(find: Unchanging, node: gs.Node) -> Array | None:
    """Concat: what each part holds."""
    parts = [find.of(tensor) for tensor in node.inputs if tensor.name]
    if all(part is None for part in parts):
        return None
    shapes = [find.shape(tensor) for tensor in node.inputs if tensor.name]
    whole = [np.zeros(shape, bool) if part is None else part for part, shape in zip(parts, shapes, strict=True)]
    return np.concatenate(whole, axis=int(node.attrs["axis"]))


def sliced(find: Unchanging, node: gs.Node) -> Array | None:
    """Slices with known bounds."""
    held = find.of(node.inputs[0])
    if held is None or "starts" in node.attrs:
        return None
    given = [find.known(tensor) if tensor.name else None for tensor in node.inputs[1:]]
    if any(value is None for tensor, value in zip(node.inputs[1:], given, strict=True) if tensor.name):
        return None
    starts, ends, axes, steps = ([None if v is None else np.ravel(v).tolist() for v in given] + [None, None])[:4]
    where = [slice(None)] * held.ndim
    for at, axis in enumerate(axes if axes is not None else range(len(starts or ()))):
        step = 1 if steps is None else steps[at]
        if starts is None or ends is None or step < 1:
            return None
        where[axis] = slice(starts[at], ends[at], step)
    return np.asarray(held[tuple(where)])


def picked(find: Unchanging, node: gs.Node) -> Array | None:
    """Gather with known indices."""
    held, indices = find.of(node.inputs[0]), find.known(node.inputs[1])
    if held is None or indices is None:
        return None
    return np.take(held, indices, axis=int(node.attrs.get("axis", 0)))
