"""Run a tool on a model as its user would, and look at the file that it gives back."""

import gzip
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from benchmarks import environments, packages, tasks
from benchmarks.measure import Measured, measure
from benchmarks.peers import PEERS
from benchmarks.sessions import open_session

_TIME_LIMIT_S = 900.0
_PEER_LIMIT_S = 900.0
_CELL = 200


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What a tool made of a model.

    Attributes:
        tool: its name in the tables.
        file: the file it wrote.
        error: one line if there is no usable file, else empty.
        cost: what running it took; None for the original.
        report: what the tool printed as JSON, if it did.
    """

    tool: str
    file: Path
    error: str = ""
    cost: Measured | None = None
    report: dict[str, Any] = field(default_factory=dict)


def original(path: Path) -> Attempt:
    """Return the untouched file as an attempt."""
    return Attempt(tool="fp32", file=path)


def onnxprune(
    path: Path, target: Path, *options: str | Path, limit_s: float = _TIME_LIMIT_S, cache: Path | None = None
) -> Attempt:
    """Run `onnxprune optimize` with `options`; with a cache it takes over what another run has kept there."""
    kept: list[str | Path] = [] if cache is None else ["env", f"ONNXPRUNE_CACHE={cache}"]
    command = [Path(sys.executable).with_name("onnxprune"), "optimize", path, "-o", target, "--json", *options]
    return _attempt("onnxprune", [*kept, *command], target, limit_s)


def peer(name: str, path: Path, target: Path, model: str | None) -> Attempt:
    """Run a tool of `peers.py`, in its own environment, on what belongs to `model`; None: on nothing but the file."""
    try:
        interpreter = environments.python(PEERS[name].environment)
    except packages.FetchError as error:
        return Attempt(tool=name, file=target, error=str(error))
    task, data = (tasks.of(model), tasks.calibration_file(model)) if model else (tasks.Task(), None)
    job = target.with_suffix(".job.json")
    told = {"data": None if data is None else str(data), "kind": task.kind, **task.transformer}
    job.write_text(json.dumps(told), encoding="utf-8")
    command: list[str | Path] = [interpreter, "-m", "benchmarks.peers", name, path, target, job]
    return _attempt(name, command, target, _PEER_LIMIT_S)


def _attempt(tool: str, command: list[str | Path], target: Path, limit_s: float = _TIME_LIMIT_S) -> Attempt:
    target.unlink(missing_ok=True)
    cost = measure(command, timeout=limit_s)
    return Attempt(tool=tool, file=target, error=_error(cost, target), cost=cost, report=_json(cost.stdout))


def _error(cost: Measured, target: Path) -> str:
    # Exit code 1 says that a goal was missed; the best file found is there all the same.
    if cost.exit_code not in (0, 1) or not target.exists():
        return f"exit {cost.exit_code}: {shortened(cost.stderr.strip() or cost.stdout.strip() or 'nothing said')}"
    try:
        open_session(target)
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime raises is the finding
        return f"does not load: {shortened(str(error))}"
    return ""


def shortened(said: str) -> str:
    """Return the last line that says something, no longer than a cell, without a path of this machine."""
    lines = [line.strip() for line in said.splitlines() if any(map(str.isalpha, line))]
    # Of a path its last name is kept.
    text = re.sub(r"(?:/[\w.@+-]+)+/([\w.@+-]+)", r"\1", lines[-1] if lines else "nothing said")
    return text if len(text) <= _CELL else f"{text[: _CELL - 2]} …"


def _json(text: str) -> dict[str, Any]:
    try:
        loaded = json.loads(text)
    except ValueError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def gzip_bytes(path: Path) -> int:
    """Return the size of the file at `path` under gzip's default level."""
    return len(gzip.compress(path.read_bytes(), compresslevel=6, mtime=0))


def kept(before: Path, after: Path) -> dict[str, bool]:
    """Say whether the interface and the user's metadata of `before` are in `after`."""
    old, new = (onnx.load(path, load_external_data=False) for path in (before, after))
    metadata = [{entry.key: entry.value for entry in model.metadata_props} for model in (old, new)]
    fields = [(model.doc_string, model.domain, model.model_version) for model in (old, new)]
    return {
        "interface": _interface(old) == _interface(new),
        "metadata": metadata[0].items() <= metadata[1].items() and fields[0] == fields[1],
    }


def _interface(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    # Old files list overridable initializers among the inputs; they are no part of what callers must feed.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return [(value.name, value.type.SerializeToString(deterministic=True)) for value in (*inputs, *model.graph.output)]


def skips(attempt: Attempt) -> list[tuple[str, int]]:
    """Return the reasons for which sites were left alone or edits reverted, the commonest first."""
    reasons = Counter(
        entry["why"]
        for done in attempt.report.get("passes", [])
        for kind in ("skips", "reverted")
        for entry in done.get(kind, [])
    )
    return reasons.most_common()


def changes(attempt: Attempt) -> int:
    """Return how many changes the tool reported."""
    return sum(len(done.get("changes", [])) for done in attempt.report.get("passes", []))
