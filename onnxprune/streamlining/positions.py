"""Gathers by position become views: masks that exporters put together entry by entry.

Where attention's mask is traced through functions of positions, each of its entries is picked by the number of its
sample and of its key. Picking everything in its order is no more than a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import producer
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.grids import VIEWS, Grid, Grids, Size, product
from onnxprune.streamlining.observed import Runs, settled_shapes
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish
from onnxprune.streamlining.targets import literal

_GATHERS = {"Gather", "GatherND"}


def _wish(model: Model, context: Context) -> Wish | None:
    shapes = settled_shapes(model, context.shapes)
    if not shapes:
        return None
    grids = Grids(shapes, model.overridable)
    views: dict[str, Any] = {}
    for node in model.graph.nodes:
        if node.op not in _GATHERS or node.domain or not _takes_all(node, grids):
            continue
        target = _target(node.inputs[0], node.outputs[0], shapes)
        if target is not None:
            views[node.outputs[0].name] = target
    return Wish({"views": views}) if views else None


def _takes_all(node: gs.Node, grids: Grids) -> bool:
    """Whether a gather's output holds all entries of its data in their order."""
    data, picked = grids.sizes(node.inputs[0]), grids.sizes(node.inputs[1])
    if not data or not picked or isinstance(node.inputs[0], gs.Constant):
        return False
    one = (1,) * len(data[0])
    if node.op == "Gather":
        axis = node.attrs.get("axis", 0)
        grid, sizes = grids.of(node.inputs[1]), picked
        if any(size != one for at, size in enumerate(data) if at != axis % len(data)):
            return False
    else:
        grid, sizes = _flat_index(node, data, grids), picked[:-1]
    return grid is not None and product(one, *sizes) == product(one, *data) and grid.is_flat_index(sizes)


def _flat_index(node: gs.Node, data: tuple[Size, ...], grids: Grids) -> Grid | None:
    """Where in its data, row by row, a GatherND finds each entry."""
    joined = producer(node.inputs[1])
    if node.attrs.get("batch_dims", 0) or joined is None or joined.op != "Concat" or len(joined.inputs) != len(data):
        return None
    rank, flat = len(grids.sizes(node.inputs[1]) or ()), None
    if joined.attrs.get("axis") not in {-1, rank - 1}:
        return None
    stride = (1,) * len(data[0])
    for part, size in zip(reversed(joined.inputs), reversed(data), strict=True):
        grid, sizes = grids.of(part), grids.sizes(part)
        if grid is None or not sizes or set(sizes[-1]) != {1}:
            return None
        scaled = grid.times(stride)
        flat = scaled if flat is None else flat.plus(scaled)
        stride = product(stride, size)
    return None if flat is None else Grid(flat.start, flat.steps[:-1])


def _target(data: gs.Tensor, out: gs.Tensor, shapes: dict[str, Runs]) -> list[int | None] | None:
    """What a Reshape of what the data views is told."""
    source, wanted = shapes.get(_viewed(data).name), shapes.get(out.name)
    return literal(source, wanted, [None] * len(wanted[0])) if source is not None and wanted is not None else None


def _viewed(tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor is a view of."""
    while (node := producer(tensor)) is not None and node.op in VIEWS and not node.domain:
        tensor = node.inputs[0]
    return tensor


def _carry_out(model: Model, wish: Wish) -> Done:
    make, places, views = Rewriter(model.graph), 0, wish.args.get("views", {})
    for node in list(model.graph.nodes):
        if node.op not in _GATHERS or node.domain or node.outputs[0].name not in views:
            continue
        out = node.outputs[0]
        target = make.shared("shape", np.array(views[out.name], np.int64))
        make.replace(node, [make.node("Reshape", [_viewed(node.inputs[0]), target], [out])])
        places += 1
    make.finish()
    return Done(places)


POSITIONS = Rewrite(
    name="positions",
    what=("gather by position made a view", "gathers by position made views"),
    carry_out=_carry_out,
    wish=_wish,
)
