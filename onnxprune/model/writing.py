"""Writing models: atomically, weights streamed, and the fields that graphsurgeon drops put back."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import onnx
import onnx.version_converter
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxprune.errors import Declined, ModelError
from onnxprune.files import atomic, free_name, require_space
from onnxprune.memory import kept, place_of, release
from onnxprune.model import wire
from onnxprune.model.core import (
    EXTERNAL,
    MAPPED_BYTES,
    PACKED,
    Model,
    PackedValues,
    held_constants,
    stored_tensors,
    subgraphs,
)
from onnxprune.model.reading import parse

# Since this version of the format an initializer that is also an input can be overridden, and none need be one.
_OVERRIDABLE_IR = 4
# Protobuf messages end at 2 GiB; leave room for the graph itself.
INLINE_LIMIT_BYTES = 2**31 - 2**27


def save(model: Model, path: Path | str, *, external: bool | None = None) -> None:
    """Write a model atomically; weights stand outside the file where they did before, or where 2 GiB are exceeded.

    Raises:
        OutputError: the place cannot be written; nothing is left behind.
    """
    path = Path(path)
    proto, payloads = _to_proto(model)
    if external is None:
        external = model.fields.external
    external = external or sum(array.nbytes for array in payloads.values()) > INLINE_LIMIT_BYTES
    require_space(path, sum(array.nbytes for array in payloads.values()))
    if not external:
        with atomic(path) as file:
            _write_inline(proto, payloads, file)
        return
    data_path = free_name(path.with_name(f"{path.name}.data"))
    # Both or neither: the data takes its place first, so that no model ever names a file that is not there.
    with atomic(path) as file, atomic(data_path) as data_file:
        for tensor in stored_tensors(proto.graph):
            if tensor.data_location != EXTERNAL:
                continue
            array = payloads[tensor.external_data[1].value]
            # Mapped pages must start on a page of their own for onnxruntime to map them too.
            data_file.write(b"\0" * (-data_file.tell() % 4096))
            entries = wire.reference_entries(location=data_path.name, offset=data_file.tell(), length=array.nbytes)
            del tensor.external_data[:]
            tensor.MergeFromString(entries)
            data_file.write(_as_bytes(array))
            release(array)
        file.write(proto.SerializeToString(deterministic=True))
        file.flush()


def to_bytes(model: Model) -> bytes:
    """The model as one ONNX message with its weights inside; for models far below 2 GiB."""
    buffer = io.BytesIO()
    proto, payloads = _to_proto(model)
    _write_inline(proto, payloads, buffer)
    return buffer.getvalue()


def to_references(model: Model) -> tuple[bytes, Path]:
    """The model as a message whose large weights stay in the files that they are mapped from, and the root of those.

    Weights that lie in memory are put into temporary files where memory is short, and into the message otherwise.
    """
    proto, payloads = _to_proto(model)
    root = Path(Path.cwd().anchor)
    for tensor in stored_tensors(proto.graph):
        if tensor.data_location != EXTERNAL:
            continue
        array = kept(payloads[tensor.external_data[1].value])
        place = place_of(array)
        del tensor.external_data[:]
        if place is None or place[0].path.anchor != str(root):
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = bytes(_as_bytes(array))
        else:
            held, offset = place
            location = held.path.relative_to(root).as_posix()
            tensor.MergeFromString(wire.reference_entries(location=location, offset=offset, length=array.nbytes))
    return proto.SerializeToString(deterministic=True), root


def to_skeleton(model: Model) -> onnx.ModelProto:
    """The model without its large weights, which are marked as external: for shape inference."""
    return _to_proto(model)[0]


def raise_opset(model: Model, version: int) -> Model:
    """The model at a higher opset of the standard domain, converted by onnx; the caller proves it by running.

    Raises:
        Declined: onnx's converter cannot do it.
    """
    proto = onnx.load_from_string(to_bytes(model))
    try:
        converted = onnx.version_converter.convert_version(proto, version)
    except Exception as error:  # the converter raises bare RuntimeErrors from C++
        reason = str(error).strip().splitlines()[0]
        raise Declined(f"opset {model.graph.opset} cannot be raised to {version}: {reason}") from error
    converted.ir_version = max(converted.ir_version, onnx.helper.find_min_ir_version_for(converted.opset_import))
    raised = parse(memoryview(converted.SerializeToString()), Path())
    fields = model.fields
    if (model.graph.ir_version or 0) < _OVERRIDABLE_IR <= converted.ir_version:
        # Initializers were inputs because the format asked for it; from now on that would open them to callers.
        given = {tensor.name for tensor in raised.graph.inputs}
        fields = replace(fields, input_order=tuple(name for name in fields.input_order if name in given))
    return replace(raised, fields=fields, notes=model.notes)


def _write_inline(proto: onnx.ModelProto, payloads: dict[str, np.ndarray[Any, Any]], file: BinaryIO) -> None:
    def payload(tensor: bytes) -> memoryview | bytes | None:
        small = onnx.TensorProto.FromString(tensor)
        if small.data_location != EXTERNAL:
            return None
        return _as_bytes(payloads[small.external_data[1].value])

    wire.join(proto.SerializeToString(deterministic=True), payload, file)


def _as_bytes(array: np.ndarray[Any, Any]) -> memoryview | bytes:
    """The bytes of an array, not copied if it is contiguous; numpy has no buffer for some types (bfloat16)."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.nbytes else b""


def _to_proto(model: Model) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
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
