"""One row an operator: how torch computes it. Families stand in modules of their own."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxprune.learn import (
    attention,
    elementwise,
    layout,
    norms,
    pooling,
    products,
    quantized,
    recurrent,
    reductions,
)
from onnxprune.learn.call import Operator

STANDARD: dict[str, Operator] = {
    **attention.TABLE,
    **elementwise.TABLE,
    **layout.TABLE,
    **norms.TABLE,
    **pooling.TABLE,
    **products.TABLE,
    **quantized.TABLE,
    **recurrent.TABLE,
    **reductions.TABLE,
}

MICROSOFT: dict[str, Operator] = {
    **attention.MICROSOFT,
    **elementwise.MICROSOFT,
    **norms.MICROSOFT,
    **products.MICROSOFT,
    **quantized.MICROSOFT,
    **recurrent.MICROSOFT,
}


def operator_of(node: gs.Node) -> Operator | None:
    """The operator's row; None for one that is not in the tables."""
    if node.domain in {None, "", "ai.onnx"}:
        return STANDARD.get(node.op)
    return MICROSOFT.get(node.op) if node.domain == "com.microsoft" else None
