"""A model's messages as its file holds them: nothing inlined, lowered or dropped, and weights left where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.errors import ModelError
from onnxprune.model import wire
from onnxprune.model.core import EXTERNAL, MAPPED_BYTES, stored_tensors, subgraphs
from onnxprune.model.reading import mapped


@dataclass(frozen=True)
class RawModel:
    """The parsed file.

    Attributes:
        proto: large tensors are marked as external data with an empty location.
        data: the bytes of the file.
    """

    path: Path
    proto: onnx.ModelProto
    data: memoryview

    def graphs(self) -> Iterator[tuple[str, onnx.GraphProto]]:
        """The top graph, named '', and every body, named by the node that holds it; outermost first."""
        waiting = [("", self.proto.graph)]
        while waiting:
            name, graph = waiting.pop(0)
            yield name, graph
            waiting += [(node.name or node.op_type, body) for node in graph.node for body in subgraphs(node)]

    def tensors(self) -> Iterator[onnx.TensorProto]:
        """Every tensor that the file stores, bodies and Constant nodes included."""
        return stored_tensors(self.proto.graph)

    def external(self) -> Iterator[tuple[onnx.TensorProto, dict[str, str]]]:
        """Tensors outside the file with where they lie: `location`, `offset`, `length`."""
        for tensor in self.tensors():
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if tensor.data_location == EXTERNAL and entries.get("location"):
                yield tensor, entries

    def inside(self, tensor: onnx.TensorProto) -> memoryview | bytes | None:
        """The raw bytes of a tensor inside the file; None where it lies outside or is stored in another way."""
        if tensor.data_location != EXTERNAL:
            return tensor.raw_data if tensor.HasField("raw_data") else None
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location"):
            return None
        start = int(entries["offset"])
        return self.data[start : start + int(entries["length"])]


def read_raw(path: Path) -> RawModel:
    """The messages of a model file.

    Raises:
        ModelError: no such file, or not a model.
    """
    data = mapped(path)
    try:
        proto = onnx.ModelProto.FromString(wire.skeleton(data, MAPPED_BYTES))
    except Exception as error:  # protobuf's DecodeError has no stable base class
        raise ModelError(f"{path}: not an ONNX model, or cut off ({error}). Export or copy it again.") from error
    if not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model: it has no graph outputs or no opset. Export it again.")
    raw = RawModel(path, proto, data)
    # Of a damaged file protobuf hands out what is no text as bytes.
    if any(isinstance(word, bytes) for word in _words(raw)):
        raise ModelError(f"{path}: not an ONNX model: a name in it is not text. Export or copy it again.")
    return raw


def _words(raw: RawModel) -> Iterator[object]:
    """Every name that a rule may look at."""
    for entry in raw.proto.opset_import:
        yield entry.domain
    for function in raw.proto.functions:
        yield from (function.domain, function.name)
    for _, graph in raw.graphs():
        yield from (one.name for held in (graph.input, graph.output, graph.initializer) for one in held)
        for node in graph.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for tensor in raw.tensors():
        yield tensor.name
        yield from (word for entry in tensor.external_data for word in (entry.key, entry.value))
