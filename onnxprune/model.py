"""Load and save: the only file that opens model files, and the place where graphsurgeon's gaps are mended.

A model is a graphsurgeon graph, the file-level fields that graphsurgeon drops, and weights that stay on disk, mapped
into memory, until something touches them. Copying a model therefore copies no weights.
"""

from __future__ import annotations

import hashlib
import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune import wire
from onnxprune.errors import Declined, ModelError
from onnxprune.files import atomic, free_name

# graphsurgeon prints warnings of its own; what matters to the user is in our reports.
G_LOGGER.severity = G_LOGGER.CRITICAL

# Tensors of at least this many bytes are mapped instead of parsed; smaller ones (shapes, scalars) stay in the message.
MAPPED_BYTES = 1024
# Protobuf messages end at 2 GiB; leave room for the graph itself.
INLINE_LIMIT_BYTES = 2**31 - 2**27
_EXTERNAL = onnx.TensorProto.EXTERNAL
_PACKED = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1}
_CONSTANT_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


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
        # Attributes are shared by graphsurgeon's copy; an edit of one must not reach the original.
        for node in graph.nodes:
            node.attrs = dict(node.attrs)
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


def load(path: Path | str) -> Model:
    """Read a model; its weights stay on disk until touched.

    Raises:
        ModelError: no such file, not an ONNX model, or external data missing or too short.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Name an existing .onnx file.")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the file is empty. Export the model again.")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _parse(memoryview(mapped), path)


def data_files(path: Path | str) -> tuple[Path, ...]:
    """The files beside a model that hold its weights, in the order in which the model names them."""
    path = Path(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    proto = onnx.ModelProto.FromString(wire.skeleton(memoryview(mapped), MAPPED_BYTES))
    names = [
        entry.value
        for tensor in _tensors(proto.graph)
        if tensor.data_location == _EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location" and entry.value
    ]
    return tuple(path.parent / name for name in dict.fromkeys(names))


def digest(path: Path | str) -> str:
    """SHA-256 of a model file, followed by that of each of its data files where it has some."""
    files = (Path(path), *data_files(path))
    digests = []
    for name in files:
        with name.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return ":".join(digests)


def _parse(data: memoryview, path: Path) -> Model:
    try:
        proto = onnx.ModelProto.FromString(wire.skeleton(data, MAPPED_BYTES))
    except Exception as error:  # protobuf's DecodeError has no stable base class
        raise ModelError(f"{path}: not an ONNX model, or cut off ({error}). Export or copy it again.") from error
    if not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model: it has no graph outputs or no opset. Export it again.")
    notes = _drop_node_metadata(proto)
    external = any(
        entry.value
        for tensor in _tensors(proto.graph)
        if tensor.data_location == _EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        graph = gs.import_onnx(proto)
        _map_weights(graph, data, path.parent)
        _lower_constant_nodes(graph)
    except ModelError:
        raise
    except Exception as error:  # any malformed graph ends here; graphsurgeon raises whatever it stumbles over
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path}: not a valid ONNX graph: {reason[0]}. Check it with onnx.checker.") from error
    values = {t.name: t for t in [*graph.inputs, *graph.outputs]}
    return Model(
        graph=graph,
        fields=FileFields(
            metadata=tuple((entry.key, entry.value) for entry in proto.metadata_props),
            doc_string=proto.doc_string,
            domain=proto.domain,
            model_version=proto.model_version,
            producer_name=proto.producer_name,
            producer_version=proto.producer_version,
            interface={
                info.name: (info, getattr(values.get(info.name), "shape", None))
                for info in [*proto.graph.input, *proto.graph.output]
            },
            input_order=tuple(info.name for info in proto.graph.input),
            external=external,
        ),
        notes=notes,
    )


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for subgraph in _subgraphs(node):
            yield from _tensors(subgraph)


def _drop_node_metadata(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Exporters' stack traces: dropped, and said."""
    dropped = nodes = 0
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        for node in graph.node:
            size = sum(entry.ByteSize() for entry in node.metadata_props)
            if size:
                nodes += 1
                dropped += size
                del node.metadata_props[:]
            graphs += _subgraphs(node)
        for value in graph.value_info:
            dropped += sum(entry.ByteSize() for entry in value.metadata_props)
    return (f"{dropped} bytes of exporter metadata dropped from {nodes} nodes",) if dropped else ()


def _constants(graph: gs.Graph) -> Iterator[gs.Constant]:
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
                yield from _constants(value)


def _map_weights(graph: gs.Graph, data: memoryview, folder: Path) -> None:
    files: dict[Path, memoryview] = {}
    for tensor in _constants(graph):
        lazy = tensor._values  # noqa: SLF001 - `values` would read the weights
        if not isinstance(lazy, LazyValues) or isinstance(lazy, SparseValues):
            continue
        proto = lazy.tensor
        if proto.data_location != _EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in proto.external_data}
        source = _external_bytes(entries["location"], folder, files, tensor.name) if entries["location"] else data
        offset = int(entries.get("offset", 0))
        count = int(np.prod(proto.dims, dtype=np.int64)) if proto.dims else 1
        bits = 4 if proto.data_type in _PACKED else 8 * onnx.helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize
        needed = (count * bits + 7) // 8
        if offset < 0 or offset + needed > len(source):
            raise ModelError(
                f"{tensor.name}: {needed} bytes at offset {offset} are needed, the data ends at {len(source)}. "
                "Copy the model and its data file again."
            )
        stored: np.ndarray[Any, Any] = np.frombuffer(source, np.uint8, needed, offset)
        if bits == 4:
            tensor._values = PackedValues(proto, stored)  # noqa: SLF001
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
            tensor._values = stored.view(dtype).reshape(tuple(proto.dims))  # noqa: SLF001


def _external_bytes(location: str, folder: Path, files: dict[Path, memoryview], name: str) -> memoryview:
    path = (folder / location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{name}: external data must lie in the model's folder, got {location!r}. Move it there.")
    if path not in files:
        if not path.is_file():
            raise ModelError(f"{path}: no such file, but the model keeps its weights there. Put it beside the model.")
        with path.open("rb") as file:
            size = path.stat().st_size
            files[path] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    return files[path]


def _lower_constant_nodes(graph: gs.Graph) -> None:
    """Constant nodes become constants, so that weights are found in one place only."""
    outputs = {t.name for t in graph.outputs}
    kept = []
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                _lower_constant_nodes(value)
        values = _constant_values(node) if node.op == "Constant" and node.outputs[0].name not in outputs else None
        if values is None:
            kept.append(node)
            continue
        tensor = node.outputs[0]
        node.outputs.clear()
        tensor.to_constant(np.empty(0))
        tensor._values = values  # noqa: SLF001 - lazy values stay lazy
        tensor._export_dtype = None  # noqa: SLF001
    graph.nodes = kept


def _constant_values(node: gs.Node) -> Any | None:
    value = node.attrs.get("value")
    if isinstance(value, gs.Constant):
        return value._values  # noqa: SLF001
    for name, dtype in _CONSTANT_ATTRIBUTES.items():
        if name in node.attrs:
            return np.array(node.attrs[name], dtype=dtype)
    return None


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
    if not external:
        with atomic(path) as file:
            _write_inline(proto, payloads, file)
        return
    data_path = free_name(path.with_name(f"{path.name}.data"))
    with atomic(data_path) as data_file:
        for tensor in _tensors(proto.graph):
            if tensor.data_location != _EXTERNAL:
                continue
            array = payloads[tensor.external_data[1].value]
            # Mapped pages must start on a page of their own for onnxruntime to map them too.
            data_file.write(b"\0" * (-data_file.tell() % 4096))
            entries = wire.reference_entries(location=data_path.name, offset=data_file.tell(), length=array.nbytes)
            del tensor.external_data[:]
            tensor.MergeFromString(entries)
            data_file.write(memoryview(array).cast("B") if array.nbytes else b"")
    with atomic(path) as file:
        file.write(proto.SerializeToString(deterministic=True))


def to_bytes(model: Model) -> bytes:
    """The model as one ONNX message with its weights inside; for models far below 2 GiB."""
    buffer = io.BytesIO()
    proto, payloads = _to_proto(model)
    _write_inline(proto, payloads, buffer)
    return buffer.getvalue()


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
    raised = _parse(memoryview(converted.SerializeToString()), Path())
    return replace(raised, fields=model.fields, notes=model.notes)


def _write_inline(proto: onnx.ModelProto, payloads: dict[str, np.ndarray[Any, Any]], file: BinaryIO) -> None:
    def payload(tensor: bytes) -> memoryview | bytes | None:
        small = onnx.TensorProto.FromString(tensor)
        if small.data_location != _EXTERNAL:
            return None
        array = payloads[small.external_data[1].value]
        return memoryview(array).cast("B") if array.nbytes else b""

    wire.join(proto.SerializeToString(deterministic=True), payload, file)


def _to_proto(model: Model) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """A skeleton, and the bytes of its large tensors by the number in their `offset` entry."""
    graph = model.graph.copy()
    payloads: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in _constants(graph):
        _mark(tensor, payloads)
    fields = model.fields
    try:
        proto = gs.export_onnx(graph, do_type_check=False)
    except Exception as error:
        raise ModelError(f"the graph cannot be written: {error}") from error
    proto.producer_name, proto.producer_version = fields.producer_name, fields.producer_version
    proto.doc_string, proto.domain, proto.model_version = fields.doc_string, fields.domain, fields.model_version
    for key, value in fields.metadata:
        proto.metadata_props.add(key=key, value=value)
    _restore_interface(proto, model)
    return proto, payloads


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
        if data_type in _PACKED:
            stored = np.frombuffer(onnx.numpy_helper.from_array(values).raw_data, np.uint8)
        else:
            stored = np.ascontiguousarray(values)
    marker = onnx.TensorProto(dims=dims, data_type=data_type)
    if stored.nbytes >= MAPPED_BYTES:
        key = str(len(payloads))
        payloads[key] = stored
        marker.MergeFromString(wire.reference_entries(location="", offset=key, length=stored.nbytes))
        marker.data_location = _EXTERNAL
    else:
        marker.raw_data = stored.tobytes()
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
