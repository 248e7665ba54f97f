"""Attention that exporters spelled out, as the one operator that the standard has had for it since opset 23.

A runtime that has the operator reads queries, keys and values where they lie: it copies none of them head by head, adds
the mask as it multiplies, and keeps the scores of a head in its cache. Where the heads cannot be told from the graph,
their tensors are handed over as they are, one axis for the heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.model import Model
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.attending import Attending, Finder, Readers
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish
from onnxprune.streamlining.values import Values

OPSET = 23
_LOWEST = float(np.finfo(np.float32).min)
# The operator gives zeros where a mask holds nothing above the lowest number; a softmax gives equal shares there.
_FLOOR = _LOWEST / 2


def _carry_out(model: Model, _: Wish) -> Done:
    graph, kept = model.graph, []
    finder = Finder(graph, model.overridable)
    writer: _Writer | None = None
    places = 0
    for softmax in [node for node in graph.nodes if node.op == "Softmax" and not node.domain]:
        try:
            found = finder.around(softmax)
            if found is not None:
                writer = writer or _Writer(graph, model.overridable)
                writer.write(found)
                places += 1
        except Declined as reason:
            kept.append((softmax.outputs[0].name, f"attention stays as it is: {reason}"))
    if writer is None or not places:
        return Done(kept=tuple(kept))
    writer.rewriter.finish()
    if not _in_order(graph):
        graph.toposort()
    return Done(places, tuple(kept), writer.note)


class _Writer:
    """Puts the operator in place of what was found; each mask is made fit for it once."""

    def __init__(self, graph: gs.Graph, overridable: frozenset[str]) -> None:
        self.rewriter = Rewriter(graph)
        self.note = ""
        self._readers = Readers(graph)
        self._values = Values(graph, overridable)
        self._masks: dict[tuple[int, bool], gs.Tensor] = {}

    def write(self, one: Attending) -> None:
        """Write one.

        Raises:
            Declined: the operator would not say the same.
        """
        floored = self._floored(one)
        make, output = self.rewriter, one.product.outputs[0]
        turned = self._turned(output)
        # Heads stay side by side where the result is wanted so, too.
        flat = turned is not None and one.query.flat and one.key.flat and one.value.flat
        nodes: list[gs.Node] = []
        inputs = [each.lay(make, nodes, flat=flat) for each in (one.query, one.key, one.value)]
        if one.mask is not None:
            inputs.append(self._mask(one.mask, inputs[0], nodes, floored=floored, flat=flat))
        heads: dict[str, Any] = {"q_num_heads": one.query.heads, "kv_num_heads": one.key.heads} if flat else {}
        out = make.variable(f"{output.name}.attention")
        nodes.append(make.node("Attention", inputs, [out], scale=one.scale, **heads))
        if turned is None or not flat:
            make.replace(one.product, nodes)
            return
        apart = make.shared("attention.apart", np.array([0, 0, one.query.heads, -1], np.int64))
        nodes.append(make.node("Reshape", [out, apart], [make.variable(f"{out.name}.apart")]))
        for asks in [node for node in output.outputs if node.op == "Shape"]:
            # Sizes that were asked of the product: of what takes its place, in the product's order.
            order = make.shared("attention.order", np.array([0, 2, 1, 3], np.int64))
            sizes = make.variable(f"{asks.outputs[0].name}.apart")
            asks.inputs = [turned.outputs[0]]
            make.after(asks.outputs[0], [make.node("Gather", [sizes, order], [asks.outputs[0]], axis=0)])
            asks.outputs = [sizes]
        make.replace(turned, nodes)

    def _turned(self, product: gs.Tensor) -> gs.Node | None:
        """The Transpose that puts heads side by side behind a product; None where others read the product, too."""
        if any(product is given for given in self.rewriter.graph.outputs):
            return None
        asks = [node for node in product.outputs if node.op == "Shape" and not node.domain]
        readers = [node for node in product.outputs if node.op != "Shape"]
        if len(readers) != 1 or any(node.attrs for node in asks):
            return None
        (node,) = readers
        if node.op == "Reshape" and not node.domain and _says_the_same(node):
            following = self._readers.only(node.outputs[0])
            if following is None:
                return None
            node = following
        turns = node.op == "Transpose" and not node.domain and list(node.attrs.get("perm", ())) == [0, 2, 1, 3]
        return node if turns else None

    def _floored(self, one: Attending) -> bool:
        """Whether the mask needs a floor."""
        if one.guarded and not self._values.of(one.scores).finite:
            raise Declined("nothing says that what is guarded against NaN is finite before the mask")
        if one.mask is None:
            return False
        reach = self._values.of(one.mask)
        lowest = reach.low <= _LOWEST
        if one.guarded and reach.minus and lowest:
            raise Declined("its mask may hold the lowest number and minus infinity")
        if reach.minus and not one.guarded:
            self.note = "a row that a mask blanks whole with minus infinity is finite, where it was NaN"
        return lowest

    def _mask(self, mask: gs.Tensor, query: gs.Tensor, nodes: list[gs.Node], *, floored: bool, flat: bool) -> gs.Tensor:
        """The mask with a row for each query, and no number so low that the operator takes it for none."""
        key = (id(mask), floored)
        if key in self._masks:
            return self._masks[key]
        make, result = self.rewriter, mask
        new: list[gs.Node] = []
        if floored:
            floor = make.shared("attention.floor", np.array(_FLOOR, np.float32))
            result = make.variable(f"{mask.name}.floored")
            new.append(make.node("Max", [mask, floor], [result]))
        if not _as_long(mask, query, flat=flat):
            at = 1 if flat else 2
            size, shape, spread = (make.variable(f"{mask.name}.{part}") for part in ("length", "rows", "spread"))
            one = make.shared("attention.one", np.array([1], np.int64))
            new += [
                make.node("Shape", [query], [size], start=at, end=at + 1),
                make.node("Concat", [size, one], [shape], axis=0),
                make.node("Expand", [result, shape], [spread]),
            ]
            result = spread
        # The first attention that reads the mask stands before the others.
        nodes += new
        self._masks[key] = result
        return result


def _says_the_same(reshape: gs.Node) -> bool:
    """Whether a Reshape of rank 4 to rank 4 keeps the last axis.

    Names of the others are lost where exporters compute them; that they are the same is proved by running.
    """
    before, after = reshape.inputs[0].shape, reshape.outputs[0].shape
    if before is None or after is None or (len(before), len(after)) != (4, 4):
        return False
    return isinstance(before[3], int) and before[3] == after[3]


def _in_order(graph: gs.Graph) -> bool:
    """Whether each node stands behind what it reads."""
    at = {id(node): place for place, node in enumerate(graph.nodes)}
    return all(
        at.get(id(source), -1) < place
        for place, node in enumerate(graph.nodes)
        for tensor in node.inputs
        for source in tensor.inputs
    )


def _as_long(mask: gs.Tensor, query: gs.Tensor, *, flat: bool) -> bool:
    """Whether a mask is known to have a row for each query."""
    if mask.shape is None or query.shape is None or len(mask.shape) < 2:
        return False
    rows, length = mask.shape[-2], query.shape[1 if flat else 2]
    return bool(rows) and rows == length


FUSED_ATTENTION = Rewrite(
    name="fused-attention",
    what=("attention is one operator", "attentions are one operator each"),
    carry_out=_carry_out,
    rival=True,
    opset=OPSET,
)
