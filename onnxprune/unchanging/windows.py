"""Convolutions, pools, normalisation and means: whole channels at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.unchanging.entries import either

if TYPE_CHECKING:
    from onnxprune.unchanging.walk import Unchanging

Array = np.ndarray[Any, Any]


def convolved(find: Unchanging, node: gs.Node) -> Array | None:
    """Whole channels: those whose filters are zero wherever their input changes."""
    weight, groups = find.known(node.inputs[1]), int(node.attrs.get("group", 1))
    if weight is None or (len(node.inputs) > 2 and node.inputs[2].name and find.known(node.inputs[2]) is None):
        return None
    padded = any(node.attrs.get("pads") or ()) or node.attrs.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    # At a padded border a constant meets zeros: only a constant zero stays what it is.
    held = find.zero(node.inputs[0]) if padded or node.op == "ConvTranspose" else find.of(node.inputs[0])
    space = tuple(range(2, weight.ndim))
    reads = np.any(weight, axis=space)
    every = np.ones((1, find.shape(node.inputs[0])[1]), bool)
    moving = every if held is None else np.asarray(~held.all(axis=space))
    if node.op == "Conv":
        reads = reads.reshape(groups, -1, reads.shape[1])
    else:
        reads = reads.reshape(groups, -1, reads.shape[1]).swapaxes(1, 2)
    parts = moving.reshape(len(moving), groups, -1).astype(np.float32)
    changes = np.einsum("goi,bgi->bgo", reads.astype(np.float32), parts).reshape(len(moving), -1)
    return np.asarray(changes == 0).reshape(*changes.shape, *(1 for _ in space))


def normalised(find: Unchanging, node: gs.Node) -> Array | None:
    """BatchNormalization of constants: a gain of zero leaves the bias."""
    vectors = [find.known(tensor) for tensor in node.inputs[1:]]
    rank = len(find.shape(node.inputs[0]))
    if vectors[0] is None or vectors[1] is None or len(node.outputs) > 1:
        return None
    off: Array | None = (vectors[0] == 0).reshape(1, -1, *(1 for _ in range(rank - 2)))
    held = find.of(node.inputs[0]) if all(vector is not None for vector in vectors) else None
    return either(off, held)


def pooled(find: Unchanging, node: gs.Node) -> Array | None:
    """Whole channels of pools that count no padding."""
    held = find.of(node.inputs[0])
    if held is None or (node.op == "AveragePool" and node.attrs.get("count_include_pad", 0)):
        return None
    return _alike_over(find, node.inputs[0], tuple(range(2, held.ndim)))


def reduced(find: Unchanging, node: gs.Node) -> Array | None:
    """Means over axes that are known: sums depend on how many there are."""
    held = find.of(node.inputs[0])
    if held is None:
        return None
    given = find.known(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
    if given is None:
        return None
    axes = tuple(int(axis) % held.ndim for axis in np.ravel(given))
    whole = _alike_over(find, node.inputs[0], axes)
    return None if whole is None else whole.reshape(find.shape(node.outputs[0]))


def _alike_over(find: Unchanging, tensor: gs.Tensor, axes: tuple[int, ...]) -> Array | None:
    """Entries that never change and are one number along several axes."""
    held: Array | None = None
    for axis in axes:
        alike = find.alike(tensor, axis)
        if alike is None:
            return None
        whole = np.asarray(alike.all(axis=axes, keepdims=True))
        held = whole if held is None else held & whole
    return held
