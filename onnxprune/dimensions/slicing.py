"""Operators that take an axis apart or lay axes end to end."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, Indices, Size, is_one
from onnxprune.dimensions.tracer import Axes, Tracer, label

# A constant list of picked indices is followed run by run up to this many runs; beyond, the axis is pinned.
MOST_RUNS = 256


def concat(t: Tracer, node: gs.Node) -> None:
    """Concat: one axis is the sum of the operands'; the others are shared."""
    output = t.output(node)
    axis = int(node.attrs["axis"]) % len(output)
    parts: Axes = []
    for index in range(len(node.inputs)):
        axes = t.input(node, index)
        t.unite_all(axes, output, skip=[axis])
        if axes:
            parts.append(axes[axis])
    t.unite(output[axis], t.branch(node, parts) or t.forest.sum(parts))


def split(t: Tracer, node: gs.Node) -> None:
    """Split: the axis is the sum of the outputs'."""
    axes = t.input(node, 0)
    axis = int(node.attrs.get("axis", 0)) % len(axes)
    outputs = [t.output(node, index) for index in range(len(node.outputs))]
    if not all(outputs):
        for factor in axes:
            t.pin(factor, f"an output of {label(node)} was not observed")
        return
    for output in outputs:
        t.unite_all(axes, output, skip=[axis])
    t.unite(axes[axis], t.forest.sum([output[axis] for output in outputs]))
    t.sink(node, "split")


def slice_(t: Tracer, node: gs.Node) -> None:
    """Slice: constant bounds take segments of an axis; others pin it."""
    axes, output = t.input(node, 0), t.output(node)
    if "starts" in node.attrs:  # opset < 10
        starts, which, steps = (
            np.asarray(node.attrs[key]) if key in node.attrs else None for key in ("starts", "axes", "steps")
        )
    else:
        starts, which, steps = t.numbers(node, 1), t.numbers(node, 3), t.numbers(node, 4)
    touched = {axis for axis, (a, b) in enumerate(zip(axes, output, strict=True)) if a.size != b.size}
    if t.tensor(node, 3) is not None and which is None:
        t.pin_all(node, f"{label(node)} cuts axes that are only known at run time")
        return
    picks: dict[int, Indices] = {}
    order = [int(axis) % len(axes) for axis in np.ravel(which)] if which is not None else list(range(len(axes)))
    for axis, factor in enumerate(axes):
        at = order.index(axis) if axis in order else None
        step = 1 if steps is None or at is None else int(np.ravel(steps)[at])
        if axis not in touched and step == 1:
            t.unite(factor, output[axis])
        elif starts is None or at is None or not factor.static or not output[axis].static:
            for each in (factor, output[axis]):
                t.pin(each, f"{label(node)} takes a part of it that is only known at run time")
        else:
            size, length = factor.size[0], output[axis].size[0]
            start = int(np.ravel(starts)[at])
            start = min(max(start + size if start < 0 else start, 0), size if step > 0 else size - 1)
            picks[axis] = start + step * np.arange(length)
            take(t, node, factor, output[axis], picks[axis])
    # Bounds that are only known at run time speak of all axes, or the axes are stated.
    t.sink(node, "slice", picks, order if which is not None or starts is None else order[: np.size(starts)])


def gather(t: Tracer, node: gs.Node) -> None:
    """Gather: constant indices take segments; computed ones pin the axis, as in an embedding."""
    data, indices, output = t.input(node, 0), t.input(node, 1), t.output(node)
    axis = int(node.attrs.get("axis", 0)) % len(data)
    rank = len(indices)
    t.unite_all(data[:axis], output[:axis])
    t.unite_all(data[axis + 1 :], output[axis + rank :])
    for other in range(len(data)):
        if other != axis:
            t.produce(node, 0, other)
    picked = t.numbers(node, 1)
    if picked is not None and rank <= 1 and data[axis].static:
        size = data[axis].size[0]
        where = np.ravel(picked).astype(np.int64) % size
        out = output[axis] if rank else t.forest.leaf((1,) * t.runs)
        if take(t, node, data[axis], out, where):
            t.sink(node, "gather", {axis: where})
            return
    else:
        t.unite_all(indices, output[axis : axis + rank])
    for factor in (data[axis], *output[axis : axis + rank]):
        t.pin(factor, f"{label(node)} picks from it by index")


def gather_nd(t: Tracer, node: gs.Node) -> None:
    """GatherND: constant indices into the first axis are a Gather; others pin what they index."""
    data, indices, output = t.input(node, 0), t.input(node, 1), t.output(node)
    batch, depth = int(node.attrs.get("batch_dims", 0)), indices[-1].size[0]
    lead = len(indices) - 1
    t.unite_all(data[batch + depth :], output[lead:])
    picked = t.numbers(node, 1)
    if picked is not None and (batch, depth, lead) == (0, 1, 1) and data[0].static:
        where = picked[:, 0].astype(np.int64) % data[0].size[0]
        if take(t, node, data[0], output[0], where):
            t.sink(node, "gather", {0: where})
            return
    t.unite_all(data[:batch], output[:batch])
    t.unite_all(indices[:lead], output[:lead])
    for factor in (*data[batch : batch + depth], *output[batch:lead], *indices[-1:]):
        t.pin(factor, f"{label(node)} picks from it by index")


def gather_elements(t: Tracer, node: gs.Node) -> None:
    """GatherElements: indices over one axis, the others in step where they are as long."""
    data, indices, output = t.input(node, 0), t.input(node, 1), t.output(node)
    axis = int(node.attrs.get("axis", 0)) % len(data)
    t.unite_all(indices, output)
    for other, (factor, out) in enumerate(zip(data, output, strict=True)):
        if other != axis and factor.size == out.size:
            t.unite(factor, out)
        else:
            t.pin(factor, f"{label(node)} picks from it by index")
            t.pin(out, f"{label(node)} picks from it by index")


def pad(t: Tracer, node: gs.Node) -> None:
    """Pad: axes that do not grow pass."""
    for axis, out in zip(t.input(node, 0), t.output(node), strict=True):
        if axis.size == out.size:
            t.unite(axis, out)
        else:
            t.pin(axis, f"{label(node)} pads it")
            t.pin(out, f"{label(node)} pads it")


def last_two_fixed(t: Tracer, node: gs.Node) -> None:
    """Trilu: the matrix axes are pinned, batch axes pass."""
    axes = t.input(node, 0)
    t.unite_all(axes, t.output(node))
    for factor in axes[-2:]:
        t.pin(factor, f"{label(node)} compares its positions")


def along_axis(t: Tracer, node: gs.Node) -> None:
    """CumSum: its axis is pinned, the others pass."""
    axes = t.input(node, 0)
    t.unite_all(axes, t.output(node))
    axis = t.numbers(node, 1)
    for factor in axes if axis is None else [axes[int(axis.reshape(-1)[0])]]:
        t.pin(factor, f"{label(node)} runs along it")


def take(t: Tracer, node: gs.Node, source: Factor, out: Factor, where: Indices) -> bool:
    """Unite `out` with the entries `where` of `source`, as segments, strides or repeats; False where none fits."""
    total, count = source.size[0], len(where)
    if count == total and np.array_equal(where, np.arange(total)):
        t.unite(source, out)
        return True
    if count > total and count % total == 0:
        times = count // total
        many = t.forest.leaf((times,) * t.runs)
        if np.array_equal(where, np.repeat(np.arange(total), times)):
            t.unite(out, t.forest.product([source, many]))
            return True
        if np.array_equal(where, np.tile(np.arange(total), times)):
            t.unite(out, t.forest.product([many, source]))
            return True
    step = int(where[1] - where[0]) if count > 1 else 1
    if step > 1 and total % step == 0 and count == total // step and np.all(np.diff(where) == step):
        lane = int(where[0])
        outer, inner = t.forest.split_product(source, [(count,) * t.runs, (step,) * t.runs])
        t.forest.split_sum(inner, [(n,) * t.runs for n in (lane, 1, step - 1 - lane) if n])
        t.unite(out, outer)
        return True
    return _take_runs(t, node, source, out, where)


def _take_runs(t: Tracer, node: gs.Node, source: Factor, out: Factor, where: Indices) -> bool:
    breaks = np.flatnonzero(np.diff(where) != 1) + 1
    runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(where, breaks) if len(run)]
    bounds = sorted({0, source.size[0], *(start for start, _ in runs), *(end for _, end in runs)})
    if len(runs) > MOST_RUNS or len(bounds) > MOST_RUNS:
        t.pin(source, f"{label(node)} picks scattered entries of it")
        t.pin(out, f"{label(node)} picks scattered entries of it")
        return False
    sizes: list[Size] = [(b - a,) * t.runs for a, b in pairwise(bounds)]
    parts = dict(zip(bounds, t.forest.split_sum(source, sizes), strict=False))
    taken = [parts[at] for start, end in runs for at in bounds if start <= at < end]
    if not is_one(out.size):
        t.unite(out, t.forest.sum(taken))
    return True
