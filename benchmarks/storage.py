"""Packed weights beside dense ones: bytes, load, memory, run time, outputs, and whether runtimes decode them at load.

    python -m benchmarks.storage [--only NAME ...] [--rounds 200] [--web FOLDER] [--older FOLDER] [--files FOLDER]

FOLDER is where onnxruntime-web (by npm) or an older onnxruntime (by pip, in an environment of its own) is installed, on
first use; of --files, where models are kept between runs. Writes `storage.json`, and `storage.md` from it.
"""

import json
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

import onnxprune
from benchmarks import contenders, models, paired, script, storage_page, tasks
from benchmarks.sessions import open_session
from fixtures.score import FIXTURES
from onnxprune.targets.residence import measure_residence

Row = dict[str, Any]
Feed = dict[str, NDArray[Any]]

WEB = "1.30.0"
OLDER = "1.21.0"
LOADS = 11
MINILM = "minilm-torchscript-eager"
# What is packed. Bytes do not depend on how zeros were chosen, so the quickest way is taken.
CHOSEN = "solver=round,score=magnitude"
FORMS = (
    ("int8, 75 % zeros", (f"sparse-int8:sparsity=0.75,{CHOSEN}", "pack-weights")),
    ("int8, 50 % zeros", (f"sparse-int8:sparsity=0.5,{CHOSEN}", "pack-weights")),
    ("4 bits", ("sparse-int8:bits=4,solver=round", "pack-weights")),
    ("4 bits, 50 % zeros", (f"sparse-int8:bits=4,sparsity=0.5,{CHOSEN}", "pack-weights")),
    ("codebook of 16", ("cluster:solver=round", "pack-weights")),
)


@dataclass(frozen=True)
class Subject:
    """A model to pack, with samples."""

    name: str
    path: Path
    data: Path
    feed: Feed


def subjects() -> list[Subject]:
    """Return the models, smallest first."""
    found = []
    for name in ("gloss-gpt", "gloss-classifier"):
        folder = FIXTURES / name
        with np.load(folder / "calibration.npz") as held:
            arrays = dict(held)
        names = [entry.name for entry in open_session(folder / "model.onnx").get_inputs()]
        feed = {entry: arrays[entry][:1] for entry in names}
        found.append(Subject(name, folder / "model.onnx", folder / "calibration.npz", feed))
    data = tasks.calibration_file(MINILM)
    if data is not None:
        found.append(Subject(MINILM, models.get(MINILM), data, tasks.feed(MINILM)))
    return found


def measured(subject: Subject, form: str, specs: Sequence[str], folder: Path, rounds: int, asked: Any) -> Row:
    """Return one form of one model, packed beside dense."""
    packed, dense = folder / "packed.onnx", folder / "dense.onnx"
    noted = folder / "weights.json"
    if not noted.exists():
        result = onnxprune.optimize(subject.path, output=packed, data=str(subject.data), passes=specs)
        onnxprune.unpack(packed, dense)
        noted.write_text(json.dumps(_weights(result, packed)), encoding="utf-8")
    weights = json.loads(noted.read_text(encoding="utf-8"))
    race = paired.race([dense, packed], [subject.feed], rounds=rounds)
    ratio = paired.paired_ratio(race.runs_ms[1], race.runs_ms[0])
    row: Row = {
        "model": subject.name,
        "form": form,
        "specs": list(specs),
        "size_bytes": _both(dense, packed, lambda path: path.stat().st_size),
        "gzip_bytes": _both(dense, packed, contenders.gzip_bytes),
        "weights": weights,
        "runs": rounds,
        "time_share": dict(zip(("median", "low", "high"), ratio, strict=True)),
        "median_ms": [float(np.median(runs)) for runs in race.runs_ms],
        "load": _loads(dense, packed),
        "memory": _memory(dense, packed, subject.feed),
        "same_outputs": _same(dense, packed, subject),
        "folded": _folded(_optimized(dense, folder), _optimized(packed, folder), weights["names"]),
    }
    if asked.web is not None:
        row["web"] = _web(asked.web, dense, packed, subject.feed, folder, max(rounds // 5, 10))
    if asked.older is not None:
        row["older"] = _older(asked.older, dense, packed, subject.feed, folder, rounds, weights["names"])
    return row


def _both(dense: Path, packed: Path, of: Any) -> Row:
    one, other = of(dense), of(packed)
    return {"dense": one, "packed": other, "share": other / one}


def _weights(result: Any, packed: Path) -> Row:
    """What became of the weights that are packed, tables included."""
    report = next(report for report in reversed(result.reports) if report.changes)
    before = sum(change.bytes_before for change in report.changes)
    after = sum(change.bytes_after for change in report.changes)
    held = onnxprune.inspect(packed).weights
    own = [one for one in held if one.form != "dense"]
    zeros, total = sum(one.numbers - one.nonzero for one in own), sum(one.numbers for one in own)
    return {
        "packed": len(own),
        "before": before,
        "after": after,
        "share": after / before if before else 1.0,
        "zeros": zeros / max(total, 1),
        "bits": 8 * sum(one.stored_bytes for one in own) / max(total, 1),
        "left_dense": sum(one.stored_bytes for one in held if one.form == "dense"),
        "names": [one.name for one in own if "looked up" not in one.form],
    }


def _loads(dense: Path, packed: Path) -> Row:
    """Sessions in alternation: medians, and the ratio round by round."""
    taken = np.empty((2, LOADS))
    for turn in range(-1, LOADS):
        for place in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            session = open_session((dense, packed)[place])
            if turn >= 0:
                taken[place, turn] = (time.perf_counter() - start) * 1000
            del session
    median, low, high = paired.paired_ratio(taken[1], taken[0])
    return {
        "dense_ms": float(np.median(taken[0])), "packed_ms": float(np.median(taken[1])),
        "share": median, "low": low, "high": high, "runs": LOADS,
    }  # fmt: skip


def _memory(dense: Path, packed: Path, feed: Feed) -> Row:
    one, other = measure_residence(dense, feed), measure_residence(packed, feed)
    return {"dense": None if one is None else asdict(one), "packed": None if other is None else asdict(other)}


def _same(dense: Path, packed: Path, subject: Subject) -> Row:
    """Outputs on up to 64 samples, by their bytes."""
    one, other = open_session(dense), open_session(packed)
    with np.load(subject.data) as held:
        arrays = dict(held)
    feeds = [subject.feed]
    names = list(subject.feed)
    if all(name in arrays and arrays[name].ndim == subject.feed[name].ndim for name in names):
        feeds += [{name: arrays[name][at : at + 1] for name in names} for at in range(min(64, len(arrays[names[0]])))]
    same = sum(
        all(a.tobytes() == b.tobytes() for a, b in zip(one.run(None, feed), other.run(None, feed), strict=True))
        for feed in feeds
    )
    return {"samples": len(feeds), "same": same}


def _optimized(path: Path, folder: Path) -> onnx.GraphProto:
    """The graph as a session runs it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx").graph


def _folded(dense: onnx.GraphProto, packed: onnx.GraphProto, weights: Sequence[str]) -> Row:
    """What a session of the packed model still computes of its weights, and whether it runs the dense one's operators.

    Rows that are decoded when they are looked up are there to stay: they cost some operators.
    """
    one, other = (Counter(node.op_type for node in graph.node) for graph in (dense, packed))
    computed = {name for node in packed.node for name in node.output}.intersection(weights)
    return {
        "weights": len(weights), "computed": len(computed), "cumsums": (other - one)["CumSum"],
        "same_operators": one == other, "whole": not computed and not (other - one)["CumSum"],
    }  # fmt: skip


def _web(folder: Path, dense: Path, packed: Path, feed: Feed, scratch: Path, rounds: int) -> Row:
    """The same in onnxruntime-web: run time with and without folding, and outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "onnxruntime-web").exists():
        command = ["npm", "install", "--ignore-scripts", "--prefix", str(folder), f"onnxruntime-web@{WEB}"]
        subprocess.run(command, check=True, capture_output=True)
    (folder / "package.json").touch()
    listed = []
    for name, value in feed.items():
        (scratch / f"{name}.raw").write_bytes(np.ascontiguousarray(value).tobytes())
        listed.append({"name": name, "type": str(value.dtype), "dims": list(value.shape),
                       "file": str(scratch / f"{name}.raw")})  # fmt: skip
    (scratch / "feeds.json").write_text(json.dumps(listed), encoding="utf-8")
    script = Path(__file__).with_name("storage_web.mjs")
    answer = {}
    for level, count in (("all", rounds), ("disabled", 3)):
        command = ["node", str(script), str(folder), str(scratch / "feeds.json"), str(count), level, dense, packed]
        done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
        answer[level] = json.loads(done.stdout.splitlines()[-1])
    return {"version": WEB, **_answers(answer["all"]), "unfolded_share": _answers(answer["disabled"])["time_share"]}


def _older(
    folder: Path, dense: Path, packed: Path, feed: Feed, scratch: Path, rounds: int, weights: Sequence[str]
) -> Row:
    """The same in an older onnxruntime, in an environment of its own."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", f"onnxruntime=={OLDER}", "numpy"]
        subprocess.run(command, check=True, capture_output=True)
    np.savez(scratch / "feeds.npz", **feed)
    script = Path(__file__).with_name("storage_older.py")
    command = [str(python), str(script), str(scratch / "feeds.npz"), str(rounds), str(dense), str(packed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"version": OLDER, "error": (done.stderr.strip().splitlines() or ["nothing said"])[-1]}
    answer = json.loads(done.stdout.splitlines()[-1])
    graphs = [onnx.load(f"{path}.optimized").graph for path in (dense, packed)]
    return {"version": answer["version"], **_answers(answer), "folded": _folded(*graphs, weights)}


def _answers(answer: Row) -> Row:
    dense, packed = answer["results"]
    ratio = paired.paired_ratio(np.array(packed["runs_ms"]), np.array(dense["runs_ms"]))
    return {
        "time_share": dict(zip(("median", "low", "high"), ratio, strict=True)),
        "load_share": packed["load_ms"] / dense["load_ms"],
        "same_outputs": packed["digest"] == dense["digest"],
    }


def main(arguments: list[str]) -> int:
    """Measure, write both files, and return 1 if a check does not hold."""
    parser = script.options(__doc__, rounds=200, models=True)
    parser.add_argument("--web", type=Path, help="folder for onnxruntime-web; left out without it")
    parser.add_argument("--older", type=Path, help="folder for an older onnxruntime; left out without it")
    parser.add_argument("--files", type=Path, help="folder for the models, kept between runs")
    asked = script.read(parser, arguments)
    rows: list[Row] = []
    for subject in subjects():
        if not subject.name.startswith(tuple(asked.only)):
            continue
        for form, specs in FORMS:
            print(f"{subject.name}, {form} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                name = "".join(letter if letter.isalnum() else "-" for letter in f"{subject.name} {form}")
                place = Path(scratch if asked.files is None else asked.files / name)
                place.mkdir(parents=True, exist_ok=True)
                rows.append(measured(subject, form, specs, place, asked.rounds, asked))
    result = {"machine": script.machine(), "rows": rows}
    result["checks"] = storage_page.checks(rows)
    script.write(asked.folder, "storage", result, storage_page.page)
    return script.missed(("", check) for check in result["checks"])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
