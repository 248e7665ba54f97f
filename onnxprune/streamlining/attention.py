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
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.attending import Attending, Finder, Readers
from onnxprune.streamlining.masking import MaskWriter
from onnxprune.streamlining.observed import settled_shapes
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish
from onnxprune.streamlining.values import Values

OPSET = 23


def _wish(model: Model, context: Context) -> Wish:
    """How many queries there are in each run: masks that several attentions share have rows for as many."""
    shapes = settled_shapes(model, context.shapes)
    softmaxes = (node.outputs[0].name for node in model.graph.nodes if node.op == "Softmax" and not node.domain)
    ranks = {name: shapes[name] for name in softmaxes if name in shapes and len(shapes[name][0]) == 4}
    return Wish({"rows": {name: [run[2] for run in runs] for name, runs in ranks.items()}})


def _carry_out(model: Model, wish: Wish) -> Done:
    graph, kept = model.graph, []
    rows = {str(name): tuple(int(size) for size in sizes) for name, sizes in wish.args.get("rows", {}).items()}
    finder = Finder(graph, model.overridable, rows)
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
    return Done(places, tuple(kept), writer.masks.note)


class _Writer:
    """Puts the operator in place of what was found."""

    def __init__(self, graph: gs.Graph, overridable: frozenset[str]) -> None:
        self.rewriter = Rewriter(graph)
        self.masks = MaskWriter(self.rewriter, Values(graph, overridable))
        self._readers = Readers(graph)

    def write(self, one: Attending) -> None:
        """Write one.

        Raises:
            Declined: the operator would not say the same.
        """
        floored = self.masks.check(one.masking)
        make, output = self.rewriter, one.product.outputs[0]
        turned = self._turned(output)
        # Heads stay side by side where the result is wanted so, too.
        flat = turned is not None and one.query.flat and one.key.flat and one.value.flat
        nodes: list[gs.Node] = []
        inputs = [each.lay(make, nodes, flat=flat) for each in (one.query, one.key, one.value)]
        mask = self.masks.laid(one.masking, inputs[0], nodes, floored=floored, flat=flat)
        inputs += [] if mask is None else [mask]
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


FUSED_ATTENTION = Rewrite(
    name="fused-attention",
    what=("attention is one operator", "attentions are one operator each"),
    carry_out=_carry_out,
    wish=_wish,
    rival=True,
    opset=OPSET,
)
