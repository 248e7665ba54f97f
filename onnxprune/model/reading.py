"""Reading models: weights are mapped from disk, Constant nodes become constants, functions are inlined."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.memory import map_file
from onnxprune.model import wire
from onnxprune.model.core import (
    EXTERNAL,
    MAPPED_BYTES,
    PACKED,
    FileFields,
    Model,
    PackedValues,
    StoredSparse,
    dense,
    held_constants,
    stored_tensors,
    subgraphs,
)

# graphsurgeon prints warnings of its own; what matters to the user is in our reports.
G_LOGGER.severity = G_LOGGER.CRITICAL
_CONSTANT_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def load(path: Path | str) -> Model:
    """Read a model; its weights stay on disk until touched.

    Raises:
        ModelError: no such file, not an ONNX model, or external data missing or too short.
    """
    path = Path(path)
    return parse(mapped(path), path)


def mapped(path: Path) -> memoryview:
    """The bytes of a file, mapped rather than read.

    Raises:
        ModelError: no such file, empty, or not readable.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file. Name an existing .onnx file.")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: the file is empty. Export the model again.")
    try:
        return memoryview(map_file(path))
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"{path}: cannot be read: {reason}. Give a file that you may read.") from error


def data_files(path: Path | str) -> tuple[Path, ...]:
    """The files beside a model that hold its weights, in the order in which the model names them.

    Raises:
        ModelError: not a model, or one whose weights lie outside its folder.
    """
    path = Path(path)
    proto = _skeleton(mapped(path), path)
    names = [
        entry.value
        for tensor in stored_tensors(proto.graph)
        if tensor.data_location == EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location" and entry.value
    ]
    for name in names:
        _inside(path.parent, name, path.name)
    return tuple(path.parent / name for name in dict.fromkeys(names))


def size_on_disk(path: Path | str) -> int:
    """Bytes of a model file and its data files; of those that are missing none."""
    return sum(file.stat().st_size for file in (Path(path), *data_files(path)) if file.is_file())


def digest(path: Path | str) -> str:
    """SHA-256 of a model file, followed by that of each of its data files where it has some."""
    files = (Path(path), *data_files(path))
    digests = []
    for name in files:
        with name.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return ":".join(digests)


def _skeleton(data: memoryview, path: Path) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(wire.skeleton(data, MAPPED_BYTES))
    except Exception as error:  # protobuf's DecodeError has no stable base class
        raise ModelError(f"{path}: not an ONNX model, or cut off ({error}). Export or copy it again.") from error
    return proto


def parse(data: memoryview, path: Path) -> Model:
    """A model from the bytes of its file; `path` says where its data files lie.

    Raises:
        ModelError: not a model.
    """
    proto = _skeleton(data, path)
    if not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model: it has no graph outputs or no opset. Export it again.")
    notes = _drop_node_metadata(proto)
    external = any(
        entry.value
        for tensor in stored_tensors(proto.graph)
        if tensor.data_location == EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    try:
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        graph = gs.import_onnx(proto)
        _keep_attributes(proto.graph, graph)
        _map_weights(graph, data, path.parent)
        _lower_constant_nodes(graph)
    except ModelError:
        raise
    except Exception as error:  # any malformed graph ends here; graphsurgeon raises whatever it stumbles over
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{path}: not a valid ONNX graph: {reason[0].rstrip('.')}. Check it with onnx.checker."
        ) from error
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
            graphs += subgraphs(node)
        for value in graph.value_info:
            dropped += sum(entry.ByteSize() for entry in value.metadata_props)
    return (f"{dropped} bytes of exporter metadata dropped from {nodes} nodes",) if dropped else ()


def _keep_attributes(proto: onnx.GraphProto, graph: gs.Graph) -> None:
    """Attributes of kinds that graphsurgeon drops (types, sparse tensors) stay, as the messages they are."""
    for stored, node in zip(proto.node, graph.nodes, strict=True):
        for attribute in stored.attribute:
            if attribute.name not in node.attrs:
                node.attrs[attribute.name] = attribute
            elif isinstance(node.attrs[attribute.name], gs.Graph):
                _keep_attributes(attribute.g, node.attrs[attribute.name])


def _map_weights(graph: gs.Graph, data: memoryview, folder: Path) -> None:
    files: dict[Path, memoryview] = {}
    for tensor in held_constants(graph):
        lazy = tensor._values  # noqa: SLF001 - `values` would read the weights
        if isinstance(lazy, SparseValues):
            tensor._values = StoredSparse(lazy.tensor)  # noqa: SLF001
            # Read once, so that numbers that do not fit the shape are told now.
            tensor._values.load()  # noqa: SLF001
            continue
        if not isinstance(lazy, LazyValues):
            continue
        proto = lazy.tensor
        if proto.data_location != EXTERNAL:
            array = lazy.load()
            if array.nbytes >= MAPPED_BYTES and array.dtype != object:
                # Large and not stored as raw bytes: one copy is enough.
                tensor._values = array  # noqa: SLF001
            continue
        entries = {entry.key: entry.value for entry in proto.external_data}
        source = _external_bytes(entries["location"], folder, files, tensor.name) if entries["location"] else data
        offset = int(entries.get("offset", 0))
        count = int(np.prod(proto.dims, dtype=np.int64)) if proto.dims else 1
        bits = 4 if proto.data_type in PACKED else 8 * onnx.helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize
        needed = (count * bits + 7) // 8
        if not entries["location"] and int(entries["length"]) != needed:
            raise ModelError(
                f"{tensor.name}: {needed} bytes are needed, {entries['length']} are stored. Export the model again."
            )
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


def _inside(folder: Path, location: str, name: str) -> Path:
    """A data file's path, which a stranger may have chosen."""
    path = (folder / location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{name}: external data must lie in the model's folder, got {location!r}. Move it there.")
    return path


def _external_bytes(location: str, folder: Path, files: dict[Path, memoryview], name: str) -> memoryview:
    path = _inside(folder, location, name)
    if path not in files:
        if not path.is_file():
            raise ModelError(f"{path}: no such file, but the model keeps its weights there. Put it beside the model.")
        try:
            files[path] = memoryview(map_file(path)) if path.stat().st_size else memoryview(b"")
        except OSError as error:
            reason = error.strerror or error
            raise ModelError(f"{path}: cannot be read: {reason}. Give a file that you may read.") from error
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
    if "sparse_value" in node.attrs:
        return dense(node.attrs["sparse_value"].sparse_tensor)
    for name, dtype in _CONSTANT_ATTRIBUTES.items():
        if name in node.attrs:
            return np.array(node.attrs[name], dtype=dtype)
    return None
