"""Constant weights and the nodes that read them, seen through the views that exporters put in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import is_floating

Array = np.ndarray[Any, Any]
Role = Literal["linear", "embedding", "conv", "recurrent"]
# Products that can read an operand transposed.
_GEMMS = {"FusedGemm", "Gemm"}

# Which input of an operator is a weight, and what the operator does with it. One row an operator.
_WEIGHT_INPUTS: dict[tuple[str, str], tuple[tuple[int, Role], ...]] = {
    ("", "MatMul"): ((0, "linear"), (1, "linear")),
    ("", "Gemm"): ((0, "linear"), (1, "linear")),
    ("", "Gather"): ((0, "embedding"),),
    ("", "Conv"): ((1, "conv"),),
    ("", "ConvTranspose"): ((1, "conv"),),
    ("", "LSTM"): ((1, "recurrent"), (2, "recurrent")),
    ("", "GRU"): ((1, "recurrent"), (2, "recurrent")),
    ("", "RNN"): ((1, "recurrent"), (2, "recurrent")),
    ("com.microsoft", "Attention"): ((1, "linear"),),
    ("com.microsoft", "FusedConv"): ((1, "conv"),),
    ("com.microsoft", "FusedGemm"): ((1, "linear"),),
    ("com.microsoft", "FusedMatMul"): ((0, "linear"), (1, "linear")),
    ("com.microsoft", "EmbedLayerNormalization"): ((2, "embedding"), (3, "embedding"), (4, "embedding")),
}


@dataclass(frozen=True)
class Use:
    """One node that reads a weight.

    Attributes:
        node: the reader; named in reports by its first output.
        slot: which of its inputs the weight is.
        role: what the operator does with it.
        views: nodes between the stored constant and the reader, in data order: Transpose, Identity, Cast, ….
    """

    node: gs.Node
    slot: int
    role: Role
    views: tuple[gs.Node, ...] = ()

    @property
    def name(self) -> str:
        """The name that reports and sites use: the reader's first output."""
        return str(self.node.outputs[0].name)

    @property
    def permutation(self) -> tuple[int, ...] | None:
        """How the views permute the stored axes; None where they do more than permute."""
        order: tuple[int, ...] | None = None
        for view in self.views:
            if view.op == "Identity":
                continue
            if view.op != "Transpose":
                return None
            rank = len(view.inputs[0].shape) if view.inputs[0].shape is not None else 2
            step = tuple(view.attrs.get("perm", range(rank)[::-1]))
            order = step if order is None else tuple(order[i] for i in step)
        return order if order is not None else ()

    @property
    def reads_transposed(self) -> bool:
        """Whether a product reads the stored matrix transposed."""
        swapped = self.permutation == (1, 0)
        return swapped != bool(self.node.op in _GEMMS and self.node.attrs.get("transB", 0))


@dataclass(frozen=True)
class Weight:
    """A stored floating-point constant and all that reads it as a weight.

    Attributes:
        others: readers that use it as something else than a weight.
        given_out: whether it is an output of the graph, too.
    """

    constant: gs.Constant
    uses: tuple[Use, ...]
    others: tuple[gs.Node, ...]
    given_out: bool = False


_VIEWS = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"}


def find_weights(graph: gs.Graph, overridable: frozenset[str] = frozenset()) -> tuple[Weight, ...]:
    """Weights of the top graph in order of their first use; those that a caller may override are none."""
    found: dict[str, list[Use]] = {}
    order: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for slot, role in _WEIGHT_INPUTS.get((node.domain or "", node.op), ()):
            if slot >= len(node.inputs):
                continue
            root, views = _root(node.inputs[slot])
            if root is None or root.name in overridable or len(root.shape) < 2 or not is_floating(root):
                continue
            order.setdefault(root.name, root)
            found.setdefault(root.name, []).append(Use(node, slot, role, views))
    given_out = {id(tensor) for tensor in graph.outputs}
    weights = []
    for name, constant in order.items():
        known = {(id(use.node), use.slot) for use in found[name] if not use.views}
        known |= {(id(use.views[0]), 0) for use in found[name] if use.views}
        others = {
            id(node): node
            for node in constant.outputs
            for slot, tensor in enumerate(node.inputs)
            if tensor is constant and (id(node), slot) not in known
        }
        weights.append(Weight(constant, tuple(found[name]), tuple(others.values()), id(constant) in given_out))
    return tuple(weights)


def _root(tensor: gs.Tensor) -> tuple[gs.Constant | None, tuple[gs.Node, ...]]:
    views: list[gs.Node] = []
    while not isinstance(tensor, gs.Constant):
        node = tensor.inputs[0] if tensor.inputs else None
        if node is None or node.op not in _VIEWS or node.domain:
            return None, ()
        if any(not isinstance(extra, gs.Constant) for extra in node.inputs[1:]):
            return None, ()
        views.append(node)
        tensor = node.inputs[0]
    return tensor, tuple(reversed(views))


def seen_through(constant: gs.Constant, views: Sequence[gs.Node]) -> Array:
    """The array that a reader gets: the stored values with the views carried out."""
    values: Array = constant.values
    for view in views:
        if view.op == "Transpose":
            values = np.transpose(values, view.attrs.get("perm"))
        elif view.op == "Cast":
            import onnx

            values = values.astype(onnx.helper.tensor_dtype_to_np_dtype(view.attrs["to"]))
        elif view.op == "Reshape":
            target = [values.shape[i] if size == 0 else int(size) for i, size in enumerate(view.inputs[1].values)]
            values = values.reshape(target)
        elif view.op in {"Squeeze", "Unsqueeze"}:
            listed = view.inputs[1].values if len(view.inputs) > 1 else view.attrs.get("axes")
            axes = None if listed is None else tuple(int(axis) for axis in np.ravel(listed))
            values = np.expand_dims(values, axes or ()) if view.op == "Unsqueeze" else np.squeeze(values, axes)
    return values
