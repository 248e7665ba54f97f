"""What is left in float, and what holds integers already."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxprune.biases import has_bias
from onnxprune.errors import Declined
from onnxprune.graph import elements, walk
from onnxprune.model import Model
from onnxprune.plan import Skip
from onnxprune.tables import copies_of
from onnxprune.weights import Weight

# Nodes that hold integers already; quantizing twice loses twice.
QUANTIZED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
# Below this many numbers a weight saves less than its scales and nodes cost.
_SMALLEST_WEIGHT = 1024


def quantized_already(model: Model) -> tuple[str, ...]:
    """Operators of the graph that hold integers, sorted."""
    return tuple(sorted({node.op for _, node in walk(model.graph) if node.op in QUANTIZED}))


def tables_among(weights: Collection[Weight]) -> frozenset[str]:
    """Weights that rows are looked up in, and stored copies of them that a head multiplies by."""
    tables = [weight for weight in weights if any(use.role == "embedding" for use in weight.uses)]
    copies = {copy.constant.name for one in tables if len(one.constant.shape) == 2 for copy in copies_of(one, weights)}
    return frozenset(copies | {one.constant.name for one in tables})


def has_own_bias(weight: Weight, model: Model) -> bool:
    """Whether a constant bias stands behind the products that read a weight, and behind nothing else."""
    plain = all(
        use.role == "linear"
        and use.node.op in {"MatMul", "Gemm"}
        and not use.node.domain
        and float(use.node.attrs.get("alpha", 1.0)) == 1.0
        for use in weight.uses
    )
    names = [use.name for use in weight.uses]
    return plain and has_bias(model.graph, names, overridable=model.overridable)


def refuse(weight: Weight, *, small: bool = False) -> None:
    """Raise Declined where a weight has to stay in float; `small` lets it be of any size, where integers flow by."""
    if elements(weight.constant) < _SMALLEST_WEIGHT and not small:
        raise Declined(f"fewer than {_SMALLEST_WEIGHT} numbers: its scales would outweigh what int8 saves")
    if isinstance(weight.constant._values, SparseValues):  # noqa: SLF001 - not read
        raise Declined("stored sparse already")
    if weight.given_out:
        raise Declined("an output of the graph too, which wants it in float")
    if weight.others:
        reader = weight.others[0]
        raise Declined(f"also read by {reader.op} {reader.outputs[0].name!r}, which wants it in float")
    if not np.isfinite(weight.constant.values).all():
        raise Declined("it holds infinite numbers")


def left_alone(model: Model) -> list[Skip]:
    """Readers of weights that are no site: quantized already, inside a body, or open to the caller."""
    skips = []
    for graph, node in walk(model.graph):
        name = node.outputs[0].name
        if node.op in QUANTIZED:
            skips.append(Skip(site=name, why=f"already quantized: {node.op}"))
        elif graph is not model.graph and node.op in {"MatMul", "Gemm", "Conv", "LSTM", "GRU"}:
            skips.append(Skip(site=name, why=f"{node.op} inside the body of a control-flow operator"))
        elif any(tensor.name in model.overridable for tensor in node.inputs[1:2]):
            skips.append(Skip(site=name, why="the weight is a graph input too: a caller may override it"))
    return skips
