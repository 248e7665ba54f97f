"""Fold what is constant, drop what does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.folding import drop_zero_states, fold_arithmetic, lower_products
from onnxprune.graph import constants, numbers, storage, walk
from onnxprune.inference import drop_shapes, refresh_shapes
from onnxprune.model import Model
from onnxprune.plan import Change, Edit
from onnxprune.protocol import Context, Proposal
from onnxprune.rewrite import onnx_type, substitute
from onnxprune.sites import GRAPH, Site
from onnxprune.weights import seen_through

# Folding a quantizer would turn stored integers back into floats; folding a random source would freeze it; optional
# values and sequences are no arrays.
_NEVER_FOLDED = {
    "Bernoulli",
    "DequantizeLinear",
    "Multinomial",
    "Optional",
    "QuantizeLinear",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceInsert",
    "SplitToSequence",
}
# Views whose result is as large as the constant they read, so that folding never grows the file.
_FREE_VIEWS = {"Transpose", "Reshape", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True, kw_only=True)
class Simplify:
    """Fold constants, and arithmetic around convolutions into weights; Einsum becomes MatMul; what is idle goes.

    States of zeros that a recurrent operator begins with are idle, too. Outputs do not change but for float rounding.

    Attributes:
        limit: bytes up to which a folded result may be larger than what it was computed from.
    """

    name: ClassVar[str] = "simplify"
    lossless: ClassVar[bool] = True
    limit: int = 65536

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: the graph says it all."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit of the whole graph."""
        del model, sites, context
        edit = Edit(id=self.name, pass_name=self.name, site=GRAPH, kind="fold", args={"limit": self.limit})
        return Proposal((edit,))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The folded model; the change counts nodes in words and storage in numbers."""
        changes = []
        for edit in edits:
            before = model
            model = _folded(model, int(edit.args["limit"]))
            changes.append(_change(edit.site, before, model))
        return model, tuple(changes)


def _folded(model: Model, limit: int) -> Model:
    result = model.copy()
    graph = result.graph
    refresh_shapes(result)
    overridable = model.overridable

    def fixed(node: gs.Node) -> bool:
        return bool(
            node.op in _NEVER_FOLDED or node.domain or any(tensor.name in overridable for tensor in node.inputs)
        )

    _fold_sizes(graph)
    # graphsurgeon's own folding of shapes forgets what part a Shape is asked for, and drops casts that round.
    graph.fold_constants(fold_shapes=False, size_threshold=limit, should_exclude_node=fixed, flatten_subgraphs=False)
    for tensor in constants(graph):
        tensor.inputs.clear()
    _fold_views(graph, overridable)
    _drop_identities(graph)
    lower_products(graph, overridable)
    drop_zero_states(graph, overridable)
    fold_arithmetic(graph, overridable)
    graph.cleanup(remove_unused_graph_inputs=False)
    drop_shapes(graph)
    return result


def _fold_sizes(graph: gs.Graph) -> None:
    """Shapes that are known become constants; of one that is known in part, the sizes that are picked from it."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op != "Shape" or node.domain or node.inputs[0].shape is None:
            continue
        # Sizes are counted as Python counts a slice: negative from the end, and never past either.
        part = slice(int(node.attrs.get("start", 0)), node.attrs.get("end"))
        sizes = list(node.inputs[0].shape)[part]
        (out,) = node.outputs
        if all(isinstance(size, int) for size in sizes) and id(out) not in outputs:
            _make_constant(out, sizes)
            continue
        for reader in list(out.outputs):
            if reader.op == "Gather" and not reader.domain and isinstance(reader.inputs[1], gs.Constant):
                picked = reader.outputs[0]
                indices = numbers(reader.inputs[1])
                chosen = np.array(sizes, dtype=object)[indices]
                if all(isinstance(size, int) for size in np.ravel(chosen)) and id(picked) not in outputs:
                    _make_constant(picked, chosen)


def _make_constant(tensor: gs.Tensor, values: Any) -> None:
    tensor.inputs.clear()
    tensor.to_constant(np.array(values, np.int64))


def _fold_views(graph: gs.Graph, overridable: frozenset[str]) -> None:
    """Weights that stand behind a Transpose or Reshape of their own are stored as their reader wants them."""
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op not in _FREE_VIEWS or node.domain or not node.inputs or not node.outputs:
            continue
        source, out = node.inputs[0], node.outputs[0]
        private = isinstance(source, gs.Constant) and len(source.outputs) == 1 and source.name not in overridable
        if not private or any(not isinstance(tensor, gs.Constant) for tensor in node.inputs):
            continue
        if outputs & {id(source), id(out)}:
            continue
        if any(tensor.name in overridable for tensor in node.inputs):
            continue
        values = seen_through(source, [node])
        node.inputs.clear()
        node.outputs.clear()
        out.to_constant(values)
        # The weight keeps the name its owner knows.
        out.name = source.name


def _drop_identities(graph: gs.Graph) -> None:
    inner = {
        id(tensor) for _, node in walk(graph) for body in node.attrs.values() if isinstance(body, gs.Graph)
        for tensor in body.outputs
    }  # fmt: skip
    outer = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if not does_nothing(node):
            continue
        source, out = node.inputs[0], node.outputs[0]
        if id(out) in outer or id(out) in inner or any(tensor.outputs for tensor in node.outputs[1:]):
            continue
        substitute(out, source)
        node.inputs.clear()
        node.outputs.clear()


def does_nothing(node: gs.Node) -> bool:
    """Whether a node hands on its first input as it is."""
    if node.domain or not node.inputs or not node.outputs:
        return False
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        return training is None or not training.name or (isinstance(training, gs.Constant) and not training.values)
    if node.op == "Cast":
        kind = node.inputs[0].dtype
        return kind is not None and kind.kind in "biuf" and onnx_type(kind) == node.attrs.get("to")
    if node.op == "Transpose":
        order = list(node.attrs.get("perm", ()))
        return bool(order) and order == sorted(order)
    return False


def _change(site: str, before: Model, after: Model) -> Change:
    nodes, nodes_after = len(before.graph.nodes), len(after.graph.nodes)
    (params, size), (params_after, size_after) = storage(before.graph), storage(after.graph)
    return Change(
        site=site,
        what=f"{nodes} nodes became {nodes_after}",
        params_before=params,
        params_after=params_after,
        bytes_before=size,
        bytes_after=size_after,
    )
