"""A graph as an ONNX message without its large weights: what graphsurgeon drops or cannot write is put back."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxprune.errors import ModelError
from onnxprune.model import wire
from onnxprune.model.core import EXTERNAL, MAPPED_BYTES, PACKED, Model, PackedValues, held_constants, subgraphs


def to_proto(model: Model) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """A skeleton, and the bytes of its large tensors by the number in their `offset` entry."""
    graph = model.graph.copy()
    payloads: dict[str, np.ndarray[Any, Any]] = {}
    outer = _outer_constants(graph, frozenset(model.fields.input_order))
    _own_attributes(graph)
    for tensor in held_constants(graph):
        _mark(tensor, payloads)
    fields = model.fields
    try:
        proto = gs.export_onnx(graph, do_type_check=False)
        _hoist(proto.graph, outer)
    except Exception as error:
        raise ModelError(f"the graph cannot be written: {error}") from error
    proto.producer_name, proto.producer_version = fields.producer_name, fields.producer_version
    proto.doc_string, proto.domain, proto.model_version = fields.doc_string, fields.domain, fields.model_version
    for key, value in fields.metadata:
        proto.metadata_props.add(key=key, value=value)
    _restore_interface(proto, model)
    return proto, payloads


def _outer_constants(graph: gs.Graph, inputs: frozenset[str]) -> frozenset[str]:
    """Names of constants that more than one graph reads, or that are graph inputs: stored once, in the outermost."""
    readers: dict[str, set[int]] = {}
    stored: dict[str, set[int]] = {}
    computed: set[str] = set()
    graphs = [graph, *graph.subgraphs(recursive=True)]
    for holder in graphs:
        for tensor in [t for node in holder.nodes for t in node.inputs] + list(holder.outputs):
            if isinstance(tensor, gs.Constant):
                readers.setdefault(tensor.name, set()).add(id(holder))
                stored.setdefault(tensor.name, set()).add(id(tensor._values))  # noqa: SLF001 - not read
        computed |= {tensor.name for node in holder.nodes for tensor in node.outputs}
        computed |= {tensor.name for tensor in holder.inputs}
    return frozenset(
        name
        for name, holders in readers.items()
        if len(stored[name]) == 1 and name not in computed and (len(holders) > 1 or name in inputs)
    )


def _own_attributes(graph: gs.Graph) -> None:
    """Tensors in attributes are shared by graphsurgeon's copy of a graph; they are about to be marked."""
    for holder in [graph, *graph.subgraphs(recursive=True)]:
        for node in holder.nodes:
            for name, value in node.attrs.items():
                if isinstance(value, gs.Constant):
                    node.attrs[name] = value.copy()


def _hoist(graph: onnx.GraphProto, names: frozenset[str]) -> None:
    """Move initializers of `names` out of the bodies, where graphsurgeon stores a copy for each reader."""
    present = {tensor.name for tensor in graph.initializer}
    bodies = [body for node in graph.node for body in subgraphs(node)]
    while bodies:
        body = bodies.pop(0)
        bodies += [inner for node in body.node for inner in subgraphs(node)]
        kept = []
        for tensor in body.initializer:
            if tensor.name not in names:
                kept.append(tensor)
            elif tensor.name not in present:
                present.add(tensor.name)
                graph.initializer.append(tensor)
        if len(kept) < len(body.initializer):
            kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
            del body.initializer[:]
            body.initializer.extend(kept)


def _export_node(node: gs.Node, *args: Any, **kwargs: Any) -> onnx.NodeProto:
    """Write a node as graphsurgeon does, and what it cannot write: empty lists, attributes kept as messages."""
    odd = {
        name: value
        for name, value in node.attrs.items()
        if isinstance(value, onnx.AttributeProto) or (isinstance(value, list) and not value)
    }
    if not odd:
        return cast("onnx.NodeProto", _PLAIN_EXPORT(node, *args, **kwargs))
    plain = gs.Node(node.op, node.name, dict(node.attrs), domain=node.domain)
    for name in odd:
        del plain.attrs[name]
    proto = cast("onnx.NodeProto", _PLAIN_EXPORT(plain, *args, **kwargs))
    proto.input.extend(tensor.name for tensor in node.inputs)
    proto.output.extend(tensor.name for tensor in node.outputs)
    for name, value in odd.items():
        if isinstance(value, onnx.AttributeProto):
            proto.attribute.append(value)
        else:
            proto.attribute.add(name=name, type=_list_type(node, name))
    return proto


def _list_type(node: gs.Node, name: str) -> onnx.AttributeProto.AttributeType:
    try:
        schema = onnx.defs.get_schema(node.op, node.domain or "")
    except onnx.defs.SchemaError:
        return onnx.AttributeProto.INTS
    known = schema.attributes.get(name)
    kind = "INTS" if known is None else str(known.type).rpartition(".")[2]
    return cast("onnx.AttributeProto.AttributeType", onnx.AttributeProto.AttributeType.Value(kind))


_PLAIN_EXPORT = OnnxExporter.export_node
OnnxExporter.export_node = staticmethod(_export_node)


def _mark(tensor: gs.Constant, payloads: dict[str, np.ndarray[Any, Any]]) -> None:
    values = tensor._values  # noqa: SLF001
    if isinstance(values, LazyValues) and not isinstance(values, PackedValues):
        if not isinstance(values, SparseValues):
            # The exporter writes the constant's name into the message, which copies of the graph share.
            copied = onnx.TensorProto()
            copied.CopyFrom(values.tensor)
            tensor._values = LazyValues(copied)  # noqa: SLF001
        return
    if isinstance(values, PackedValues):
        data_type, dims, stored = values.tensor.data_type, tuple(values.tensor.dims), values.stored
    else:
        if values.dtype == object:
            tensor._values = LazyValues(onnx.numpy_helper.from_array(values))  # noqa: SLF001
            return
        data_type, dims = onnx.helper.np_dtype_to_tensor_dtype(values.dtype), values.shape
        if data_type in PACKED:
            stored = np.frombuffer(onnx.numpy_helper.from_array(values).raw_data, np.uint8)
        else:
            # Brought into order when it is written: one at a time.
            stored = values
    marker = onnx.TensorProto(dims=dims, data_type=data_type)
    if stored.nbytes >= MAPPED_BYTES:
        key = str(len(payloads))
        payloads[key] = stored
        marker.MergeFromString(wire.reference_entries(location="", offset=key, length=stored.nbytes))
        marker.data_location = EXTERNAL
    else:
        marker.raw_data = np.ascontiguousarray(stored).tobytes()
    tensor._values = LazyValues(marker)  # noqa: SLF001


def _restore_interface(proto: onnx.ModelProto, model: Model) -> None:
    fields = model.fields
    shapes = {t.name: t.shape for t in [*model.graph.inputs, *model.graph.outputs]}
    for infos in (proto.graph.input, proto.graph.output):
        for info in infos:
            original, shape = fields.interface.get(info.name, (None, None))
            if original is not None and shapes.get(info.name) == shape:
                info.CopyFrom(original)
    # graphsurgeon leaves out inputs that are initializers; before IR 4 every initializer must be an input.
    initializers = {t.name: t for t in proto.graph.initializer}
    present = {info.name: info for info in proto.graph.input}
    for name in fields.input_order:
        if name in initializers and name not in present:
            present[name] = fields.interface[name][0]
    if proto.ir_version < 4:
        for name, tensor in initializers.items():
            described = onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            kept = present.get(name)
            present[name] = kept if kept == described else described
    order = {name: at for at, name in enumerate(fields.input_order)}
    infos = sorted(present.values(), key=lambda info: order.get(info.name, len(order)))
    copies = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in infos]
    del proto.graph.input[:]
    proto.graph.input.extend(copies)
