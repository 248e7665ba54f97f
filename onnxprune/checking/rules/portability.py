"""Processors that compute the same model otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.checking.case import Array, Case
from onnxprune.checking.finding import Severity, Spot
from onnxprune.checking.rule import rule
from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.solvers.saturation import columns_at_risk, saturating_product

# Where integer products and convolutions have their activations, the zero point of those, and their weight.
_SLOTS = {
    "ConvInteger": (0, 2, 1),
    "DynamicQuantizeMatMul": (0, -1, 1),
    "MatMulInteger": (0, 2, 1),
    "QLinearConv": (0, 2, 3),
    "QLinearMatMul": (0, 2, 3),
}
_FLOATS = {"Conv", "Gemm", "MatMul"}
# A column that saturates does so for many rows, and a layer that does for many columns.
_ROWS, _COLUMNS = 32, 256
# Of the results' root mean square. Below the first, rounding to 8 bits itself moves more.
_NOTABLE, _HARMFUL = 0.01, 0.1


@dataclass(frozen=True)
class _Product:
    """A product of unsigned activations and signed weights.

    Attributes:
        zero_point: of the activations; None where the operator takes 0.
        weight: as it is stored.
    """

    node: gs.Node
    activations: gs.Tensor
    zero_point: gs.Tensor | None
    weight: Array


@rule(
    "saturation",
    "warning",
    needs="run",
    do="Store weights with 7 bits where it must run on such processors, or ship it for VNNI and ARM only.",
)
def saturation(case: Case) -> Iterator[Spot]:
    """On x64 without VNNI sums of integer products are cut to 16 bits, pair by pair.

    A note where a layer's results move by less than a tenth; with --portable an error from 1 % on.
    """
    products = list(_products(case.model))
    if not products:
        return
    wanted = {t.name for one in products for t in (one.activations, one.zero_point) if isinstance(t, gs.Variable)}
    seen = case.values(sorted(wanted))
    for product in products:
        x = seen.get(product.activations.name)
        laid = None if x is None or x.dtype != np.uint8 else _laid_out(x, product)
        if laid is None:
            continue
        rows, weight = laid
        risk = np.flatnonzero(columns_at_risk(weight, rows.max(axis=0, initial=0)))
        if not len(risk):
            continue
        some = rows[np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int)]
        # Exact in float64: sums stay far below 2^53.
        exact = some.astype(np.float64) @ weight.astype(np.float64)
        chosen = risk[:_COLUMNS]
        error = saturating_product(some, weight[:, chosen]) - exact[:, chosen]
        if not error.any():
            continue
        results = exact - _zero(product, seen) * weight.astype(np.float64).sum(axis=0)
        moved = np.sum(error**2) * len(risk) / len(chosen)
        share = float(np.sqrt(moved / max(np.sum(results**2), 1e-30)))
        cut = np.count_nonzero(error) / error.size
        columns = f"{len(risk)} of {weight.shape[1]} columns at risk"
        what = f"{columns}, where {cut:.1%} of the sums are cut; results move by {share:.1%} on {case.samples.source}"
        name = product.node.name or product.node.outputs[0].name
        yield Spot(f"{product.node.op} {name!r}", what, _severity(share, strict=case.budgets.portable))


def _severity(share: float, *, strict: bool) -> Severity:
    if strict:
        return "error" if share >= _NOTABLE else "note"
    return "warning" if share >= _HARMFUL else "note"


def _zero(product: _Product, seen: Mapping[str, Array]) -> int:
    tensor = product.zero_point
    if isinstance(tensor, gs.Constant):
        return int(np.ravel(numbers(tensor))[0])
    return int(np.ravel(seen[tensor.name])[0]) if tensor is not None and tensor.name in seen else 0


def _laid_out(x: Array, product: _Product) -> tuple[Array, Array] | None:
    """Activations [m, k] and weight [k, n] in the order in which kernels sum them; None where that is not known."""
    node, weight = product.node, product.weight
    if "Conv" not in node.op:
        transposed = node.op == "Gemm" and node.attrs.get("transB", 0)
        matrix = weight.T if transposed else weight
        return (x.reshape(-1, x.shape[-1]), matrix) if matrix.ndim == 2 and x.shape[-1] == len(matrix) else None
    size = weight.shape[2:]
    plain = node.attrs.get("group", 1) == 1 and set(node.attrs.get("dilations", (1,))) == {1}
    if not plain or len(size) != x.ndim - 2 or any(a < b for a, b in zip(x.shape[2:], size, strict=True)):
        return None
    # Kernels for integers run channels-last: taps outside, channels inside. What pads the border saturates no more.
    axes = tuple(range(2, x.ndim))
    windows = np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, size, axis=axes), 1, -1)
    picked = windows.reshape(-1, *windows.shape[1 + len(size) :])
    return picked.reshape(len(picked), -1), np.moveaxis(weight, 1, -1).reshape(len(weight), -1).T


def _products(model: Model) -> Iterator[_Product]:
    for node in model.graph.nodes:
        found = _stored(node) if node.op in _SLOTS else _quantized(node)
        if found is not None and found.weight.dtype == np.int8 and found.weight.ndim > 1:
            yield found


def _stored(node: gs.Node) -> _Product | None:
    at, zero, slot = _SLOTS[node.op]
    weight = node.inputs[slot] if len(node.inputs) > slot else None
    if not isinstance(weight, gs.Constant):
        return None
    given = node.inputs[zero] if 0 <= zero < len(node.inputs) and node.inputs[zero].name else None
    return _Product(node, node.inputs[at], given, numbers(weight))


def _quantized(node: gs.Node) -> _Product | None:
    """A float operator between DequantizeLinear nodes, which the runtime turns into an integer one."""
    if node.op not in _FLOATS or node.domain or len(node.inputs) < 2:
        return None
    left, right = (producer(tensor) for tensor in node.inputs[:2])
    if left is None or right is None or {left.op, right.op} != {"DequantizeLinear"}:
        return None
    weight = right.inputs[0]
    if not isinstance(weight, gs.Constant):
        return None
    return _Product(node, left.inputs[0], left.inputs[2] if len(left.inputs) > 2 else None, numbers(weight))


RULES = (saturation,)
