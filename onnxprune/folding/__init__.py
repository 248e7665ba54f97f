"""Arithmetic with constants carried out beforehand, and products of matrices written as such."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxprune.folding.affine import fold_backward, fold_forward
from onnxprune.folding.gates import fold_gates
from onnxprune.folding.pads import fold_pads
from onnxprune.folding.products import lower_products
from onnxprune.folding.states import drop_zero_states

__all__ = ["drop_zero_states", "fold_arithmetic", "lower_products"]


def fold_arithmetic(graph: gs.Graph, overridable: frozenset[str] = frozenset()) -> int:
    """Fold until nothing more folds; outputs move by float rounding alone. Nodes that are left idle stay for a cleanup.

    Args:
        graph: edited in place.
        overridable: initializers that a caller may replace.

    Returns:
        How many nodes went.
    """
    folded = 0
    while count := sum(
        fold(graph, overridable) for fold in (fold_pads, fold_gates, fold_backward, fold_forward)
    ):  # fmt: skip
        folded += count
        graph.cleanup(remove_unused_graph_inputs=False)
    return folded
