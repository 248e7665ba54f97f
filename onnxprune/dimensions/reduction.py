"""Operators that look along an axis as a whole: softmax, norms, reductions, pooling, resizing."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import is_one
from onnxprune.dimensions.tracer import Tracer, label

# Sums do not notice a zero that is left out; means, extremes and products do.
SUMS = frozenset({"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"})


def softmax(t: Tracer, node: gs.Node) -> None:
    """Softmax, LogSoftmax, Hardmax: before opset 13 over all axes from `axis` on."""
    axes = t.input(node, 0)
    t.unite_all(axes, t.output(node))
    axis = int(node.attrs.get("axis", -1 if t.opset >= 13 else 1)) % len(axes)
    over = axes[axis : axis + 1] if t.opset >= 13 else axes[axis:]
    for factor in axes:
        if any(factor is each for each in over):
            t.pin(factor, f"{label(node)} normalises over it")
        else:
            t.batches.append((factor, node.op))


def layer_norm(t: Tracer, node: gs.Node) -> None:
    """LayerNormalization, RMSNormalization, SimplifiedLayerNormalization: over all axes from `axis` on."""
    axes, output = t.input(node, 0), t.output(node)
    t.unite_all(axes, output)
    for index in (1, 2):
        t.broadcast(t.input(node, index), output)
    for factor in axes[int(node.attrs.get("axis", -1)) % len(axes) :]:
        t.pin(factor, f"{label(node)} normalises over it")
    for index in (1, 2):
        t.broadcast(t.output(node, index), axes)


def skip_layer_norm(t: Tracer, node: gs.Node) -> None:
    """SkipLayerNormalization, SkipSimplifiedLayerNormalization: input, skip, then vectors; the sum is output 3."""
    axes = t.input(node, 0)
    for index in range(1, len(node.inputs)):
        t.broadcast(t.input(node, index), axes)
    for index in (0, 3):
        t.unite_all(axes, t.output(node, index))
    t.pin(axes[-1], f"{label(node)} normalises over it")
    for index in (1, 2):
        t.broadcast(t.output(node, index), axes)


def embed_layer_norm(t: Tracer, node: gs.Node) -> None:
    """EmbedLayerNormalization: rows of three tables are summed and normalised."""
    output = t.output(node)
    for index in (2, 3, 4):
        table = t.input(node, index)
        if table:
            t.pin(table[0], f"{label(node)} picks from it by index")
            t.unite(table[1], output[-1])
    for index in (5, 6):
        t.broadcast(t.input(node, index), output)
    for index in (0, 1, 7, 8):
        for factor in t.input(node, index):
            t.pin(factor, f"{label(node)} reads positions from it")
    for position in (*output[:2], *t.output(node, 1)):
        t.pin(position, f"{label(node)} reads positions from it")
    t.unite_all(output, t.output(node, 2))
    t.pin(output[-1], f"{label(node)} normalises over it")


def channel_norm(t: Tracer, node: gs.Node) -> None:
    """BatchNormalization and InstanceNormalization treat every channel alone."""
    axes, output = t.input(node, 0), t.output(node)
    t.unite_all(axes, output)
    for index in range(1, len(node.inputs)):
        for factor in t.input(node, index):
            t.unite(factor, axes[1])
    if node.op == "InstanceNormalization":
        for factor in axes[2:]:
            t.pin(factor, f"{label(node)} normalises over it")


def group_norm(t: Tracer, node: gs.Node) -> None:
    """GroupNormalization: whole groups pass; the vectors are per group (opset 18) or per channel (21)."""
    axes, output = t.input(node, 0), t.output(node)
    t.unite_all(axes, output)
    groups = (int(node.attrs["num_groups"]),) * t.runs
    inner = tuple(a // b for a, b in zip(axes[1].size, groups, strict=True))
    group, within = t.forest.split_product(axes[1], [groups, inner])
    for index in (1, 2):
        for factor in t.input(node, index):
            t.unite(factor, axes[1] if factor.size == axes[1].size else group)
    t.attribute(node, "num_groups", group)
    for factor in (within, *axes[2:]):
        t.pin(factor, f"{label(node)} normalises over it")


def lp_norm(t: Tracer, node: gs.Node) -> None:
    """LpNormalization."""
    axes = t.input(node, 0)
    t.unite_all(axes, t.output(node))
    t.pin(axes[int(node.attrs.get("axis", -1))], f"{label(node)} normalises over it")


def local_norm(t: Tracer, node: gs.Node) -> None:
    """LRN looks at neighbouring channels."""
    axes = t.input(node, 0)
    t.unite_all(axes, t.output(node))
    for factor in axes[1:]:
        t.pin(factor, f"{label(node)} normalises over it")


def reduce(t: Tracer, node: gs.Node) -> None:
    """Reductions: a sum consumes its axes, the others pin them."""
    axes, output = t.input(node, 0), t.output(node)
    if node.op in {"ArgMax", "ArgMin"}:
        over = {int(node.attrs.get("axis", 0)) % len(axes)}
    elif t.tensor(node, 1) is not None:
        held = t.numbers(node, 1)
        if held is None:
            t.pin_all(node, f"{label(node)} reduces axes that are only known at run time")
            return
        over = {int(axis) % len(axes) for axis in np.ravel(held)}
    else:
        over = {int(axis) % len(axes) for axis in node.attrs.get("axes") or ()}
    if not over:
        if node.attrs.get("noop_with_empty_axes", 0):
            t.unite_all(axes, output)
            return
        over = set(range(len(axes)))
    kept = [axis for axis in range(len(axes)) if axis not in over]
    targets = [output[axis] for axis in kept] if len(output) == len(axes) else output
    for axis, out in zip(kept, targets, strict=False):
        t.unite(axes[axis], out)
    for axis in sorted(over):
        if node.op in SUMS:
            t.consume(node, 0, axis)
        else:
            t.pin(axes[axis], f"{label(node)} reduces over it")


def pool(t: Tracer, node: gs.Node) -> None:
    """Pooling: batch and channels pass."""
    axes = t.input(node, 0)
    for index in range(len(node.outputs)):
        output = t.output(node, index)
        t.unite_all(axes[:2], output[:2])
        for factor in output[2:]:
            t.pin(factor, f"{label(node)} slides over it")
    for factor in axes[2:]:
        t.pin(factor, f"{label(node)} slides over it")


def resize(t: Tracer, node: gs.Node) -> None:
    """Resize, Upsample: axes that keep their size pass."""
    axes, output = t.input(node, 0), t.output(node)
    for axis, out in zip(axes, output, strict=True):
        if axis.size == out.size and not is_one(axis.size):
            t.unite(axis, out)
        else:
            t.pin(axis, f"{label(node)} interpolates along it")
            t.pin(out, f"{label(node)} interpolates along it")
    for axis in axes[2:]:
        t.pin(axis, f"{label(node)} interpolates along it")
    t.sink(node, "resize")
