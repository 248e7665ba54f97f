"""Sizes that each layer asks its own tensors for are asked once, of the model's inputs.

A batch is as large in the last layer as in the first. Where all layers ask the same tensor, what they make of its size
is the same operator, too, and `duplicates` leaves one of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter, substitute
from onnxprune.streamlining.grids import Grids, Size
from onnxprune.streamlining.observed import settled_shapes
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

# Operators between a size and a condition.
_RECKONED = {
    "Add", "And", "Cast", "Concat", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Not", "Or", "ReduceAll", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where", "Xor",
}  # fmt: skip


def _wish(model: Model, context: Context) -> Wish | None:
    shapes = settled_shapes(model, context.shapes)
    grids = Grids(shapes, model.overridable)
    first = _first(model.graph, grids)
    inputs: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for node in model.graph.nodes if shapes else ():
        asked = grids.asked(node)
        sizes = grids.sizes(asked[0]) if asked is not None else None
        if asked is None or sizes is None:
            continue
        tensor, axis = asked
        name, size = node.outputs[0].name, sizes[axis]
        if size in first and first[size] != (tensor.name, axis):
            inputs[name] = first[size]
        elif len(set(size)) == 1 < len(size) and not _decides(node.outputs[0]):
            numbers[name] = size[0]
    return Wish({"inputs": inputs, "numbers": numbers}) if inputs or numbers else None


def _first(graph: gs.Graph, grids: Grids) -> dict[Size, tuple[str, int]]:
    """The first input and axis of each size that changes from run to run."""
    found: dict[Size, tuple[str, int]] = {}
    for tensor in graph.inputs:
        for axis, size in enumerate(grids.sizes(tensor) or ()):
            if len(set(size)) > 1:
                found.setdefault(size, (tensor.name, axis))
    return found


def _decides(tensor: gs.Tensor) -> bool:
    """Whether which branch of an If runs is reckoned from a number.

    onnxruntime puts the branch of a constant condition in place of the If, and at times ends the process over it.
    """
    queue, seen = [tensor], set[int]()
    while queue:
        for node in queue.pop().outputs:
            if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
                return True
            if id(node) not in seen and node.op in _RECKONED:
                seen.add(id(node))
                queue += node.outputs
    return False


def _carry_out(model: Model, wish: Wish) -> Done:
    make, places = Rewriter(model.graph), 0
    inputs, numbers = wish.args.get("inputs", {}), wish.args.get("numbers", {})
    given = {tensor.name: tensor for tensor in model.graph.inputs}
    given_out = {id(tensor) for tensor in model.graph.outputs}
    shapes: dict[str, gs.Tensor] = {}
    for node in list(model.graph.nodes):
        if node.op not in {"Gather", "Slice", "Squeeze"} or node.domain or id(node.outputs[0]) in given_out:
            continue
        out = node.outputs[0]
        # A Squeeze and one entry that is picked by a number are a number, the rest a list of one.
        single = node.op == "Squeeze" or (node.op == "Gather" and not node.inputs[1].shape)
        if out.name in inputs and inputs[out.name][0] in given:
            name, axis = inputs[out.name]
            if name not in shapes:
                shapes[name] = make.variable(f"{name}.shape")
                make.after(given[name], [make.node("Shape", [given[name]], [shapes[name]])])
            at = make.shared("axis", np.array(axis if single else [axis], np.int64))
            make.replace(node, [make.node("Gather", [shapes[name], at], [out], axis=0)])
        elif out.name in numbers:
            value = numbers[out.name]
            substitute(out, make.shared("size", np.array(value if single else [value], np.int64)))
            node.inputs.clear()
            node.outputs.clear()
        else:
            continue
        places += 1
    make.finish()
    return Done(places)


SIZES = Rewrite(
    name="sizes",
    what=("size asked of an input", "sizes asked of inputs"),
    carry_out=_carry_out,
    wish=_wish,
)
