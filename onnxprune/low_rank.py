"""Low-rank forms of operators: the graph side of factoring, for factors that were solved before.

Each form leaves the operator's output tensor in place, so that names downstream survive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxprune.errors import Declined
from onnxprune.graph import elements, stored_bytes
from onnxprune.model import Model
from onnxprune.plan import Change, Edit
from onnxprune.rewrite import Rewriter
from onnxprune.sites import entries, find_sites, with_registered
from onnxprune.weights import Use, Weight, find_weights

Array = np.ndarray[Any, Any]

# Where a model remembers which of its constants are factors, so that none is factored again.
FACTORS = "onnxprune.factors"
_GEMMS = {"Gemm", "FusedGemm"}
_PRODUCTS = {"MatMul", *_GEMMS}
# Slice takes its bounds as inputs from this opset on.
_SLICE_OPSET = 10


def factors_of(model: Model) -> frozenset[str]:
    """Names of constants that earlier runs wrote as factors."""
    try:
        held = json.loads(model.metadata.get(FACTORS, "[]"))
    except ValueError:
        return frozenset()
    # Metadata is a stranger's text.
    return frozenset(name for name in held if isinstance(name, str)) if isinstance(held, list) else frozenset()


def with_factors(model: Model, names: Collection[str]) -> Model:
    """The model remembering more factors."""
    return model.with_metadata(**{FACTORS: json.dumps(sorted(factors_of(model) | {*names}))})


def refuse_shared(weight: Weight) -> None:
    """Raise Declined where something beside weights' readers wants the stored numbers, or they are no plain ones."""
    if weight.given_out:
        raise Declined("an output of the graph too")
    if weight.others:
        reader = weight.others[0]
        raise Declined(f"also read by {reader.op} {reader.outputs[0].name!r}")
    if isinstance(weight.constant._values, SparseValues):  # noqa: SLF001 - not read
        raise Declined("stored sparse already")
    if not np.isfinite(weight.constant.values).all():
        raise Declined("it holds infinite numbers")


def matrix_of(weight: Weight, numbers: Array | None = None) -> Array:
    """The weight as its readers apply it, x @ matrix [k, n]; or other `numbers` of its shape, laid out alike.

    Raises:
        Declined: one of them is no product that a pair could take the place of.
    """
    refuse_shared(weight)
    for use in weight.uses:
        _refuse(use, weight)
    values: Array = weight.constant.values if numbers is None else numbers
    if weight.uses[0].role == "conv":
        if any(use.role != "conv" for use in weight.uses):
            raise Declined("read by a convolution and by a product")
        return values.reshape(len(values), -1).T
    turned = {use.reads_transposed for use in weight.uses}
    if len(turned) > 1:
        raise Declined("its readers multiply by it and by its transpose")
    return values.T if turned.pop() else values


def _refuse(use: Use, weight: Weight) -> None:
    node, shape = use.node, weight.constant.shape
    if use.role == "embedding":
        raise Declined("an embedding too: factor-embedding keeps both uses tied")
    if use.role == "conv" and node.op == "Conv" and not use.views:
        if any(size != 1 for size in shape[2:]) or len(shape) < 3:
            raise Declined(f"a convolution of {'x'.join(map(str, shape[2:]))}: only 1x1 ones multiply channels alone")
        if node.attrs.get("group", 1) != 1:
            raise Declined(f"a convolution in {node.attrs['group']} groups")
        return
    if use.role != "linear" or node.op not in _PRODUCTS:
        raise Declined(f"{node.op} has no low-rank form")
    if use.slot != 1:
        raise Declined("the weight is the left operand of the product")
    if len(shape) != 2:
        raise Declined(f"a stack of matrices {list(shape)}")
    if use.permutation is None:
        raise Declined(f"it stands behind {use.views[0].op}, which is no transpose")
    if node.attrs.get("transA", 0):
        raise Declined("the activations are transposed by the product (transA)")


def refuse_constant(use: Use, model: Model) -> None:
    """Raise Declined where a reader cannot become a constant: what it gives out must depend on its shape alone."""
    node = use.node
    if model.graph.opset < _SLICE_OPSET:
        raise Declined(f"a constant of the input's shape needs opset {_SLICE_OPSET}, the model has {model.graph.opset}")
    if node.op == "Conv" and (
        any(step != 1 for step in node.attrs.get("strides", ())) or any(node.attrs.get("pads", ()))
    ):
        raise Declined("rank 0: the convolution's output is not of its input's size")
    if node.op == "FusedGemm":
        raise Declined("rank 0: FusedGemm activates its bias")
    bias = _bias(node)
    if bias is not None and (not _folds(bias, model) or len(np.squeeze(bias.values).shape) > 1):
        raise Declined("rank 0: its bias is no constant vector")


def _bias(node: gs.Node) -> gs.Tensor | None:
    return node.inputs[2] if node.op != "MatMul" and len(node.inputs) > 2 and node.inputs[2].name else None


def _folds(bias: gs.Tensor, model: Model) -> bool:
    return isinstance(bias, gs.Constant) and bias.name not in model.overridable


class LowRankWriter:
    """Puts factors in place of weights, in a model that is a copy."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.rewriter = Rewriter(model.graph)
        self._outputs = {id(tensor) for tensor in model.graph.outputs}
        self._made: list[gs.Constant] = []
        self._touched: dict[int, gs.Constant] = {}

    def constant(self, name: str, values: Array) -> gs.Constant:
        """A new constant that `costs` counts."""
        made = self.rewriter.constant(name, values)
        self._made.append(made)
        return made

    def costs(self) -> tuple[int, int, int, int]:
        """Numbers and bytes that nothing reads any more, and of new constants, since this was asked last."""
        gone = [tensor for tensor in self._touched.values() if not tensor.outputs]
        made, self._made, self._touched = self._made, [], {}
        before = sum(map(elements, gone)), sum(map(stored_bytes, gone))
        return *before, sum(map(elements, made)), sum(map(stored_bytes, made))

    def touch(self, use: Use, constant: gs.Constant) -> None:
        """Remember what a reader and its views read before they go."""
        for tensor in (constant, *use.node.inputs, *(t for view in use.views for t in view.inputs)):
            if isinstance(tensor, gs.Constant):
                self._touched[id(tensor)] = tensor

    def drop_views(self, use: Use) -> None:
        """Let go of views that nothing reads any more."""
        for view in reversed(use.views):
            if not view.outputs[0].outputs and id(view.outputs[0]) not in self._outputs:
                view.inputs.clear()

    def hidden(self, use: Use, left: gs.Constant) -> gs.Tensor:
        """What a reader's input is by the left factor: placed where the input is made, for several right factors."""
        node = use.node
        out = self.rewriter.variable(f"{use.name}.hidden")
        self.rewriter.after(node.inputs[0], [self.rewriter.node("MatMul", [node.inputs[0], left], [out])])
        return out

    def pair(self, use: Use, left: gs.Constant | gs.Tensor, right: gs.Constant, gain: Array | None, name: str) -> None:
        """A reader as two products.

        Args:
            use: MatMul, Gemm or a 1x1 Conv.
            left: [k, r], of a Conv [r, k, 1, …]; or what `hidden` gave for it.
            right: [r, n], of a Conv [n, r, 1, …].
            gain: [n] what the output gains, or None.
            name: of a bias that has to be made.
        """
        make, node, attrs = self.rewriter, use.node, dict(use.node.attrs)
        first, hidden = [], left
        if isinstance(left, gs.Constant):
            hidden = make.variable(f"{use.name}.hidden")
            inner = {key: value for key, value in attrs.items() if node.op == "Conv"}
            first = [make.node("Conv" if node.op == "Conv" else "MatMul", [node.inputs[0], left], [hidden], **inner)]
        for key in ("strides", "pads", "auto_pad", "dilations", "transB"):
            attrs.pop(key, None)
        rest, added = self._biased(use, gain, name, attrs)
        last = make.node(node.op, [hidden, right, *rest], [make.variable(f"{use.name}.product")], node.domain, **attrs)
        nodes = [*first, last]
        if added is not None:
            nodes.append(make.node("Add", [last.outputs[0], added], [make.variable(f"{use.name}.biased")]))
        make.replace(node, nodes)
        self.drop_views(use)

    def _biased(
        self, use: Use, gain: Array | None, name: str, attrs: dict[str, Any]
    ) -> tuple[list[gs.Tensor], gs.Constant | None]:
        """Further inputs of the product, and what is to be added to it where its own bias cannot take the gain."""
        node, bias = use.node, _bias(use.node)
        if gain is None or not np.any(gain):
            return ([] if bias is None else list(node.inputs[2:])), None
        shaped = gain.reshape(-1, *(1,) * (len(node.inputs[1].shape or ()) - 2)) if node.op == "Conv" else gain
        if node.op == "MatMul":
            return [], None if self._added_behind(node, gain) else self.constant(name, shaped)
        if bias is None:
            attrs.pop("beta", None)
            return [self.constant(name, gain)], None
        if not _folds(bias, self.model):
            if node.op == "FusedGemm":
                return [bias], None
            return list(node.inputs[2:]), self.constant(name, shaped)
        return [self._own(bias, float(attrs.pop("beta", 1.0)) * bias.values + gain, name)], None

    def _own(self, bias: gs.Constant, values: Array, name: str) -> gs.Constant:
        values = values.astype(bias.values.dtype)
        if len(bias.outputs) > 1 or values.shape != bias.values.shape or id(bias) in self._outputs:
            return self.constant(name, values)
        bias.values = values
        return bias

    def _added_behind(self, node: gs.Node, gain: Array) -> bool:
        """Whether the Add that follows has taken the gain into a bias of its own."""
        out = node.outputs[0]
        if len(out.outputs) != 1 or out.outputs[0].op != "Add" or id(out) in self._outputs:
            return False
        other = next((tensor for tensor in out.outputs[0].inputs if tensor is not out), None)
        if other is None or not _folds(other, self.model) or len(other.outputs) != 1 or id(other) in self._outputs:
            return False
        if other.values.shape != gain.shape:
            return False
        other.values = (other.values.astype(np.float64) + gain).astype(other.values.dtype)
        return True

    def fixed(self, use: Use, value: Array, name: str) -> None:
        """A reader as a constant [n] along its input's other axes; its own bias is folded, one that follows stays.

        The caller has asked `refuse_constant`.
        """
        make, node, bias = self.rewriter, use.node, _bias(use.node)
        if bias is not None:
            value = float(node.attrs.get("beta", 1.0)) * np.squeeze(bias.values) + value
        convolution = node.op == "Conv"
        spatial = len(node.inputs[1].shape) - 2 if convolution else 0
        held = self.constant(name, np.broadcast_to(value, value.shape).reshape(-1, *(1,) * spatial))
        sizes, out = make.variable(f"{use.name}.sizes"), make.variable(f"{use.name}.shape")
        width = self.constant(f"{name}.width", np.array([len(value)], np.int64))
        nodes = [make.node("Shape", [node.inputs[0]], [sizes])]
        parts = [self._part(use, sizes, 0, 1, nodes) if convolution else self._part(use, sizes, 0, -1, nodes), width]
        if convolution:
            parts.append(self._part(use, sizes, 2, 2 + spatial, nodes))
        nodes.append(make.node("Concat", parts, [out], axis=0))
        nodes.append(make.node("Expand", [held, out], [make.variable(f"{use.name}.fixed")]))
        make.replace(node, nodes)
        self.drop_views(use)

    def _part(self, use: Use, sizes: gs.Tensor, start: int, end: int, nodes: list[gs.Node]) -> gs.Tensor:
        """Sizes `start` to `end` of a shape."""
        make, out = self.rewriter, self.rewriter.variable(f"{use.name}.sizes.{start}")
        bounds = [self.constant(f"{use.name}.{word}.{start}", np.array([at], np.int64)) for word, at in
                  (("start", start), ("end", end))]  # fmt: skip
        nodes.append(make.node("Slice", [sizes, *bounds], [out]))
        return out


Write = Callable[[LowRankWriter, Edit, Mapping[str, Weight]], tuple[Change, list[str]]]


def carried_out(model: Model, edits: Sequence[Edit], write: Write) -> tuple[Model, tuple[Change, ...]]:
    """A copy with every edit written by `write`, which names the factors it made; the copy remembers them."""
    # Factors are weights, too, and must not take the numbers of those that come after them.
    result = with_registered(model.copy(), entries(find_sites(model)))
    weights = {weight.constant.name: weight for weight in find_weights(result.graph, result.overridable)}
    writer = LowRankWriter(result)
    changes: list[Change] = []
    names: list[str] = []
    for edit in edits:
        change, made = write(writer, edit, weights)
        changes.append(change)
        names += made
    writer.rewriter.finish()
    result.graph.cleanup(remove_unused_graph_inputs=False)
    return with_factors(result, names), tuple(changes)
