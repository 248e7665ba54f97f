"""Writing models: atomically, weights streamed."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx.version_converter

from onnxprune.errors import Declined
from onnxprune.files import atomic, free_name, require_space
from onnxprune.memory import kept, place_of, release
from onnxprune.model import wire
from onnxprune.model.core import (
    EXTERNAL,
    Model,
    stored_tensors,
)
from onnxprune.model.messages import to_proto
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
    proto, payloads = to_proto(model)
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
    proto, payloads = to_proto(model)
    _write_inline(proto, payloads, buffer)
    return buffer.getvalue()


def to_references(model: Model) -> tuple[bytes, Path]:
    """The model as a message whose large weights stay in the files that they are mapped from, and the root of those.

    Weights that lie in memory are put into temporary files where memory is short, and into the message otherwise.
    """
    proto, payloads = to_proto(model)
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
    return to_proto(model)[0]


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
    # Domains of runtimes have no say in it.
    least = onnx.helper.find_min_ir_version_for(converted.opset_import, ignore_unknown=True)
    converted.ir_version = max(converted.ir_version, least)
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
