"""ONNX files as protobuf wire data: large tensors are located in a file, or streamed into one, without copying them.

Protobuf messages are nested length-delimited fields, so the bytes of a large tensor can be cut out of a model, and put
back, without parsing the tensor. What remains, the skeleton, is small and is parsed by onnx as usual. In a skeleton a
large tensor is marked as external data: `location` is empty for bytes inside the model file itself.

Source: the protobuf encoding guide, and onnx.proto for the field numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

# Field numbers of the messages that can hold a tensor, by what they hold.
_CHILDREN = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_RAW_DATA = 9
_EXTERNAL_DATA = 13
_DATA_LOCATION = 14
_LENGTH_DELIMITED = 2

Piece = bytes | memoryview
Lookup = Callable[[bytes], Piece | None]


class WireError(ValueError):
    """The bytes are not a protobuf message of the expected shape."""


@dataclass(frozen=True)
class Field:
    """One field: [start, end) spans tag and value, [value, end) the value of a length-delimited field."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
        shift += 7
    raise WireError(f"a number is cut off at byte {at}")


def fields(data: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in [start, end). Raises WireError where it is malformed."""
    at = start
    while at < end:
        tag, value = _varint(data, at, end)
        wire_type = tag & 7
        if wire_type == 0:
            _, stop = _varint(data, value, end)
        elif wire_type == 1:
            stop = value + 8
        elif wire_type == _LENGTH_DELIMITED:
            length, value = _varint(data, value, end)
            stop = value + length
        elif wire_type == 5:
            stop = value + 4
        else:
            raise WireError(f"wire type {wire_type} at byte {at} is not used by ONNX")
        if stop > end:
            raise WireError(f"a field at byte {at} runs past the end of its message")
        yield Field(tag >> 3, wire_type, at, value, stop)
        at = stop


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(number: int, payload: bytes) -> bytes:
    return _number(number << 3 | _LENGTH_DELIMITED) + _number(len(payload)) + payload


def reference_entries(**entries: object) -> bytes:
    """External-data entries of a TensorProto, as wire bytes."""
    return b"".join(
        _delimited(_EXTERNAL_DATA, _delimited(1, key.encode()) + _delimited(2, str(value).encode()))
        for key, value in entries.items()
    )


_IS_EXTERNAL = _number(_DATA_LOCATION << 3) + b"\x01"


def skeleton(data: memoryview, minimum: int) -> bytes:
    """The model without the raw data of tensors of at least `minimum` bytes.

    Each such tensor is marked as external data with an empty location and its offset and length in `data`.
    """

    def rewrite(kind: str, start: int, end: int) -> bytes:
        if end - start < minimum:
            return bytes(data[start:end])
        out, marker = [], b""
        for item in fields(data, start, end):
            child = _CHILDREN.get(kind, {}).get(item.number)
            large = item.wire_type == _LENGTH_DELIMITED and item.end - item.value >= minimum
            if child and large:
                out.append(_delimited(item.number, rewrite(child, item.value, item.end)))
            elif kind == "tensor" and item.number == _RAW_DATA and large:
                marker = reference_entries(location="", offset=item.value, length=item.end - item.value) + _IS_EXTERNAL
            else:
                out.append(bytes(data[item.start : item.end]))
        # Last, since of a field that stands twice the last one counts: some files state the default location.
        return b"".join([*out, marker])

    return rewrite("model", 0, len(data))


def join(data: bytes, payload_of: Lookup, file: BinaryIO) -> None:
    """Write the model of a skeleton to `file`, each marked tensor followed by its bytes.

    `payload_of` is asked with the wire bytes of each tensor that is stored outside and returns the bytes to store
    inside instead, or None where the tensor stays outside.
    """
    view = memoryview(data)

    def plan(kind: str, start: int, end: int) -> tuple[list[Piece], int]:
        parts: list[Piece] = []
        size = 0
        payload = payload_of(bytes(view[start:end])) if kind == "tensor" else None
        for item in fields(view, start, end):
            child = _CHILDREN.get(kind, {}).get(item.number)
            if child and item.wire_type == _LENGTH_DELIMITED:
                inner, length = plan(child, item.value, item.end)
                head = _number(item.number << 3 | _LENGTH_DELIMITED) + _number(length)
                parts += [head, *inner]
                size += len(head) + length
            elif payload is None or item.number not in (_EXTERNAL_DATA, _DATA_LOCATION):
                parts.append(view[item.start : item.end])
                size += item.end - item.start
        if payload is not None:
            length = memoryview(payload).nbytes
            head = _number(_RAW_DATA << 3 | _LENGTH_DELIMITED) + _number(length)
            parts += [head, payload]
            size += len(head) + length
        return parts, size

    file.writelines(plan("model", 0, len(view))[0])
