"""Writing models: atomically, weights streamed, and the fields that graphsurgeon drops put back."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.version_converter
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxprune.errors import Declined, ModelError
from onnxprune.files import atomic, free_name
from onnxprune.model import wire
from onnxprune.model.core import EXTERNAL, MAPPED_BYTES, PACKED, Model, PackedValues, held_constants, stored_tensors
from onnxprune.model.reading import parse

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
    if not external:
        with atomic(path) as file:
            _write_inline(proto, payloads, file)
        return
    data_path = free_name(path.with_name(f"{path.name}.data"))
    with atomic(data_path) as data_file:
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
    raised = parse(memoryview(converted.SerializeToString()), Path())
    return replace(raised, fields=model.fields, notes=model.notes)


def _write_inline(proto: onnx.ModelProto, payloads: dict[str, np.ndarray[Any, Any]], file: BinaryIO) -> None:
    def payload(tensor: bytes) -> memoryview | bytes | None:
        small = onnx.TensorProto.FromString(tensor)
        if small.data_location != EXTERNAL:
            return None
        return _as_bytes(payloads[small.external_data[1].value])

    wire.join(proto.SerializeToString(deterministic=True), payload, file)


def _as_bytes(array: np.ndarray[Any, Any]) -> memoryview | bytes:
    """The bytes of a contiguous array, not copied; numpy has no buffer for some types (bfloat16), their bytes do."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def _to_proto(model: Model) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    """A skeleton, and the bytes of its large tensors by the number in their `offset` entry."""
    graph = model.graph.copy()
    payloads: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in held_constants(graph):
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
        if data_type in PACKED:
            stored = np.frombuffer(onnx.numpy_helper.from_array(values).raw_data, np.uint8)
        else:
            stored = np.ascontiguousarray(values)
    marker = onnx.TensorProto(dims=dims, data_type=data_type)
    if stored.nbytes >= MAPPED_BYTES:
        key = str(len(payloads))
        payloads[key] = stored
        marker.MergeFromString(wire.reference_entries(location="", offset=key, length=stored.nbytes))
        marker.data_location = EXTERNAL
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
