"""Ranges of activations around what multiplies integers between fixed grids."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs, Statistics
from onnxprune.model import Model
from onnxprune.quantizing.moving import paths_to
from onnxprune.solvers.ranges import PERCENTILE, Method, choose_range
from onnxprune.weights import Use, find_weights

Array = np.ndarray[Any, Any]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Ranges:
    """How the ends of activations' grids are chosen.

    Attributes:
        method: one of `solvers.ranges.METHODS`.
        percentile: percent of the values that the percentile range covers.
    """

    method: Method = "minmax"
    percentile: float = PERCENTILE


def range_needs(model: Model, ranges: Ranges, *, linears: bool, correct: bool) -> Needs:
    """What has to be known of tensors around every reader that may stand between grids.

    Args:
        model: as it now is.
        ranges: how ends are chosen.
        linears: whether products may stand on fixed grids, too.
        correct: whether means of channels are wanted, to make up for rounding.
    """
    tensors: set[str] = set()
    means: set[str] = set()
    for weight in find_weights(model.graph, model.overridable):
        for use in weight.uses:
            if use.role == "conv" and can_be_static(use, model):
                tensors |= {use.node.inputs[0].name, result_of(use.node).name}
                means |= {use.node.inputs[0].name} if correct else set()
            elif linears and use.role == "linear" and can_be_ranged(use, model):
                tensors.add(use.node.inputs[0].name)
    named = frozenset(tensors)
    return Needs(
        ranges=named, histograms=frozenset() if ranges.method == "minmax" else named, channels=frozenset(means)
    )


def can_be_static(use: Use, model: Model) -> bool:
    """Whether a convolution has a form between fixed grids of its input and output."""
    node = use.node
    plain = node.op in {"Conv", "ConvTranspose"} and not node.domain and not use.views
    if not plain or node.inputs[1].dtype != np.float32 or not _bias_known(node, model.overridable):
        return False
    # An output of the graph stays in float, and the runtime merges a convolution only where nothing else reads it.
    given_out = {id(tensor) for tensor in model.graph.outputs}
    result = result_of(node)
    return bool(result.outputs) and not {id(result), id(node.outputs[0])} & given_out


def can_be_ranged(use: Use, model: Model) -> bool:
    """Whether a product has a form whose input is on a fixed grid."""
    node = use.node
    plain = node.op in {"MatMul", "Gemm"} and not node.domain and not use.views and use.slot == 1
    if not plain or node.inputs[1].dtype != np.float32 or len(node.inputs[1].shape) != 2:
        return False
    if node.attrs.get("transA", 0) or isinstance(node.inputs[0], gs.Constant):
        return False
    columns = node.inputs[1].shape[0 if use.reads_transposed else 1]
    biased = len(node.inputs) > 2 and bool(node.inputs[2].name)
    # One number for all columns, or a matrix, is no bias of an integer product.
    fits = not biased or (isinstance(node.inputs[2], gs.Constant) and tuple(node.inputs[2].shape) == (columns,))
    return fits and _bias_known(node, model.overridable)


def _bias_known(node: gs.Node, overridable: Collection[str]) -> bool:
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return True
    return isinstance(node.inputs[2], gs.Constant) and node.inputs[2].name not in overridable


def result_of(node: gs.Node) -> gs.Tensor:
    """The convolution's output, behind the activation that the runtime merges into it."""
    out = node.outputs[0]
    if len(out.outputs) == 1 and out.outputs[0].op in {"Relu", "Clip"}:
        return out.outputs[0].outputs[0]
    return out


class Chosen:
    """Ends of every grid of one model; tensors whose values merely move share theirs, so that nothing rounds twice.

    Attributes:
        means: of channels, by tensor.
    """

    def __init__(self, model: Model, statistics: Statistics | None, ranges: Ranges, *, linears: bool) -> None:
        self.means: Mapping[str, Array] = {} if statistics is None else statistics.channels
        self._ends: dict[str, Ends] = {}
        self._through: dict[str, tuple[str, ...]] = {}
        if statistics is None:
            return
        self._ends = dict(_ends(statistics, ranges))
        uses = [use for weight in find_weights(model.graph, model.overridable) for use in weight.uses]
        static = [use for use in uses if use.role == "conv" and can_be_static(use, model) and self.has(use)]
        ranged = [use for use in uses if linears and use.role == "linear" and can_be_ranged(use, model)]
        results = {result_of(use.node).name for use in static}
        for use in [*static, *ranged]:
            source = use.node.inputs[0]
            if source.name not in self._ends or source.name in self._through:
                continue
            passed, roots = paths_to(source, results)
            self._through[source.name] = passed
            tied = [source.name, *(name for name in roots if name in self._ends)]
            lows, highs = zip(*(self._ends[name] for name in tied), strict=True)
            # Values that move keep their size, so that the wider of both ranges holds them all.
            self._ends |= dict.fromkeys(tied, (min(lows), max(highs)))

    def has(self, use: Use) -> bool:
        """Whether the samples gave what a reader's form wants."""
        if use.role == "linear":
            return use.node.inputs[0].name in self._ends
        return use.node.inputs[0].name in self._ends and result_of(use.node).name in self._ends

    def of(self, use: Use) -> dict[str, Any]:
        """`input`, [low, high]; `through`, tensors before it on its grid; of a convolution `output` and `result`."""
        source = use.node.inputs[0].name
        found: dict[str, Any] = {"input": list(self._ends[source])}
        if self._through.get(source):
            found["through"] = list(self._through[source])
        if use.role == "conv":
            result = result_of(use.node).name
            found |= {"output": list(self._ends[result]), "result": result}
        return found


def _ends(statistics: Statistics, ranges: Ranges) -> Mapping[str, Ends]:
    if ranges.method == "minmax":
        return {name: (float(low), float(high)) for name, (low, high) in statistics.ranges.items()}
    return {
        name: choose_range(histogram, ranges.method, percentile=ranges.percentile)
        for name, histogram in statistics.histograms.items()
    }


__all__ = ["Chosen", "Ranges", "can_be_ranged", "can_be_static", "range_needs", "result_of"]
