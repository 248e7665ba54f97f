"""A piece of a model, cut out between tensors, with the inputs that a run gives it: what a clock can time alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import elements, numbers
from onnxprune.model import FileFields, Model
from onnxprune.observer import observer
from onnxprune.rewrite import substitute
from onnxprune.runtime import Feeds
from onnxprune.search.places import Nodes

Array = np.ndarray[Any, Any]

# Whole numbers up to so many state sizes or positions: in the whole model the runtime knows them too.
_FIXED_ELEMENTS = 64


@dataclass(frozen=True, eq=False)
class Border:
    """Tensors between which a piece lies: those that enter it and those that leave it, by name."""

    enters: frozenset[str]
    leaves: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A model of its own, and what it runs on."""

    model: Model
    feeds: Feeds

    def key(self) -> str:
        """The same for pieces that take equally long: same operators, attributes and sizes, whatever the weights."""
        known: dict[str, str] = {name: f"input {value.dtype} {value.shape}" for name, value in self.feeds.items()}
        digest = hashlib.sha256()
        for node in self.model.graph.nodes:
            inputs = [_described(tensor, known) for tensor in node.inputs]
            attrs = sorted((name, _attribute(value)) for name, value in node.attrs.items())
            digest.update(repr((node.op, node.domain or "", attrs, inputs, len(node.outputs))).encode())
            for at, tensor in enumerate(node.outputs):
                known[tensor.name] = f"{len(known)}.{at}"
        digest.update(repr([known.get(tensor.name) for tensor in self.model.graph.outputs]).encode())
        digest.update(str(self.model.graph.opset).encode())
        return digest.hexdigest()


def border_of(graph: gs.Graph, nodes: Nodes) -> Border:
    """What enters and leaves a set of nodes."""
    given_out = {tensor.name for tensor in graph.outputs}
    inside = [node for node in graph.nodes if node.outputs and node.outputs[0].name in nodes]
    made = {tensor.name for node in inside for tensor in node.outputs}
    enters = {
        tensor.name
        for node in inside
        for tensor in node.inputs
        if tensor.name and tensor.name not in made and not isinstance(tensor, gs.Constant)
    }
    leaves = [
        tensor.name
        for node in inside
        for tensor in node.outputs
        if tensor.name in given_out or any(reader.outputs[0].name not in nodes for reader in tensor.outputs)
    ]
    return Border(frozenset(enters), tuple(leaves))


def observed(model: Model, borders: Collection[Border], feeds: Feeds) -> Mapping[str, Array]:
    """What enters pieces in one run, and the inputs of the run."""
    inner = {tensor.name for node in model.graph.nodes for tensor in node.outputs}
    names = {name for border in borders for name in border.enters if name in inner}
    return {**feeds, **(observer(model, names)(feeds) if names else {})}


class Cutter:
    """Cuts pieces out of one model, given the values of what enters them."""

    def __init__(self, model: Model, values: Mapping[str, Array]) -> None:
        self._model = model
        self._values = values

    def piece(self, border: Border) -> Piece:
        """The nodes that compute what leaves from what enters; what a cut has put in between comes along.

        Raises:
            Declined: a tensor of the border is not there any more, or is no array.
        """
        copy = self._model.copy()
        graph = copy.graph
        tensors = graph.tensors()
        missing = [name for name in border.leaves if name not in tensors]
        if missing:
            raise Declined(f"the model has no tensor {missing[0]!r} any more")
        feeds: dict[str, Array] = {}
        for name in sorted(border.enters & tensors.keys()):
            value = self._values.get(name)
            if not isinstance(value, np.ndarray):
                raise Declined(f"{name!r} is no array")
            _enter(tensors[name], value)
            if isinstance(tensors[name], gs.Variable):
                feeds[name] = value
        fixed = {name for name, value in feeds.items() if _states_sizes(value)}
        for name in fixed:
            substitute(tensors[name], gs.Constant(f"{name}.fixed", feeds[name]))
        graph.outputs = [tensors[name] for name in border.leaves]
        for tensor in graph.outputs:
            tensor.dtype = tensor.shape = None
        given = {tensor.name: tensor for tensor in graph.inputs}
        graph.inputs = [*given.values(), *(tensors[name] for name in feeds if name not in given and name not in fixed)]
        graph.cleanup(remove_unused_graph_inputs=True)
        graph.toposort()
        entered = {tensor.name: self._values[tensor.name] for tensor in graph.inputs}
        return Piece(Model(graph=graph, fields=FileFields()), entered)


def _enter(tensor: gs.Tensor, value: Array) -> None:
    """Make a tensor an input of the graph."""
    if isinstance(tensor, gs.Constant):
        return
    tensor.inputs.clear()
    tensor.dtype = value.dtype
    # Sizes stay open as they are in the whole model, or the runtime would fold what it computes there at every run.
    tensor.shape = [f"{tensor.name}.{axis}" for axis in range(value.ndim)]


def _states_sizes(value: Array) -> bool:
    return value.dtype.kind in "iu" and value.ndim <= 1 and value.size <= _FIXED_ELEMENTS


def _described(tensor: gs.Tensor, known: Mapping[str, str]) -> str:
    if not isinstance(tensor, gs.Constant):
        return known.get(tensor.name, "")
    text = f"{np.dtype(tensor.dtype)} {tuple(tensor.shape)}"
    if np.dtype(tensor.dtype).kind in "iub" and elements(tensor) <= _FIXED_ELEMENTS:
        text += f" {numbers(tensor).tolist()}"
    return text


def _attribute(value: Any) -> str:
    if isinstance(value, gs.Graph):
        return f"{len(value.nodes)} nodes {[node.op for node in value.nodes]}"
    if isinstance(value, gs.Constant):
        return f"{value.dtype} {value.shape}"
    return repr(value)
