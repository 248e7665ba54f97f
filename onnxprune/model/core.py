"""What a model is: a graph, the file-level fields that graphsurgeon drops, and weights that stay on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

# Tensors of at least this many bytes are mapped instead of parsed; smaller ones (shapes, scalars) stay in the message.
MAPPED_BYTES = 1024
# Types of which two numbers share a byte.
PACKED = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1}
EXTERNAL = onnx.TensorProto.EXTERNAL


@dataclass(frozen=True, kw_only=True)
class FileFields:
    """What a model file holds besides its graph.

    Attributes:
        metadata: the user's `metadata_props`, in file order.
        interface: the original descriptions of inputs and outputs by name, with the shape graphsurgeon gave them.
        input_order: names of all graph inputs, overridable initializers included.
        external: whether the weights stood outside the model file.
    """

    metadata: tuple[tuple[str, str], ...] = ()
    doc_string: str = ""
    domain: str = ""
    model_version: int = 0
    producer_name: str = ""
    producer_version: str = ""
    interface: dict[str, tuple[onnx.ValueInfoProto, Any]] = field(default_factory=dict)
    input_order: tuple[str, ...] = ()
    external: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """A graph with its file-level fields. Passes edit a `copy`, never the model they were given.

    Attributes:
        graph: nodes and tensors; Constant nodes have become constants.
        fields: what graphsurgeon drops.
        notes: what loading left out, for the report.
    """

    graph: gs.Graph
    fields: FileFields
    notes: tuple[str, ...] = ()

    @property
    def overridable(self) -> frozenset[str]:
        """Initializers that a caller may replace: inputs too, in files of IR 4 and later (ORT's own rule)."""
        if (self.graph.ir_version or 0) < 4:
            return frozenset()
        names = {t.name for t in self.graph.inputs}
        return frozenset(name for name in self.fields.input_order if name not in names)

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata properties by key."""
        return dict(self.fields.metadata)

    def copy(self) -> Model:
        """A model whose graph can be edited; the weights are shared."""
        graph = self.graph.copy()
        # graphsurgeon gives a body its own copy of an outer constant; readers of one weight must find each other.
        _share_constants(graph, {})
        return replace(self, graph=graph)

    def with_metadata(self, **entries: str) -> Model:
        """The same model with metadata properties added or replaced."""
        metadata = tuple((self.metadata | entries).items())
        return replace(self, fields=replace(self.fields, metadata=metadata))


class PackedValues(LazyValues):  # type: ignore[misc]
    """A mapped tensor of 4-bit numbers: two in a byte until it is touched."""

    def __init__(self, tensor: onnx.TensorProto, stored: np.ndarray[Any, Any]) -> None:
        super().__init__(tensor)
        self.stored = stored

    def load(self) -> np.ndarray[Any, Any]:
        """The numbers, one an element."""
        whole = onnx.TensorProto(dims=self.tensor.dims, data_type=self.tensor.data_type, raw_data=self.stored.tobytes())
        return onnx.numpy_helper.to_array(whole)


class StoredSparse(SparseValues):  # type: ignore[misc]
    """A sparse initializer: sparse in the file until it is touched."""

    def load(self) -> np.ndarray[Any, Any]:
        """The tensor with its zeros; graphsurgeon's own loses the type and reads some encodings only."""
        return dense(self.tensor)


def dense(tensor: onnx.SparseTensorProto) -> np.ndarray[Any, Any]:
    """The array of a sparse tensor whose indices are positions [n] or coordinates [n, rank]."""
    numbers, indices = onnx.numpy_helper.to_array(tensor.values), onnx.numpy_helper.to_array(tensor.indices)
    array = np.zeros(tuple(tensor.dims), numbers.dtype)
    if indices.ndim == 1:
        array.reshape(-1)[indices] = numbers
    else:
        array[tuple(indices.T)] = numbers
    return array


def _share_constants(graph: gs.Graph, known: dict[tuple[str, int], gs.Constant]) -> None:
    """Let nodes of all bodies read one object a stored tensor."""
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                shared = known.setdefault((tensor.name, id(tensor._values)), tensor)  # noqa: SLF001 - not read
                if shared is not tensor:
                    node.inputs[slot] = shared
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                _share_constants(value, known)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies that a control-flow node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a graph stores: initializers and attributes, bodies included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for subgraph in subgraphs(node):
            yield from stored_tensors(subgraph)


def held_constants(graph: gs.Graph) -> Iterator[gs.Constant]:
    """Every constant of an imported graph: read by nodes, given out, or held in attributes; bodies included."""
    seen: set[int] = set()
    for tensor in [t for node in graph.nodes for t in node.inputs] + list(graph.outputs):
        if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Constant):
                yield value
            elif isinstance(value, gs.Graph):
                yield from held_constants(value)
