"""Goals of speed: what the search keeps beside uniform pruning, and beside other tools, at the speed it measured.

    python -m benchmarks.goals [--only gpt|encoder] [--work FOLDER] [--rounds 100] [--folder benchmarks]

Writes `goals.json`, and `goals.md` from it. The GPT fixture: perplexity of held-out text at 1.5, 2 and 3 times the
measured speed, three seeds, each with other calibration blocks; uniform contenders have the shapes that come closest to
the searched model's speed, in int8; each is raced alone against the original. MiniLM: `--speedup 3` and `4`
beside onnxruntime's, Olive's and onnxsim's files. Files that lie in FOLDER already are not made again.
"""

import itertools
import json
import runpy
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders, models, paired, script, tasks
from benchmarks.contenders import Attempt
from benchmarks.goals_page import markdown
from benchmarks.measure import Measured
from onnxprune import spec, validate
from onnxprune.model import save
from onnxprune.passes import known
from onnxprune.resuming import trail_of
from onnxprune.stages import run_passes
from onnxprune.subject import load_subject
from onnxprune.targets.target import parse_target

_GPT = Path(__file__).parents[1] / "fixtures" / "gloss-gpt"
_TARGETS = (1.5, 2.0, 3.0)
_SEEDS = (0, 1, 2)
# Of 192 calibration blocks each seed draws this many.
_BLOCKS = 144
_HEADS, _NEURONS = 6, 384
_ENCODER = "minilm-torchscript-eager"
_ENCODER_TARGETS = (3.0, 4.0)
_PEERS = ("ort-dynamic", "olive", "onnxsim-pruned-int8")

Row = dict[str, Any]
# Heads and neurons of every layer, and whether products are between integers.
Shape = tuple[int, int, bool]


def gpt(folder: Path, rounds: int, seeds: int) -> Row:
    """The fixture by search and by uniform shares, raced together."""
    perplexity = runpy.run_path(str(_GPT.parent / "score.py"))["score"]
    path = _GPT / "model.onnx"
    data = [_blocks(folder, seed) for seed in _SEEDS]
    searched = {
        (target, seed): _made(
            folder / f"search.{target}.{seed}.onnx", path,
            "--data", str(data[seed]), "--seed", str(seed), "--loss", "next-token", "--speedup", str(target),
        )
        for seed, target in itertools.product(_SEEDS[:seeds], _TARGETS)
    }  # fmt: skip
    feeds = [{"input_ids": np.load(_GPT / "calibration.npz")["input_ids"][:1]}]
    shapes = _uniform_shapes(folder, data[0])
    files = [path, *(one.file for one in searched.values()), *shapes.values()]
    speeds = {file: timing.speedup for file, timing in _timed(files, feeds, rounds).items()}
    reached = {key: speeds[one.file] for key, one in searched.items()}
    uniform = {shape: speeds[file] for shape, file in shapes.items()}
    made: list[tuple[Row, Attempt]] = []
    for (target, seed), attempt in searched.items():
        made.append(({"target": target, "seed": seed, "contender": "search"}, attempt))
        shape = min(uniform, key=lambda each: abs(uniform[each] - reached[target, seed]))
        for score in ("obs", "magnitude"):
            file = _uniform(folder, data[seed] if score == "obs" else data[0], shape, score=score)
            row = {"target": target, "seed": seed, "contender": f"uniform {score}"}
            row |= dict(zip(("heads", "neurons", "int8"), shape, strict=True))
            made.append((row, Attempt(tool="uniform", file=file)))
    timings = _timed([path, *(attempt.file for _, attempt in made)], feeds, rounds)
    scores = {file: perplexity("gloss-gpt", file) for file in timings}
    rows = [
        row
        | {"error": attempt.error, "perplexity": scores[attempt.file], "predicted": _predicted(attempt)}
        | asdict(timings[attempt.file])
        | {"file": attempt.file.name, "seconds": attempt.cost.seconds if attempt.cost else None}
        for row, attempt in made
    ]
    return {"uncut": scores[path], "rows": rows}


def _timed(files: Sequence[Path], feeds: Sequence[paired.Feed], rounds: int) -> dict[Path, paired.Timing]:
    """Each file alone against the first, as a user times one: in a race of thirty each finds the others' caches."""
    found = {file: paired.race([files[0], file], feeds, rounds=rounds).timings() for file in dict.fromkeys(files)}
    return {file: timings[1] for file, timings in found.items()}


def _blocks(folder: Path, seed: int) -> Path:
    """Calibration blocks of one seed."""
    blocks = np.load(_GPT / "calibration.npz")["input_ids"]
    drawn = np.random.default_rng(seed).permutation(len(blocks))[:_BLOCKS]
    path = folder / f"blocks.{seed}.npz"
    np.savez(path, input_ids=blocks[drawn])
    return path


def _uniform(folder: Path, data: Path, shape: Shape, *, score: str) -> Path:
    """A file with the same counts in every layer, by the passes that a search uses, too."""
    heads, neurons, integers = shape
    target = folder / f"{score}.{heads}.{neurons}.{integers}.{data.stem}.onnx"
    if target.exists():
        return target
    options = f"score={score},refit={'yes' if score == 'obs' else 'no'}"
    specs = [
        "simplify",
        f"remove-heads:keep={heads},{options}",
        f"remove-neurons:keep={neurons},{options}",
        *(["sparse-int8"] if integers else []),
        "pack-weights",
    ]
    place = parse_target("cpu:1")
    subject = load_subject(_GPT / "model.onnx", str(data), {}, 0, "next-token", None, allow_synthetic=False)
    trail = trail_of(subject.path, subject, place, 0, fresh=False)
    passes = [spec.parse(text, known()) for text in specs]
    save(run_passes(passes, subject, place, trail, None, seed=0).model, target)
    return target


def _uniform_shapes(folder: Path, data: Path) -> dict[Shape, Path]:
    """Files of many uniform shapes, for their speed: made without a refit."""
    # In float a shape is slower and loses as good as nothing less: int8 costs below 0.001 nats here.
    shapes = [
        (heads, min(_NEURONS, 8 * round(_NEURONS * share * heads / _HEADS / 8)), True)
        for heads, share in itertools.product(range(1, _HEADS), (0.8, 1.1))
    ]
    return {shape: _uniform(folder, data, shape, score="magnitude") for shape in dict.fromkeys(shapes)}


def _predicted(attempt: Attempt) -> float | None:
    found: float | None = attempt.report.get("goal", {}).get("predicted")
    return found


def _made(target: Path, path: Path, *options: str) -> Attempt:
    """A file by `onnxprune optimize`, or the one that lies there already with its report."""
    report = target.with_suffix(".report.json")
    if target.exists() and report.exists():
        held = json.loads(report.read_text())
        cost = Measured(**held["cost"])
        return Attempt(tool="onnxprune", file=target, error=held["error"], cost=cost, report=held["report"])
    attempt = contenders.onnxprune(path, target, *options)
    if attempt.cost is not None:
        held = {"error": attempt.error, "cost": asdict(attempt.cost), "report": attempt.report}
        report.write_text(json.dumps(held))
    if attempt.error:
        raise RuntimeError(f"{target.name}: {attempt.error}")
    return attempt


def encoder(folder: Path, rounds: int) -> Row:
    """MiniLM by two goals, and by other tools."""
    path, data = models.get(_ENCODER), tasks.calibration_file(_ENCODER)
    attempts = [("fp32", contenders.original(path))]
    for target in _ENCODER_TARGETS:
        options = ["--data", str(data), "--shape", "input_ids=1x128", "--speedup", str(target)]
        attempts.append((f"onnxprune --speedup {target:g}", _made(folder / f"minilm.{target}.onnx", path, *options)))
    attempts += [(name, _peer(folder, name, path)) for name in _PEERS]
    sound = [attempt for _, attempt in attempts if not attempt.error]
    race = paired.race([attempt.file for attempt in sound], [tasks.feed(_ENCODER)], rounds=rounds)
    timings = dict(zip((attempt.file for attempt in sound), race.timings(), strict=True))
    rows = []
    for name, attempt in attempts:
        row: Row = {"tool": name, "error": attempt.error, "predicted": _predicted(attempt)}
        row["seconds"] = attempt.cost.seconds if attempt.cost else None
        if not attempt.error:
            row |= {
                "share": attempt.file.stat().st_size / path.stat().st_size,
                **_quality(folder, path, attempt.file, data),
                **asdict(timings[attempt.file]),
            }
        rows.append(row | {"file": attempt.file.name})
    return {"rows": rows}


def _peer(folder: Path, name: str, path: Path) -> Attempt:
    """Another tool's file, or the one that lies there already."""
    target, kept = folder / f"{name}.onnx", folder / f"{name}.cost.json"
    if target.exists() and kept.exists():
        return Attempt(tool=name, file=target, cost=Measured(**json.loads(kept.read_text())))
    attempt = contenders.peer(name, path, target, _ENCODER)
    if attempt.cost is not None and not attempt.error:
        kept.write_text(json.dumps(asdict(attempt.cost)))
    return attempt


def _quality(folder: Path, path: Path, file: Path, data: Path | None) -> Row:
    """Task scores beside the original's, and the fidelity on all samples; kept in the folder once they are known."""
    kept = folder / f"{file.stem}.quality.json"
    if kept.exists():
        found: Row = json.loads(kept.read_text())
        return found
    score = tasks.of(_ENCODER).scores
    scores = tasks.report(score(file), score(path)) if score else []
    found = {"scores": scores, "explained": float(validate(path, file, data=str(data)).fidelity.score)}
    kept.write_text(json.dumps(found))
    return found


def main(arguments: list[str]) -> int:
    """Measure and write both files."""
    parser = script.options(__doc__, rounds=100)
    parser.add_argument("--only", choices=("gpt", "encoder"))
    parser.add_argument("--work", type=Path, help="where files are kept; a temporary folder by default")
    parser.add_argument("--seeds", type=int, default=3, help="of the fixture's calibration blocks (default 3)")
    asked = script.read(parser, arguments)
    result = script.held(asked.folder, "goals") if asked.only else {}
    result |= {"machine": script.machine(), "rounds": asked.rounds}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.work or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if asked.only != "encoder":
            result["gpt"] = gpt(folder, asked.rounds, asked.seeds)
        if asked.only != "gpt":
            result["encoder"] = encoder(folder, asked.rounds)
    script.write(asked.folder, "goals", result, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
