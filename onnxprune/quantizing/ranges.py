"""Ranges of activations around what multiplies integers between fixed grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.errors import Declined
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.weights import Use, find_weights


def range_needs(model: Model) -> Needs:
    """Ranges around every convolution that may become static."""
    names: set[str] = set()
    for weight in find_weights(model.graph, model.overridable):
        for use in weight.uses:
            if can_be_static(use, model.overridable):
                names |= {use.node.inputs[0].name, _result(use.node).name}
    return Needs(ranges=frozenset(names))


def can_be_static(use: Use, overridable: frozenset[str]) -> bool:
    """Whether a reader has a form between fixed ranges of its input and output."""
    node = use.node
    plain = node.op == "Conv" and not node.domain and not use.views and node.inputs[1].dtype == np.float32
    biased = len(node.inputs) > 2 and bool(node.inputs[2].name)
    if biased and node.inputs[2].name in overridable:
        return False
    # An output of the graph stays in float, and the runtime merges a convolution only between integers.
    read = bool(_result(node).outputs)
    return plain and read and (not biased or isinstance(node.inputs[2], gs.Constant))


def has_ranges(use: Use, context: Context) -> bool:
    """Whether the samples gave the ranges that the static form of a reader wants."""
    ranges = context.statistics.ranges if context.statistics is not None else {}
    return use.node.inputs[0].name in ranges and _result(use.node).name in ranges


def ranges_of(use: Use, context: Context) -> dict[str, Any]:
    """`input` and `output`, [low, high] each, and `result`, the tensor that carries the output's range."""
    if context.statistics is None:
        raise Declined("no sample inputs, so no ranges")
    ranges = context.statistics.ranges
    result = _result(use.node).name
    return {
        "input": [float(value) for value in ranges[use.node.inputs[0].name]],
        "output": [float(value) for value in ranges[result]],
        "result": result,
    }


def _result(node: gs.Node) -> gs.Tensor:
    """The convolution's output, behind the activation that the runtime merges into it."""
    out = node.outputs[0]
    if len(out.outputs) == 1 and out.outputs[0].op in {"Relu", "Clip"}:
        return out.outputs[0].outputs[0]
    return out
