"""Bytes that a file need not have, and weights where tools do not see them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.graph import constants, numbers, stored_bytes, walk
from onnxprune.weights import find_weights

# Below these sizes nothing is worth a finding.
_DUPLICATE_BYTES = 1024
_SPARSE_BYTES = 4096
_CONSTANT_BYTES = 65536
_METADATA_BYTES = 65536
_METADATA_SHARE = 0.5
# From here on a bitmap and the numbers that are left are well below the dense tensor, at int8 too.
_SPARSE_SHARE = 0.5
_BODY_ELEMENTS = 1024


@rule(
    "duplicated-weights",
    "warning",
    needs="graph",
    do="Store it once and let all nodes read it: tie the weights at export.",
)
def duplicated_weights(case: Case) -> Iterator[Spot]:
    """Tensors of equal numbers are stored several times."""
    alike: dict[object, list[gs.Constant]] = defaultdict(list)
    for tensor in constants(case.model.graph):
        if stored_bytes(tensor) >= _DUPLICATE_BYTES:
            alike[str(tensor.dtype), tuple(tensor.shape)].append(tensor)
    for group in alike.values():
        if len(group) < 2:
            continue
        equal: dict[bytes, list[gs.Constant]] = defaultdict(list)
        for tensor in group:
            equal[hashlib.blake2b(np.ascontiguousarray(numbers(tensor)).view(np.uint8).data).digest()].append(tensor)
        for same in equal.values():
            if len(same) > 1:
                names = sorted(tensor.name for tensor in same)
                wasted = stored_bytes(same[0]) * (len(same) - 1)
                yield Spot(
                    f"initializer {names[0]!r}", f"stored {len(same)} times, {wasted} bytes too many: {_few(names[1:])}"
                )


@rule(
    "dense-zeros",
    "warning",
    needs="graph",
    do="Store it packed: onnxprune optimize MODEL --pass sparse-int8 --pass pack-weights.",
)
def dense_zeros(case: Case) -> Iterator[Spot]:
    """A weight is mostly zeros, yet stored number by number."""
    floats = {weight.constant.name: weight.constant for weight in find_weights(case.model.graph)}
    integers = {
        tensor.name: tensor
        for tensor in constants(case.model.graph)
        if tensor.dtype in (np.int8, np.uint8) and len(tensor.shape) > 1
    }
    for name, tensor in (floats | integers).items():
        if stored_bytes(tensor) < _SPARSE_BYTES:
            continue
        array = numbers(tensor)
        zeros = 1 - np.count_nonzero(array) / array.size
        if zeros >= _SPARSE_SHARE:
            packed = array.size // 8 + round((1 - zeros) * array.nbytes)
            yield Spot(
                f"weight {name!r}", f"{zeros:.0%} zeros in {array.nbytes} bytes; a bitmap and the rest take {packed}"
            )


@rule(
    "float64",
    "warning",
    needs="graph",
    do="Export in float32: double precision takes twice the memory and most providers refuse it.",
)
def float64(case: Case) -> Iterator[Spot]:
    """Numbers are stored or computed in double precision."""
    graph = case.model.graph
    for kind, held in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in held:
            if tensor.dtype == np.float64:
                yield Spot(f"{kind} {tensor.name!r}", "is float64")
    for tensor in constants(graph):
        if tensor.dtype == np.float64:
            size = stored_bytes(tensor)
            yield Spot(f"initializer {tensor.name!r}", f"{size} bytes of float64", None if size > 8 else "note")


@rule(
    "constant-node-weights",
    "warning",
    needs="file",
    do="Turn it into an initializer: onnxprune optimize MODEL --pass simplify does.",
)
def constant_node_weights(case: Case) -> Iterator[Spot]:
    """Weights sit in Constant nodes, where tools that look at initializers miss them and no data file can take them."""
    for _, graph in case.raw.graphs():
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                held = case.raw.inside(attribute.t) if attribute.HasField("t") else None
                size = attribute.ByteSize() if held is None else len(held)
                if size >= _CONSTANT_BYTES:
                    yield Spot(f"Constant {node.name or node.output[0]!r}", f"{size} bytes in the node")


@rule(
    "body-weights",
    "note",
    needs="graph",
    do="Move constants out of the body where the exporter lets you; passes and providers look at the top graph.",
)
def body_weights(case: Case) -> Iterator[Spot]:
    """Bodies of If, Loop or Scan hold weights."""
    for _, node in walk(case.model.graph):
        for body in node.attrs.values():
            if isinstance(body, gs.Graph):
                held = [t for inner in body.nodes for t in inner.inputs if isinstance(t, gs.Constant)]
                size = sum({t.name: stored_bytes(t) for t in held if np.prod(t.shape) >= _BODY_ELEMENTS}.values())
                if size:
                    yield Spot(f"{node.op} {node.name!r}", f"{size} bytes of weights in a body")


@rule(
    "heavy-metadata",
    "note",
    needs="file",
    do="Drop it: onnxprune optimize MODEL --pass simplify drops exporters' stack traces.",
)
def heavy_metadata(case: Case) -> Iterator[Spot]:
    """Descriptions and exporters' stack traces take a large part of the file; a warning above half of it."""
    proto = case.raw.proto
    size = len(proto.doc_string) + sum(entry.ByteSize() for entry in proto.metadata_props)
    for _, graph in case.raw.graphs():
        size += len(graph.doc_string) + sum(entry.ByteSize() for entry in graph.metadata_props)
        for one in [*graph.node, *graph.value_info, *graph.initializer]:
            size += len(one.doc_string) + sum(entry.ByteSize() for entry in one.metadata_props)
    whole = case.path.stat().st_size
    if size >= _METADATA_BYTES:
        spot = Spot("model", f"{size} of its {whole} bytes are descriptions and metadata")
        yield replace(spot, severity="warning") if size > _METADATA_SHARE * whole else spot


@rule(
    "overridable-initializer",
    "warning",
    needs="graph",
    do="Take it out of the graph's inputs: onnxruntime folds nothing that a caller may replace.",
)
def overridable_initializer(case: Case) -> Iterator[Spot]:
    """A weight is a graph input, too, so that a caller may replace it."""
    for name in sorted(case.model.overridable):
        yield Spot(f"initializer {name!r}", "is listed among the graph's inputs")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


RULES = (
    duplicated_weights,
    dense_zeros,
    float64,
    constant_node_weights,
    body_weights,
    heavy_metadata,
    overridable_initializer,
)
