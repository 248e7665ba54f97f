"""Masked equality: a cut graph against the original with the same units zeroed at every consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference

from onnxprune.cut import count_parameters, remove_units
from onnxprune.dimensions import Dimensions, trace
from onnxprune.dimensions.masking import mask
from onnxprune.model import Model, load, to_bytes
from onnxprune.runtime import observe_shapes, open_session

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Shapes = dict[str, tuple[tuple[int, ...], ...]]
# DESIGN section 3: max|cut - masked| <= 1e-5 max|masked|.
BOUND = 1e-5


@dataclass(frozen=True)
class Traced:
    """A model with its observed shapes and its dimensions."""

    model: Model
    shapes: Shapes
    dimensions: Dimensions


def traced(source: Path | Model, probes: Sequence[Feeds], *, cut_interface: bool = False) -> Traced:
    """Load, observe, trace."""
    model = source if isinstance(source, Model) else load(source)
    shapes = observe_shapes(model, probes)
    found = trace(model.graph, shapes, overridable=model.overridable, cut_interface=cut_interface)
    return Traced(model, shapes, found)


def cut(held: Traced, removals: Mapping[int, Sequence[int]]) -> tuple[Model, int]:
    """A cut copy, its full check passed, and the predicted number of parameters removed.

    Asserts that the prediction is what went.
    """
    model = held.model.copy()
    before = count_parameters(model.graph)
    report = remove_units(model.graph, held.dimensions, removals, held.shapes)
    assert before - count_parameters(model.graph) == report.params_removed
    if _passes(held.model, full=True):
        _check(model, full=True)
    elif _passes(held.model, full=False):  # inference knows no operators of com.microsoft
        _check(model, full=False)
    return model, report.params_removed


def _check(model: Model, *, full: bool) -> None:
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)), full_check=full)


def _passes(model: Model, *, full: bool) -> bool:
    try:
        _check(model, full=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def masked(held: Traced, removals: Mapping[int, Sequence[int]]) -> Model:
    """The reference: the original with units zeroed."""
    model = held.model.copy()
    mask(model.graph, held.dimensions, removals)
    return model


def relative_error(got: Feeds, wanted: Feeds) -> float:
    """max|got - wanted| / max|wanted| over all outputs, the worst output; infinite where shapes differ."""
    worst = 0.0
    for name, reference in wanted.items():
        if got[name].shape != reference.shape:
            return float("inf")
        scale = float(np.abs(reference.astype(np.float64)).max(initial=0.0)) or 1.0
        error = float(np.abs(got[name].astype(np.float64) - reference).max(initial=0.0)) / scale
        # A NaN compares as false with everything, so that max() would drop it.
        worst = max(worst, error) if np.isfinite(error) else float("inf")
    return worst


def error_in_doubles(held: Traced, removals: Mapping[int, Sequence[int]], feeds: Feeds) -> float:
    """Error of the cut when both graphs are evaluated in float64, where only a wrong cut is left.

    For deep networks whose last sigmoid turns rounding of float32 into large relative differences.
    """
    wide = {
        name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in dict(feeds).items()
    }
    got, wanted = (_evaluated(each, wide) for each in (cut(held, removals)[0], masked(held, removals)))
    return relative_error(got, wanted)


def _evaluated(model: Model, feeds: Feeds) -> dict[str, Array]:
    proto = onnx.load_from_string(to_bytes(model))
    for stored in proto.graph.initializer:
        if stored.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(stored).astype(np.float64)
            stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", onnx.TensorProto.FLOAT):
                attribute.i = onnx.TensorProto.DOUBLE
    got = list(onnx.reference.ReferenceEvaluator(proto).run(None, dict(feeds)))
    return {out.name: np.asarray(each) for out, each in zip(proto.graph.output, got, strict=True)}


def compare(held: Traced, removals: Mapping[int, Sequence[int]], checks: Sequence[Feeds]) -> tuple[float, float]:
    """Worst error of the cut against the masked original, and how far masking moves the outputs at most."""
    smaller, _ = cut(held, removals)
    reference = masked(held, removals)
    error = moved = 0.0
    for level in ("none", "default"):
        sessions = [open_session(each, level=level) for each in (smaller, reference, held.model)]
        for feeds in checks:
            got, wanted, original = (session.run(feeds) for session in sessions)
            error = max(error, relative_error(got, wanted))
            moved = max(moved, relative_error(wanted, original))
    return error, moved
