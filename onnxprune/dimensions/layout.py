"""Operators that renumber elements: axes are split, merged, permuted, repeated."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import is_one, ratio
from onnxprune.dimensions.tracer import Tracer, label


def reshape(t: Tracer, node: gs.Node) -> None:
    """Reshape: both shapes number the same elements in row-major order."""
    t.forest.match(t.input(node, 0), t.output(node))
    t.sink(node, "reshape")


def regroup(t: Tracer, node: gs.Node) -> None:
    """Flatten, Squeeze and Unsqueeze state no sizes, so that nothing needs rewriting."""
    t.forest.match(t.input(node, 0), t.output(node))


def transpose(t: Tracer, node: gs.Node) -> None:
    """Transpose: out[i] is in[perm[i]]."""
    axes, output = t.input(node, 0), t.output(node)
    order = node.attrs.get("perm") or range(len(axes))[::-1]
    for out, axis in zip(output, order, strict=True):
        t.unite(axes[axis], out)


def expand(t: Tracer, node: gs.Node) -> None:
    """Expand: single entries become factors of their own, which may be cut: a group of query heads is one."""
    t.broadcast(t.input(node, 0), t.output(node))
    t.sink(node, "expand")


def filled(t: Tracer, node: gs.Node) -> None:
    """ConstantOfShape: every axis is new, and its size is stated."""
    t.output(node)
    t.sink(node, "fill")


def tile(t: Tracer, node: gs.Node) -> None:
    """Tile: an axis repeated r times is r x axis."""
    for axis, out in zip(t.input(node, 0), t.output(node), strict=True):
        if axis.size == out.size:
            t.unite(axis, out)
        elif not is_one(axis.size):
            repeats = ratio(out.size, axis.size)
            if repeats is None:
                t.pin(axis, f"{label(node)} repeats it unevenly")
                t.pin(out, f"{label(node)} repeats it unevenly")
            else:
                t.unite(out, t.forest.product([t.forest.leaf(repeats), axis]))
    t.sink(node, "tile")


def depth_to_space(t: Tracer, node: gs.Node) -> None:
    """DepthToSpace: channels are block x block x C (DCR) or C x block x block (CRD)."""
    axes, output = t.input(node, 0), t.output(node)
    block = (int(node.attrs["blocksize"]) ** 2,) * t.runs
    kept = output[1].size
    if node.attrs.get("mode", "DCR") == "DCR":
        moved, channels = t.forest.split_product(axes[1], [block, kept])
    else:
        channels, moved = t.forest.split_product(axes[1], [kept, block])
    t.unite(axes[0], output[0])
    t.unite(channels, output[1])
    for factor in (moved, *axes[2:], *output[2:]):
        t.pin(factor, f"{label(node)} moves it between channels and space")


def space_to_depth(t: Tracer, node: gs.Node) -> None:
    """SpaceToDepth: channels become block x block x C."""
    axes, output = t.input(node, 0), t.output(node)
    block = (int(node.attrs["blocksize"]) ** 2,) * t.runs
    moved, channels = t.forest.split_product(output[1], [block, axes[1].size])
    t.unite(axes[0], output[0])
    t.unite(channels, axes[1])
    for factor in (moved, *axes[2:], *output[2:]):
        t.pin(factor, f"{label(node)} moves it between channels and space")
