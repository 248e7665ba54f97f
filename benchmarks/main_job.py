"""The main job on real models: `onnxprune optimize` with no goal, beside onnxruntime's own dynamic int8.

    python -m benchmarks.main_job [--only PREFIX ...] [--rounds 100] [--folder benchmarks]

Writes `main_job.json`, and `main_job.md` from it. A contender that fails is a row with its error.
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import contenders, models, paired, script, tables, tasks
from benchmarks.contenders import Attempt

# The models whose promises are figures; for the others it is that they go through.
_PROMISED = "minilm"
_SHARE_OF_FILE = 0.26
_SPEEDUP = 2.0
_LOSS = 0.01
_SECONDS = 30.0
_PEAK_MB = 700.0
_TIME_OF_PEER = 1.03
# Stated in the promise; the document scores are shown beside them.
_PROMISED_TASKS = ("wordsim353 spearman", "wordnet recall@1", "wordnet reciprocal rank")

Row = dict[str, Any]


def encoder(name: str, folder: Path, rounds: int) -> Row:
    """Measure a model with promised figures: fp32, onnxruntime's int8 and ours, alternated in one process."""
    path, data = models.get(name), tasks.calibration_file(name)
    attempts = [
        contenders.original(path),
        contenders.peer("ort-dynamic", path, folder / "peer.onnx", name),
        contenders.onnxprune(path, folder / "ours.onnx", *_options(name, data)),
    ]
    rows = _rows(name, attempts, rounds)
    return {"model": name, "rows": rows, "checks": _checks(rows)}


def passenger(name: str, folder: Path, rounds: int) -> Row:
    """Measure a model that must go through: it loads, keeps its interface and metadata, and says what was left."""
    path, data = models.get(name), tasks.calibration_file(name)
    ours = contenders.onnxprune(path, folder / "ours.onnx", *_options(name, data))
    rows = _rows(name, [contenders.original(path), ours], rounds)
    kept = contenders.kept(path, ours.file) if not ours.error else {}
    reasons = contenders.skips(ours)
    checks = [
        _check("goes through", ours.error or "yes", not ours.error),
        *(_check(f"{what} kept", value, value) for what, value in kept.items()),
    ]
    if not ours.error:
        own = rows[-1]
        checks += [
            _check("file no larger", own["share"], own["share"] <= 1),
            # A loss of speed is one only where the whole interval says so.
            _check(f"time, lower bound ≤ {_TIME_OF_PEER}", 1 / own["high"], 1 / own["high"] <= _TIME_OF_PEER),
        ]
    if name.startswith("int8"):
        said = any("quantized" in why for why, _ in reasons)
        checks.append(_check("recognised as quantized", said, said))
    return {
        "model": name,
        "rows": rows,
        "checks": checks,
        "changes": contenders.changes(ours),
        "left_alone": [{"why": why, "sites": count} for why, count in reasons],
    }


def _options(name: str, data: Path | None) -> list[str | Path]:
    options: list[str | Path] = ["--target", "cpu:1"]
    if data:
        options += ["--data", data]
    for entry, array in tasks.feed(name).items():
        # A scalar has no shape to state.
        if array.ndim:
            options += ["--shape", f"{entry}={'x'.join(map(str, array.shape))}"]
    return options


def _rows(name: str, attempts: list[Attempt], rounds: int) -> list[Row]:
    """Return a row for each attempt: its size, what it cost, and if it loads its speed and its scores."""
    usable = [attempt for attempt in attempts if not attempt.error]
    race = paired.race([attempt.file for attempt in usable], [tasks.feed(name)], rounds=rounds)
    timings = dict(zip((attempt.tool for attempt in usable), race.timings(), strict=True))
    score = tasks.of(name).scores
    reference = score(attempts[0].file) if score else ()
    before = attempts[0].file.stat().st_size
    rows = []
    for attempt in attempts:
        row: Row = {"tool": attempt.tool, "error": attempt.error}
        if attempt.cost:
            cost = attempt.cost
            row |= {"tool_seconds": cost.seconds, "tool_cpu_seconds": cost.cpu_seconds, "tool_peak_mb": cost.peak_mb}
        if not attempt.error:
            size = attempt.file.stat().st_size
            row |= {"bytes": size, "share": size / before, "gzip_bytes": contenders.gzip_bytes(attempt.file)}
            row |= asdict(timings[attempt.tool]) | {"file": attempt.file.name}
            own = reference if attempt is attempts[0] or not score else score(attempt.file)
            row["scores"] = tasks.report(own, reference)
        rows.append(row)
    _against_peers(rows, usable, race)
    return rows


def _against_peers(rows: list[Row], usable: list[Attempt], race: paired.Race) -> None:
    """Add to the row of onnxprune its time as a share of each peer's, with its interval."""
    place = {attempt.tool: index for index, attempt in enumerate(usable)}
    ours = next((row for row in rows if row["tool"] == "onnxprune" and not row["error"]), None)
    if ours is None:
        return
    own_ms = race.runs_ms[place["onnxprune"]]
    ours["time_share"] = {
        tool: dict(zip(("median", "low", "high"), paired.paired_ratio(own_ms, race.runs_ms[index]), strict=True))
        for tool, index in place.items()
        if tool not in ("fp32", "onnxprune")
    }


def _checks(rows: list[Row]) -> list[Row]:
    """Hold the promises against the rows fp32, peer and ours."""
    _, peer, ours = rows
    if ours["error"]:
        return [_check("onnxprune gives a file", ours["error"], False)]
    losses = {score["task"]: score["loss"] for score in ours["scores"] if score["task"] in _PROMISED_TASKS}
    checks = [
        _check(f"file ≤ {_SHARE_OF_FILE} of fp32's", ours["share"], ours["share"] <= _SHARE_OF_FILE),
        _check(f"speed-up ≥ {_SPEEDUP}", ours["speedup"], ours["speedup"] >= _SPEEDUP),
        *(_check(f"{task}: loss ≤ {_LOSS}", loss, loss <= _LOSS) for task, loss in losses.items()),
        _check(f"optimize < {_SECONDS} s", ours["tool_seconds"], ours["tool_seconds"] < _SECONDS),
        _check(f"optimize peaks < {_PEAK_MB} MB", ours["tool_peak_mb"], ours["tool_peak_mb"] < _PEAK_MB),
    ]
    if peer["error"]:
        return checks
    upper = ours["time_share"][peer["tool"]]["high"]
    return [
        *checks,
        _check(f"time / {peer['tool']}'s, upper bound ≤ {_TIME_OF_PEER}", upper, upper <= _TIME_OF_PEER),
        _check(f"bytes ≤ {peer['tool']}'s {peer['bytes']}", ours["bytes"], ours["bytes"] <= peer["bytes"]),
    ]


def _check(what: str, came: Any, holds: bool) -> Row:
    return {"what": what, "came": came, "holds": bool(holds)}


def measured(names: list[str], rounds: int) -> Row:
    """Return the results of the models named; one that cannot be measured is there with its error."""
    results: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            job = encoder if name.startswith(_PROMISED) else passenger
            try:
                results.append(job(name, Path(folder), rounds))
            except Exception as error:  # noqa: BLE001 - one model must not stop the others; its error is its row
                failed = _check("measured", f"{type(error).__name__}: {error}", False)
                results.append({"model": name, "rows": [], "checks": [failed]})
    return {"machine": script.machine(), "rounds": rounds, "threads": 1, "models": results}


def main(arguments: list[str]) -> int:
    """Measure, write both files, and return 1 if a check does not hold."""
    asked = script.read(script.options(__doc__, rounds=100, models=True), arguments)
    result = measured([name for name in models.MODELS if name.startswith(tuple(asked.only))], asked.rounds)
    # Models that were not asked for stand as they were measured.
    held = {row["model"]: row for row in (*script.held(asked.folder, "main_job").get("models", ()), *result["models"])}
    result["models"] = [held[name] for name in models.MODELS if name in held]
    script.write(asked.folder, "main_job", result, tables.main_job)
    return script.missed_of(result["models"])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
