"""Whether the file can be read, is valid, loads and runs at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule

MODEL = "model"
_MOVE = "Put the data file into the model's folder and name it without a path: onnx.save(..., save_as_external_data)."


@rule("not-a-model", "error", needs="bytes", do="Export the model again, or copy it whole.")
def not_a_model(case: Case) -> Iterator[Spot]:
    """The file is empty, cut off, or no ONNX model."""
    reason = case.failure("file")
    if reason is not None:
        yield Spot(MODEL, _own(case, reason))


@rule("external-data-outside", "error", needs="file", do=_MOVE)
def external_data_outside(case: Case) -> Iterator[Spot]:
    """Weights are kept in a file outside the model's folder."""
    folder = case.path.parent.resolve()
    for name, location, path in _external(case):
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute()
        if absolute or not path.resolve().is_relative_to(folder):
            yield Spot(f"tensor {name!r}", f"its data lies in {location!r}")


@rule("external-data-missing", "error", needs="file", do="Copy the data file with the model, or export again.")
def external_data_missing(case: Case) -> Iterator[Spot]:
    """Weights are kept in a file that is not there, or that ends too early."""
    folder = case.path.parent.resolve()
    for tensor, entries in case.raw.external():
        path = (case.path.parent / entries["location"]).resolve()
        if not path.is_relative_to(folder):
            continue
        if not path.is_file():
            yield Spot(f"tensor {tensor.name!r}", f"its data file {entries['location']!r} is missing")
            continue
        end = _int(entries.get("offset")) + max(_int(entries.get("length")), _bytes_of(tensor))
        if end > path.stat().st_size:
            held = path.stat().st_size
            yield Spot(f"tensor {tensor.name!r}", f"its data ends at byte {end}, {entries['location']!r} at {held}")


@rule(
    "checker-error",
    "error",
    needs="file",
    do="Mend what the checker names; an exporter's own bug is fixed by another opset.",
)
def checker_error(case: Case) -> Iterator[Spot]:
    """The checker of onnx refuses the model, or its shape inference contradicts the file."""
    for full in (False, True):
        try:
            onnx.checker.check_model(str(case.path), full_check=full)
        except Exception as error:  # noqa: BLE001 - the checker raises several unrelated types
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            yield Spot(MODEL, lines[0][:300], "warning" if full else None)
            return


@rule("invalid-graph", "error", needs="file", do="Check the model with onnx.checker and export it again.")
def invalid_graph(case: Case) -> Iterator[Spot]:
    """The file is a model, yet its graph cannot be put together."""
    reason = case.failure("graph")
    external = [*external_data_outside.find(case), *external_data_missing.find(case)]
    if reason is not None and not external:
        yield Spot(MODEL, _own(case, reason))


@rule("does-not-load", "error", needs="graph", do="Export with an opset and operators that onnxruntime has.")
def does_not_load(case: Case) -> Iterator[Spot]:
    """The runtime refuses the model."""
    reason = case.failure("session")
    if reason is not None:
        yield Spot(MODEL, _own(case, reason))


@rule(
    "does-not-run",
    "error",
    needs="session",
    do="Run it where it was exported; give true inputs by --data or sizes by --shape.",
)
def does_not_run(case: Case) -> Iterator[Spot]:
    """The model loads, but fails on its inputs."""
    reason = case.failure("run")
    if reason is not None:
        yield Spot(MODEL, _own(case, reason))


@rule(
    "output-not-finite",
    "error",
    needs="run",
    do="Look for a division by zero, a logarithm or an overflow before that output.",
)
def output_not_finite(case: Case) -> Iterator[Spot]:
    """An output of a run holds NaN, or nothing but infinities."""
    for name, value in case.outputs.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
            continue
        nan, finite = int(np.isnan(value).sum()), int(np.isfinite(value).sum())
        if nan or not finite:
            kind = f"{nan} NaN" if nan else "infinities only"
            yield Spot(f"output {name!r}", f"{kind} among {value.size} numbers, on {case.samples.source}")


def _own(case: Case, reason: str) -> str:
    """The reason without the file's name, which the report prints anyway."""
    for name in (str(case.path), case.path.name):
        reason = reason.removeprefix(f"{name}: ")
    return reason


def _external(case: Case) -> Iterator[tuple[str, str, Path]]:
    for tensor, entries in case.raw.external():
        yield tensor.name, entries["location"], case.path.parent / entries["location"]


def _int(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _bytes_of(tensor: onnx.TensorProto) -> int:
    try:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        return 0
    return int(np.prod(tensor.dims, dtype=np.float64)) * bits // 8


RULES = (
    not_a_model,
    external_data_outside,
    external_data_missing,
    checker_error,
    invalid_graph,
    does_not_load,
    does_not_run,
    output_not_finite,
)
