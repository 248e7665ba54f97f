"""What a contender's file is worth: whether it runs, its memory, how faithful it is and how it scores; and the race.

    python -m benchmarks.judging MODEL FILE        JSON, from a process of its own: a file may take it down

Task scores are set beside the original's on the same items.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import contenders, models, packages, paired, static, tasks, text, wordnet
from benchmarks.committed import arrays
from benchmarks.contenders import shortened
from benchmarks.limits import limit
from benchmarks.peak import Peak
from benchmarks.scores import Score
from benchmarks.sessions import open_session
from onnxprune.targets.residence import measure_residence

Row = dict[str, Any]
Feed = dict[str, NDArray[Any]]

BATCHES = (1, 8)
_LIMIT_S = 900
_HELD_OUT, _PICTURES = 128, 48
_LOADS = 5
# Rounds of a race: as many as fit into so many seconds, within these ends.
_SECONDS, _FEWEST, _MOST = 40.0, 15, 100


def feeds(model: str) -> dict[int, Feed]:
    """Return one input of each batch size; the larger repeats the smaller along the first axis left open."""
    one = tasks.feed(model)
    return {size: one if size == 1 else _repeated(models.get(model), one, size) for size in BATCHES}


def _repeated(path: Path, feed: Feed, size: int) -> Feed:
    made = {}
    for entry in open_session(path).get_inputs():
        array = feed[entry.name]
        open_axes = [
            at for at, length in enumerate(entry.shape) if not isinstance(length, int) and array.shape[at] == 1
        ]
        made[entry.name] = np.repeat(array, size, axis=open_axes[0]) if open_axes else array
    return made


def held_out(model: str) -> tuple[list[Feed], str]:
    """Return inputs to compare outputs on, and what they are."""
    if model.startswith("minilm"):
        texts = [noun.definition for noun in wordnet.nouns()[:_HELD_OUT]]
        ids = [np.array([one.ids], np.int64) for one in text.tokenizer().encode_batch(texts)]
        return [
            {"input_ids": one, "attention_mask": np.ones_like(one), "token_type_ids": np.zeros_like(one)} for one in ids
        ], "definitions of a task"
    if model in models.FIXTURES:
        names = [entry.name for entry in open_session(models.get(model)).get_inputs()]
        held = arrays(model, "samples")
        return [{name: held[name][at : at + 1] for name in names} for at in range(_HELD_OUT)], "held-out samples"
    if model in static.STATIC:
        return static.scored_feeds(model)[:_PICTURES], "inputs of a task"
    data = tasks.calibration_file(model)
    if data is None:
        return [paired.synthetic(models.get(model), tasks.of(model).shapes)], "one synthetic input"
    return _stored(model, data)[:_HELD_OUT], "sample inputs that calibrate, too"


def _stored(model: str, data: Path) -> list[Feed]:
    with np.load(data) as stored:
        held = dict(stored)
    single = next(iter(held.values()))
    ranks = {entry.name: len(entry.shape) for entry in open_session(models.get(model)).get_inputs()}
    found = []
    for at in range(len(single)):
        picked = {name: held.get(name, single) for name in ranks}
        found.append(
            {name: np.asarray(one[at]) if one.ndim > ranks[name] else one[at : at + 1] for name, one in picked.items()}
        )
    return found


def judged(model: str, file: Path) -> Row:
    """Return everything about a file but its speed; kept beside the model's other files under the file's digest."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    kept = packages.cache_folder("contest", model, "judged") / f"{digest}.json"
    if kept.exists():
        found: Row = json.loads(kept.read_text(encoding="utf-8"))
        return found
    command = [sys.executable, "-m", "benchmarks.judging", model, str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"judging it took more than {_LIMIT_S} s"}
    if done.returncode:
        return {"error": f"exit {done.returncode}: {shortened(done.stderr or 'nothing said')}"}
    found = json.loads(done.stdout.splitlines()[-1])
    kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _judge(model: str, file: Path) -> Row:
    path, given = models.get(model), feeds(model)
    row: Row = {"bytes": file.stat().st_size, "gzip_bytes": contenders.gzip_bytes(file)}
    row["share"] = row["bytes"] / path.stat().st_size
    try:
        open_session(file).run(None, given[1])
    except Exception as error:  # noqa: BLE001 - whatever onnxruntime raises is the finding
        return row | {"error": f"does not run: {shortened(str(error))}"}
    row["error"] = ""
    row["batches"] = {str(size): _runs(file, feed) for size, feed in given.items()}
    inhabited = measure_residence(file, given[1])
    row["memory"] = None if inhabited is None else asdict(inhabited)
    row |= _fidelity(model, path, file)
    score = tasks.of(model).scores
    if score is None:
        return row | {"scores": []}
    scores = score(file)
    reference = scores if file == path else _reference(model, scores)
    return row | {"scores": tasks.report(scores, reference)}


def _reference(model: str, scores: tuple[Score, ...]) -> tuple[Score, ...]:
    """The original's scores, of which the items are kept: what a score is made of does not change from file to file."""
    kept = packages.cache_folder("contest", model, "judged") / "original.npz"
    if not kept.exists():
        score = tasks.of(model).scores
        made: dict[str, Any] = {one.task: one.items for one in score(models.get(model))} if score else {}
        with packages.written(kept) as partial:
            np.savez(partial, **made)
    with np.load(kept) as stored:
        return tuple(replace(one, items=stored[one.task]) for one in scores)


def _runs(file: Path, feed: Feed) -> str:
    try:
        open_session(file).run(None, feed)
    except Exception as error:  # noqa: BLE001 - as above
        return shortened(str(error))
    return ""


def _fidelity(model: str, path: Path, file: Path) -> Row:
    """1 - Σ(y - ŷ)² / Σ(y - ȳ)² of the first output, ȳ a feature's mean, and the share of equal largest entries."""
    inputs, what = held_out(model)
    one, other = open_session(path), open_session(file)
    expected, got = ([_rows(session.run(None, feed)[0]) for feed in inputs] for session in (one, other))
    if any(a.shape != b.shape for a, b in zip(expected, got, strict=True)):
        return {"explained": None, "same": None, "compared_on": what}
    y, z = np.concatenate(expected), np.concatenate(got)
    spread = np.square(y - y.mean(axis=0)).sum()
    return {
        "explained": float(1 - np.square(y - z).sum() / spread) if spread > 0 else None,
        "same": float((y.argmax(axis=1) == z.argmax(axis=1)).mean()) if y.shape[1] > 1 else None,
        "compared_on": f"{len(inputs)} {what}" if len(inputs) > 1 else what,
    }


def _rows(output: Any) -> NDArray[np.float64]:
    # Features stand last, but for pages, which have one.
    array = np.asarray(output, np.float64)
    return array.reshape(-1, 1 if array.ndim == 4 else array.shape[-1])


def raced(model: str, files: Mapping[str, Path], peaks: Mapping[str, Peak]) -> dict[str, Row]:
    """Alternate all files in this process, at each batch size, and open each several times in alternation.

    Args:
        model: whose input is run.
        files: by contender; the first is the reference.
        peaks: of the machine's products.

    Returns:
        {contender: {"load_ms", "batches": {size: timing without its file}, "time_of": {contender: {"median", "low",
        "high"}}, "limit"}}; `time_of` is this one's time at batch 1 as a share of each other's, run by run; `limit` as
        `limits.limit` has it, at batch 1.
    """
    names = list(files)
    loads = _loads(list(files.values()))
    found: dict[str, Row] = {
        name: {"load_ms": load, "batches": {}, "time_of": {}} for name, load in zip(names, loads, strict=True)
    }
    for size, feed in feeds(model).items():
        able = [name for name in names if not _runs(files[name], feed)]
        if names[0] not in able:
            continue
        paths = [files[name] for name in able]
        brief = paired.race(paths, [feed], rounds=3, warmup=1)
        a_round = float(np.median(brief.runs_ms, axis=1).sum()) / 1000
        rounds = int(min(max(_SECONDS / max(a_round, 1e-4), _FEWEST), _MOST))
        race = paired.race(paths, [feed], rounds=rounds)
        for name, timing, runs in zip(able, race.timings(), race.runs_ms, strict=True):
            row = {key: value for key, value in asdict(timing).items() if key not in {"file", "load_ms"}}
            found[name]["batches"][str(size)] = row
            if size == 1:
                found[name]["limit"] = limit(files[name], feed, timing.median_ms, peaks)
                found[name]["time_of"] = {
                    other: dict(zip(("median", "low", "high"), paired.paired_ratio(runs, theirs), strict=True))
                    for other, theirs in zip(able, race.runs_ms, strict=True)
                    if other != name
                }
    return found


def _loads(files: Sequence[Path]) -> list[float]:
    taken = np.empty((len(files), _LOADS))
    for turn in range(_LOADS):
        for step in range(len(files)):
            at = (turn + step) % len(files)
            started = time.perf_counter()
            session = open_session(files[at])
            taken[at, turn] = (time.perf_counter() - started) * 1000
            del session
    return [float(one) for one in np.median(taken, axis=1)]


def main(arguments: list[str]) -> None:
    """Judge one file."""
    model, file = arguments
    print(json.dumps(_judge(model, Path(file))))


if __name__ == "__main__":
    main(sys.argv[1:])
