"""What is spread over axes by itself where later operators spread it anyway: Expand, and conditions that always hold.

Exporters spread a mask of keys over queries before it meets scores that have both, and join it with conditions on
positions (that none is negative), which say no more than the shape. Its entries are as well spread where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter, substitute
from onnxprune.streamlining.grids import VIEWS, Grids, Size
from onnxprune.streamlining.observed import settled_shapes
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

# Which operand of a comparison is at least the other, or greater by one.
_COMPARED = {"Greater": (0, 1), "GreaterOrEqual": (0, 0), "Less": (1, 1), "LessOrEqual": (1, 0)}
_SPREADING = {
    "Add", "And", "Cast", "Div", "Max", "Min", "Mul", "Neg", "Not", "Or", "Sub", "Where", "Xor",
}  # fmt: skip


def _wish(model: Model, context: Context) -> Wish | None:
    shapes = settled_shapes(model, context.shapes)
    readers = _Readers(model.graph, Grids(shapes, model.overridable))
    for node in reversed(model.graph.nodes) if shapes else ():
        if not node.domain and node.op in {"And", "Expand"}:
            readers.try_without(node)
    if not readers.gone:
        return None
    return Wish({"spreads": readers.gone, "narrower": sorted(readers.narrower - set(readers.gone))})


class _Readers:
    """Finds what may be left out, from the end of a graph to its beginning.

    Attributes:
        gone: outputs of operators that are left out, and the operand that is read instead.
        narrower: tensors that lose axes by that.
    """

    def __init__(self, graph: gs.Graph, grids: Grids) -> None:
        self._grids = grids
        bodies = graph.subgraphs(recursive=True)
        self._kept = {id(tensor) for holder in (graph, *bodies) for tensor in holder.outputs}
        self._seen = {id(given) for body in bodies for node in body.nodes for given in node.inputs}
        self.gone: dict[str, int] = {}
        self.narrower: set[str] = set()

    def try_without(self, node: gs.Node) -> None:
        """Leave a node out, if all that reads it gives the same."""
        for slot in (0, 1) if node.op == "And" else (0,):
            own, whole = self._grids.sizes(node.inputs[slot]), self._grids.sizes(node.outputs[0])
            if own is None or whole is None or isinstance(node.inputs[slot], gs.Constant):
                continue
            if node.op == "And" and not holds(node.inputs[1 - slot], self._grids):
                continue
            if id(node.outputs[0]) in self._kept:
                continue
            lost = {axis: whole[axis] for axis in _lost(own, whole)}
            # Runtimes go row by row: one number for a row is slower than a row.
            if -1 in lost:
                continue
            narrower: dict[str, set[int]] = {}
            if self._spread_later(node.outputs[0], lost, narrower):
                self.gone[node.outputs[0].name] = slot
                self.narrower |= set(narrower)
                return

    def _spread_later(self, tensor: gs.Tensor, lost: dict[int, Size], narrower: dict[str, set[int]]) -> bool:
        """Whether nobody misses a tensor's lost axes (counted from the end); those that lose them too are noted."""
        known = narrower.get(tensor.name, set())
        if known.issuperset(lost):
            return True
        if id(tensor) in self._kept or id(tensor) in self._seen:
            return False
        narrower[tensor.name] = known.union(lost)
        for node in tensor.outputs:
            if node.domain or not (node.op in _SPREADING or node.outputs[0].name in self.gone):
                return False
            others = [given for given in node.inputs if given is not tensor and given.name not in narrower]
            # What is left out spreads nothing by itself.
            found = () if node.outputs[0].name in self.gone else others
            still = {axis: size for axis, size in lost.items() if not any(self._is_long(t, axis, size) for t in found)}
            if not self._spread_later(node.outputs[0], still, narrower):
                return False
        return True

    def _is_long(self, tensor: gs.Tensor, axis: int, size: Size) -> bool:
        """Whether a tensor spreads what it meets along an axis; an axis of one entry only has to be there."""
        sizes = self._grids.sizes(tensor)
        if sizes is None or len(sizes) < -axis or tensor.name in self.narrower:
            return False
        return sizes[axis] == size or set(size) == {1}


def _lost(own: tuple[Size, ...], whole: tuple[Size, ...]) -> Iterator[int]:
    """Axes, counted from the end, along which `own` is not as long as `whole`."""
    for axis in range(-1, -len(whole) - 1, -1):
        if len(own) < -axis or own[axis] != whole[axis]:
            yield axis


def holds(tensor: gs.Tensor, grids: Grids) -> bool:
    """Whether a condition holds everywhere, at all sizes."""
    if isinstance(tensor, gs.Constant):
        return tensor.name not in grids.overridable and bool(np.all(numbers(tensor)))
    node = producer(tensor)
    if node is None or node.domain:
        return False
    same = node.op in {*VIEWS, "Expand", "Identity"} or (node.op == "Cast" and node.attrs.get("to") == TensorProto.BOOL)
    if same:
        return holds(node.inputs[0], grids)
    if node.op == "And":
        return all(holds(given, grids) for given in node.inputs)
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        return value is not None and bool(np.all(value.values))
    return node.op in _COMPARED and _in_order(node, grids)


def _in_order(node: gs.Node, grids: Grids) -> bool:
    """Whether a comparison of grids holds at all sizes."""
    slot, margin = _COMPARED[node.op]
    more, less = grids.of(node.inputs[slot]), grids.of(node.inputs[1 - slot])
    if more is None or less is None or more.least is None or not less.is_number or len(set(less.start)) != 1:
        return False
    return more.least >= less.start[0] + margin


def _carry_out(model: Model, wish: Wish) -> Done:
    make, places, spreads = Rewriter(model.graph), 0, wish.args.get("spreads", {})
    for node in list(model.graph.nodes):
        if node.domain or node.op not in {"And", "Expand"} or node.outputs[0].name not in spreads:
            continue
        substitute(node.outputs[0], node.inputs[spreads[node.outputs[0].name]])
        node.inputs.clear()
        node.outputs.clear()
        places += 1
    # What was seen of their shapes is true no longer.
    narrower = set(wish.args.get("narrower", ())) if places else set()
    for name, tensor in model.graph.tensors().items():
        if name in narrower:
            tensor.name = make.variable(f"{name}.narrow").name
    return Done(places)


SPREADS = Rewrite(
    name="spreads",
    what=("spread left to its readers", "spreads left to their readers"),
    carry_out=_carry_out,
    wish=_wish,
)
