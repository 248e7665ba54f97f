"""The first tensor where two models part, for whoever has to mend an edit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.figures import Array
from onnxprune.model import Model
from onnxprune.moments import blocks
from onnxprune.observer import shapes_of
from onnxprune.runtime import Feeds, observe

# Operators whose results may be no tensors: what they give out has no shape to ask for.
_NO_TENSORS = ("If", "Loop", "Scan", "Sequence", "SplitToSequence", "Optional", "ZipMap")
# An error this far under the values that feed an operator is their rounding, however small the result is.
_ROUNDING = 16 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A tensor that differs although what feeds it does not.

    Attributes:
        tensor: its name, the same in both models.
        node: the reference's node that computes it.
        op: that node's operator.
        relative_l2: ‖y-ŷ‖ / ‖y‖; infinite where NaN or infinity came of finite numbers.
        max_abs: largest |y-ŷ|.
        tolerance: relative L2 that was let pass.
        feeding: relative L2 of the nearest compared tensors that feed it, by name.
        reshaped: tensors before it with another shape or type in the candidate, which could not be compared.
    """

    tensor: str
    node: str
    op: str
    relative_l2: float
    max_abs: float
    tolerance: float
    feeding: Mapping[str, float]
    reshaped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Difference:
    relative_l2: float
    max_abs: float
    error_rms: float
    value_rms: float


def first_divergence(
    reference: Model,
    candidate: Model,
    feeds: Feeds,
    *,
    tolerance: float = 1e-3,
    chunk_bytes: int = 2**28,
) -> Divergence | None:
    """The first float tensor, in the reference's order, whose relative L2 error exceeds the tolerance.

    Tensors are matched by name, both models run without optimizations. What stands before the tensor found, and has
    its name in both models, is within the tolerance.

    Args:
        reference: what is right.
        candidate: what is judged.
        feeds: inputs of one call.
        tolerance: relative L2 error that is let pass.
        chunk_bytes: of tensors held at a time, of both models together; a larger tensor is held alone.

    Raises:
        ModelError: a model does not run on the feeds.
    """
    producers = _producers(reference)
    known = _producers(candidate).keys()
    names = [name for name in producers if name in known]
    seen = {name: _difference(value, value) for name, value in feeds.items() if value.dtype.kind == "f"}
    reshaped: list[str] = []
    for chunk in _chunks(names, _sizes(reference, names, feeds), chunk_bytes):
        # Sequences and maps come out as lists, whatever the runtime's signature says.
        expected: Mapping[str, Any] = observe(reference, feeds, chunk)
        obtained: Mapping[str, Any] = observe(candidate, feeds, chunk)
        for name in chunk:
            y, z = expected[name], obtained[name]
            if not isinstance(y, np.ndarray) or y.dtype.kind != "f":
                continue
            if not isinstance(z, np.ndarray) or z.dtype.kind != "f" or y.shape != z.shape:
                reshaped.append(name)
                continue
            difference = seen[name] = _difference(y, z)
            feeding = _feeding(producers, name, seen)
            rounding = _ROUNDING * max((seen[near].value_rms for near in feeding), default=0.0)
            if difference.relative_l2 > tolerance and difference.error_rms > rounding:
                node = producers[name]
                return Divergence(
                    tensor=name,
                    node=node.name,
                    op=node.op,
                    relative_l2=difference.relative_l2,
                    max_abs=difference.max_abs,
                    tolerance=tolerance,
                    feeding={near: seen[near].relative_l2 for near in feeding},
                    reshaped=tuple(reshaped),
                )
    return None


def relative_errors(
    reference: Model, candidate: Model, feeds: Feeds, names: Sequence[str], *, chunk_bytes: int = 2**28
) -> dict[str, float]:
    """‖y-ŷ‖ / ‖y‖ of tensors that both models compute with one shape, by name; others are left out.

    Raises:
        ModelError: a model does not run on the feeds.
    """
    known = _producers(candidate).keys() & _producers(reference).keys()
    found: dict[str, float] = {}
    wanted = [name for name in names if name in known]
    for chunk in _chunks(wanted, _sizes(reference, wanted, feeds), chunk_bytes):
        expected: Mapping[str, Any] = observe(reference, feeds, chunk)
        obtained: Mapping[str, Any] = observe(candidate, feeds, chunk)
        for name in chunk:
            y, z = expected[name], obtained[name]
            arrays = isinstance(y, np.ndarray) and isinstance(z, np.ndarray)
            if arrays and y.dtype.kind == "f" and y.shape == z.shape:
                found[name] = _difference(y, z).relative_l2
    return found


def _producers(model: Model) -> dict[str, gs.Node]:
    """The node that computes each tensor of the top graph, in topological order."""
    graph = model.copy().graph.toposort()
    return {
        tensor.name: node
        for node in graph.nodes
        if not node.op.startswith(_NO_TENSORS)
        for tensor in node.outputs
        if tensor.name
    }


def _feeding(producers: Mapping[str, gs.Node], name: str, seen: Mapping[str, _Difference]) -> list[str]:
    """The nearest tensors before one that were compared, inputs of the model included."""
    found: dict[str, None] = {}
    passed = {name}
    waiting = [producers[name]]
    while waiting:
        for tensor in waiting.pop().inputs:
            if tensor.name in passed:
                continue
            passed.add(tensor.name)
            if tensor.name in seen:
                found[tensor.name] = None
            elif tensor.inputs:
                waiting.append(tensor.inputs[0])
    return sorted(found)


def _sizes(model: Model, names: Sequence[str], feeds: Feeds) -> dict[str, int]:
    """Elements of tensors, from one run that gives out their shapes only."""
    return {name: math.prod(shape) for name, shape in shapes_of(model, names, feeds, level="none").items()}


def _chunks(names: Sequence[str], sizes: Mapping[str, int], chunk_bytes: int) -> Iterator[list[str]]:
    """Runs of names whose float32 values of both models fit together."""
    chunk: list[str] = []
    held = 0
    for name in names:
        size = 2 * 4 * sizes[name]
        if chunk and held + size > chunk_bytes:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += size
    if chunk:
        yield chunk


def _difference(expected: Array, obtained: Array) -> _Difference:
    """Figures of one tensor; positions where both are the same infinity or both NaN count as equal."""
    y_flat, z_flat = expected.reshape(-1), obtained.reshape(-1)
    error = square = largest = 0.0
    for block in blocks(y_flat.size, 1):
        y, z = y_flat[block].astype(np.float64), z_flat[block].astype(np.float64)
        finite = np.isfinite(y) & np.isfinite(z)
        if np.any(~finite & (y != z) & ~(np.isnan(y) & np.isnan(z))):
            return _Difference(math.inf, math.inf, math.inf, 0.0)
        y, z = np.where(finite, y, 0.0), np.where(finite, z, 0.0)
        difference = np.abs(y - z)
        error += float(np.dot(difference, difference))
        square += float(np.dot(y, y))
        largest = max(largest, float(difference.max(initial=0.0)))
    relative = math.sqrt(error / square) if square else math.inf if error else 0.0
    count = max(y_flat.size, 1)
    return _Difference(relative, largest, math.sqrt(error / count), math.sqrt(square / count))
