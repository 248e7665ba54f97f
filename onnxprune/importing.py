"""Figures that a device measured, read back into the tables of `onnxprune time`; they come from strangers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.bundling import MANIFEST, PROVIDERS, SCHEMA
from onnxprune.comparison import Timings
from onnxprune.errors import DataError
from onnxprune.measurement import Measurement
from onnxprune.targets.measured import timed_models
from onnxprune.targets.process import read_answer
from onnxprune.targets.timing import Timed, latency, paired_ratio

Array = np.ndarray[Any, Any]
_MAX_BYTES = 2**24
_MAX_MODELS, _MAX_ROUNDS, _MAX_RUNS = 1000, 10_000, 1_000_000


def import_results(folder: Path | str) -> Timings:
    """What a device measured with a bundle.

    Args:
        folder: the bundle, with its `results`.

    Raises:
        DataError: no bundle, no results, models other than those bundled, or figures that are none.
        TargetError: an answer of the worker on the device is none.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    names = [entry["name"] for entry in manifest["models"]]
    for at, entry in enumerate(manifest["models"]):
        _same_model(folder / "models" / str(at) / "model.onnx", entry["sha256"])
    measured = []
    note = _device(folder / "results" / "device.txt")
    for provider in PROVIDERS:
        results = folder / "results" / provider
        if results.is_dir():
            target = f"device:{provider}"
            measured.append(
                Measurement(
                    target=target,
                    latency="wall",
                    models=_models(target, results, names, manifest),
                    placements=(),
                    notes=(note,) if note else (),
                )
            )
    if not measured:
        raise DataError(f"{folder}: holds no results. Run run.sh on the device first, and bring the folder back.")
    shape = {str(name): tuple(size) for name, size in manifest["shape"].items()}
    return Timings(shape=shape, measurements=tuple(measured), paths=tuple(Path(name) for name in names))


def _models(target: str, results: Path, names: Sequence[str], manifest: Mapping[str, Any]) -> tuple[Timed, ...]:
    paths = [Path(name) for name in names]
    if (results / "answer.json").is_file():
        return timed_models(target, read_answer(target, results, paths), paths)
    rounds = [
        [_runs(results / f"{turn}-{at}.csv", manifest["runs"]) for at in range(len(names))]
        for turn in range(manifest["rounds"])
    ]
    middles = np.array([[float(np.median(runs)) for runs in row] for row in rounds])
    return tuple(
        Timed(
            name=name,
            load_ms=math.nan,
            latency_ms=latency(np.concatenate([row[at] for row in rounds])),
            speedup=paired_ratio(middles[:, 0], middles[:, at]),
        )
        for at, name in enumerate(names)
    )


def _runs(path: Path, expected: int) -> Array:
    """Milliseconds of the runs in a result file of onnxruntime's perf test: name, seconds, bytes, share, number."""
    lines = _text(path).splitlines()
    if len(lines) != expected:
        raise DataError(f"{path}: holds {len(lines)} runs, {expected} were asked for. Run run.sh again.")
    found = []
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        try:
            seconds = float(fields[1])
        except (IndexError, ValueError):
            seconds = math.nan
        if len(fields) != 5 or not (math.isfinite(seconds) and seconds > 0):
            raise DataError(f"{path}: line {number} is no run of onnxruntime's perf test. Run run.sh again.")
        found.append(seconds * 1e3)
    return np.array(found)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: is larger than {_MAX_BYTES} bytes, so it is no result. Run run.sh again.")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Run run.sh again.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text. Run run.sh again.") from error


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON. Write the bundle anew.") from error
    except DataError as error:
        raise DataError(f"{folder}: is no bundle. Write one with `onnxprune time MODEL ... --bundle`.") from error
    if not _is_manifest(found):
        raise DataError(f"{path}: is no manifest of schema {SCHEMA}. Write the bundle anew.")
    return dict(found)


def _is_manifest(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.get("schema") == SCHEMA
        and _is_number(found.get("rounds"), _MAX_ROUNDS)
        and _is_number(found.get("runs"), _MAX_RUNS)
        and isinstance(found.get("shape"), dict)
        and all(isinstance(size, list) and all(type(one) is int for one in size) for size in found["shape"].values())
        and isinstance(found.get("models"), list)
        and 0 < len(found["models"]) <= _MAX_MODELS
        and all(_is_entry(entry) for entry in found["models"])
    )


def _is_number(value: Any, largest: int) -> bool:
    return type(value) is int and 0 < value <= largest


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("name", "sha256"))
        and entry["name"].isprintable()
        and len(entry["name"]) <= 255
    )


def _same_model(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Bring the whole folder back.") from error
    if found != sha256:
        raise DataError(f"{path}: is not the model that was bundled. Write the bundle anew and run it again.")


def _device(path: Path) -> str:
    if not path.is_file():
        return ""
    words = " ".join(_text(path).split())
    return f"device: {''.join(char for char in words if char.isprintable())[:200]}"
