"""What a model costs: numbers, bytes and multiply-accumulate operations."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_graphsurgeon as gs

from onnxprune.graph import walk
from onnxprune.model import Model
from onnxprune.ngrams.editing import table_storage
from onnxprune.storage import stored_weights

Shapes = Mapping[str, tuple[int, ...]]

_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Figures of one model file.

    Attributes:
        gzip_bytes: of the file at gzip's fastest level.
        params: numbers in floating-point and 8-bit or smaller weights, however they are stored, and in tables of nodes.
        nonzero: those that do not stand for zero.
        macs: multiply-accumulates of one run on the timed input; None where the shapes are unknown.
    """

    size_bytes: int
    gzip_bytes: int
    params: int
    nonzero: int
    macs: int | None


def cost(model: Model, files: tuple[Path, ...], shapes: Shapes | None) -> Cost:
    """Figures of a model that lies in `files` (the model file and its external data)."""
    held = stored_weights(model)
    tables = table_storage(model.graph)[0]
    return Cost(
        size_bytes=sum(path.stat().st_size for path in files),
        gzip_bytes=sum(map(gzip_bytes, files)),
        params=sum(weight.numbers for weight in held) + tables,
        nonzero=sum(weight.nonzero for weight in held) + tables,
        macs=None if shapes is None else macs(model, shapes),
    )


def gzip_bytes(path: Path) -> int:
    """Size of the file under gzip's fastest level, streamed."""
    packer, total = zlib.compressobj(1, zlib.DEFLATED, 31), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())


def macs(model: Model, shapes: Shapes) -> int:
    """Multiply-accumulates of one run; control-flow bodies are not entered."""
    return sum(node_macs(node, shapes) for graph, node in walk(model.graph) if graph is model.graph)


def node_macs(node: gs.Node, shapes: Shapes) -> int:
    """Multiply-accumulates of one node, 0 for operators that do not multiply matrices."""
    rule = _MACS.get(node.op)
    if rule is None or any(t.name and t.name not in shapes for t in [*node.inputs[:2], *node.outputs[:1]]):
        return 0
    return rule(node, shapes)


def _product(node: gs.Node, shapes: Shapes) -> int:
    left, out = shapes[node.inputs[0].name], shapes[node.outputs[0].name]
    depth = left[0] if node.attrs.get("transA") and node.op == "Gemm" else left[-1]
    return math.prod(out) * depth


def _quantized_product(node: gs.Node, shapes: Shapes) -> int:
    return math.prod(shapes[node.outputs[0].name]) * shapes[node.inputs[0].name][-1]


def _packed_product(node: gs.Node, shapes: Shapes) -> int:
    return math.prod(shapes[node.outputs[0].name]) * int(node.attrs["K"])


def _convolution(slot: int) -> Callable[[gs.Node, Shapes], int]:
    def rule(node: gs.Node, shapes: Shapes) -> int:
        weight = shapes.get(node.inputs[slot].name)
        if weight is None:
            return 0
        # Conv: [out, in/group, k…] on every output position; ConvTranspose: [in, out/group, k…] on every input one.
        positions = shapes[node.inputs[0].name] if node.op == "ConvTranspose" else shapes[node.outputs[0].name]
        return positions[0] * math.prod(positions[2:]) * math.prod(weight)

    return rule


def _attention(node: gs.Node, shapes: Shapes) -> int:
    """Scores and their product with the values, of the standard's operator; inputs of rank 3 or 4."""
    if node.domain or len(node.inputs) < 3 or any(tensor.name not in shapes for tensor in node.inputs[:3]):
        return 0
    query, key, value = (shapes[tensor.name] for tensor in node.inputs[:3])
    past = shapes.get(node.inputs[4].name, ()) if len(node.inputs) > 4 else ()
    if len(query) == 4:
        batch, heads, length, size = query
        keys, values = key[2], value[3]
    else:
        heads, groups = int(node.attrs["q_num_heads"]), int(node.attrs["kv_num_heads"])
        batch, length, keys = query[0], query[1], key[1]
        size, values = query[2] // heads, value[2] // groups
    keys += past[2] if len(past) == 4 else 0
    return batch * heads * length * keys * (size + values)


def _recurrent(node: gs.Node, shapes: Shapes) -> int:
    steps, batch, _ = shapes[node.inputs[0].name]
    weights = [shapes.get(node.inputs[slot].name, (0,)) for slot in (1, 2)]
    return steps * batch * sum(map(math.prod, weights))


_MACS: dict[str, Callable[[gs.Node, Shapes], int]] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _convolution(1),
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeMatMul": _quantized_product,
    "FusedConv": _convolution(1),
    "FusedMatMul": _product,
    "GRU": _recurrent,
    "Gemm": _product,
    "LSTM": _recurrent,
    "MatMul": _product,
    "MatMulInteger": _quantized_product,
    "MatMulIntegerToFloat": _quantized_product,
    "MatMulNBits": _packed_product,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _quantized_product,
    "RNN": _recurrent,
}
