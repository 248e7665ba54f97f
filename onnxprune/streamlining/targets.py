"""Shapes that are computed at every run become literals: what a Reshape copies from its input needs no arithmetic.

Exporters ask each layer's tensors for their shapes and put new ones together from them: Shape, Gather, Unsqueeze and
Concat, dozens a layer. An axis that is as long as the input's own axis in its place is a 0 to Reshape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.observed import of_shapes, settled_shapes
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

Runs = Sequence[Sequence[int]]


def _wish(model: Model, context: Context) -> Wish | None:
    shapes = settled_shapes(model, context.shapes)
    found: dict[str, Any] = {}
    for node in model.graph.nodes:
        if node.op != "Reshape" or node.domain or isinstance(node.inputs[1], gs.Constant):
            continue
        source, out = (shapes.get(tensor.name) for tensor in (node.inputs[0], node.outputs[0]))
        if source is None or out is None or not of_shapes(node.inputs[1]):
            continue
        target = literal(source, out, _pieces(node.inputs[1], len(out[0])))
        if target is not None:
            found[node.outputs[0].name] = target
    return Wish({"targets": found}) if found else None


def literal(source: Runs, out: Runs, pieces: Sequence[int | None]) -> list[int | None] | None:
    """A Reshape's target: 0 where it copies its input's axis, -1 where the rest goes; None stands for a piece as it is.

    Args:
        source: shapes of the input, one a run; sizes of dynamic axes are co-prime.
        out: of the output.
        pieces: of the target, as far as the graph says them.
    """
    target: list[int | None] = []
    for axis, piece in enumerate(pieces):
        sizes = {shape[axis] for shape in out}
        if piece is not None and piece != 0:
            target.append(None)
        elif (
            axis < len(source[0])
            and len(sizes) > 1
            and all(a[axis] == b[axis] for a, b in zip(source, out, strict=True))
        ):
            target.append(0)
        elif len(sizes) == 1 and len(out) > 1 and 0 not in sizes:
            target.append(int(out[0][axis]))
        elif -1 not in (*target, *pieces):
            target.append(-1)
        else:
            return None
    return target


def _carry_out(model: Model, wish: Wish) -> Done:
    targets, places = wish.args.get("targets", {}), 0
    make = Rewriter(model.graph)
    for node in model.graph.nodes if targets else ():
        target = targets.get(node.outputs[0].name) if node.op == "Reshape" and node.outputs else None
        if target is None or isinstance(node.inputs[1], gs.Constant):
            continue
        pieces = _pieces(node.inputs[1], len(target))
        whole = [piece if entry is None else entry for entry, piece in zip(target, pieces, strict=True)]
        if any(size is None for size in whole):
            continue
        node.inputs[1] = make.shared("shape", np.array(whole).astype(np.int64))
        node.attrs.pop("allowzero", None)
        places += 1
    return Done(places)


def _pieces(target: gs.Tensor, rank: int) -> list[int | None]:
    """What a target's numbers are, one an axis: constants as the graph joins them, None for what is computed."""
    node = producer(target)
    if node is None or node.op != "Concat":
        return [None] * rank
    pieces: list[int | None] = []
    for part in node.inputs:
        pieces += [int(n) for n in np.ravel(numbers(part))] if isinstance(part, gs.Constant) else [None]
    return pieces if len(pieces) == rank else [None] * rank


SHAPES = Rewrite(
    name="shapes",
    what=("computed shape made a literal", "computed shapes made literals"),
    carry_out=_carry_out,
    wish=_wish,
)
