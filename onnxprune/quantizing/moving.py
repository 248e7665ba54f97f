"""Operators that move values and leave them as they are: integers may flow through them."""

from __future__ import annotations

from collections.abc import Collection

import onnx_graphsurgeon as gs

from onnxprune.graph import producer

# What onnxruntime runs on 8-bit integers at least as fast as on floats: not MaxPool, which it does not vectorise.
_MOVERS = {"Concat", "Flatten", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze"}


def paths_to(tensor: gs.Tensor, results: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What lies between a tensor and where its values come from, if they merely move on the way.

    Args:
        tensor: that is to be on a grid.
        results: tensors that are on a grid in any case.

    Returns:
        Tensors on the way that can be on the same grid, since nothing else reads them, nearest the source first; and of
        `results` those that it comes from.
    """
    passed: list[str] = []
    roots: list[str] = []

    def walk(at: gs.Tensor) -> None:
        node = producer(at)
        if node is None or node.domain or node.op not in _MOVERS or len(node.outputs) != 1 or not _plain(node):
            return
        moved = [one for one in (node.inputs if node.op == "Concat" else node.inputs[:1]) if not _fixed(one)]
        if any(one.name not in results and len(one.outputs) != 1 for one in moved):
            return
        for one in moved:
            if one.name in results:
                roots.append(one.name)
            else:
                walk(one)
                passed.append(one.name)

    if tensor.name not in results:
        walk(tensor)
    return tuple(passed), tuple(roots)


def _fixed(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant)


def _plain(node: gs.Node) -> bool:
    """Whether it moves values: a Resize may also mix them, and a Concat may bring constants."""
    if node.op == "Resize":
        return node.attrs.get("mode", "nearest") in {"nearest", b"nearest"}
    return node.op != "Concat" or not any(_fixed(tensor) for tensor in node.inputs)
