"""Padding with zeros becomes the padding of the convolution that reads it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.folding.reading import bypass, number
from onnxprune.graph import numbers


def fold_pads(graph: gs.Graph, overridable: frozenset[str]) -> int:
    """Pads whose readers are all convolutions; how many went."""
    folded = 0
    for node in list(graph.nodes):
        pads = _zeros_around(node, overridable)
        if pads is None or any(out is node.outputs[0] for out in graph.outputs):
            continue
        readers = list(node.outputs[0].outputs)
        if not readers or not all(_takes(reader, node.outputs[0]) for reader in readers):
            continue
        for reader in readers:
            own = reader.attrs.get("pads") or [0] * len(pads)
            reader.attrs["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            # An attribute that says the same would contradict the new one.
            reader.attrs.pop("auto_pad", None)
        bypass(node, node.inputs[0])
        folded += 1
    return folded


def _zeros_around(node: gs.Node, overridable: frozenset[str]) -> list[int] | None:
    """Zeros that a Pad puts around the spatial axes, all beginnings first; None where it does something else."""
    if node.op != "Pad" or node.domain or not node.outputs:
        return None
    mode = node.attrs.get("mode", "constant")
    if mode not in {"constant", b"constant"} or _value(node, overridable) != 0 or any(t.name for t in node.inputs[3:]):
        return None
    sizes = [int(size) for size in node.attrs.get("pads", ())]
    if len(node.inputs) > 1:
        listed = node.inputs[1]
        known = isinstance(listed, gs.Constant) and listed.name not in overridable
        sizes = [int(size) for size in np.ravel(numbers(listed))] if known else []
    rank = len(sizes) // 2
    if rank < 3 or any(sizes[at] for at in (0, 1, rank, rank + 1)) or min(sizes) < 0:
        return None
    return [*sizes[2:rank], *sizes[rank + 2 :]]


def _value(node: gs.Node, overridable: frozenset[str]) -> float | None:
    if len(node.inputs) > 2 and node.inputs[2].name:
        return number(node.inputs[2], overridable)
    return float(node.attrs.get("value", 0.0))


def _takes(reader: gs.Node, padded: gs.Tensor) -> bool:
    if reader.op != "Conv" or reader.domain or reader.inputs[0] is not padded:
        return False
    if any(tensor is padded for tensor in reader.inputs[1:]):
        return False
    return reader.attrs.get("auto_pad", "NOTSET") in {"NOTSET", b"NOTSET", "VALID", b"VALID"}
