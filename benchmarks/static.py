"""Static int8 of convnets: `onnxprune optimize` beside onnxruntime's `quantize_static` with the same sample inputs.

    python -m benchmarks.static [--only PREFIX ...] [--rounds 100] [--folder benchmarks]

Writes `static.json`, and `static.md` from it. Sample inputs are never those that are scored.
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks import contenders, images, models, ocr, paired, script, tables, tasks
from benchmarks.contenders import Attempt

Row = dict[str, Any]
Feeds = list[dict[str, NDArray[Any]]]

STATIC = ("effnet-dynamo", "effnet-torchscript", "ppocr-rec", "ppocr-det", "ppocr-cls")
_TIME_OF_PEER = 1.03
_CHANGED, _EXPLAINED, _POINT = 2, 0.95, 0.01
# Of the variance of a model's outputs, what both optimization levels have in common.
_LEVELS = 0.98
_PAGES = 8
_PEERS = ("ort-static", "ort-static-tensor")
_LEGEND = """`ort-static` is onnxruntime's `quantize_static` after its own pre-processing: QDQ, unsigned activations,
signed weights, min-max ranges of the same sample inputs, a scale a channel; `ort-static-tensor` has one scale a weight.
Explained: share of the variance of fp32's outputs on inputs that are scored and calibrate nothing. Changed: inputs
whose largest output is another. Levels: share that ORT_DISABLE_ALL and the default level have in common."""


def measured(name: str, folder: Path, rounds: int) -> Row:
    """One model: fp32, both forms of the peer and ours, timed in alternation and scored."""
    path, data = models.get(name), tasks.calibration_file(name)
    shapes = [f"{key}={'x'.join(map(str, array.shape))}" for key, array in tasks.feed(name).items()]
    options: list[str | Path] = ["--target", "cpu:1", "--data", str(data)]
    options += [part for shape in shapes for part in ("--shape", shape)]
    attempts = [
        contenders.original(path),
        *(contenders.peer(peer, path, folder / f"{name}.{peer}.onnx", name) for peer in _PEERS),
        contenders.onnxprune(path, folder / f"{name}.ours.onnx", *options),
    ]
    usable = [attempt for attempt in attempts if not attempt.error]
    race = paired.race([attempt.file for attempt in usable], [tasks.feed(name)], rounds=rounds)
    timings = dict(zip((attempt.tool for attempt in usable), race.timings(), strict=True))
    runs = dict(zip((attempt.tool for attempt in usable), race.runs_ms, strict=True))
    score, feeds = tasks.of(name).scores, scored_feeds(name)
    reference, expected = score(path) if score else (), _answers(path, feeds)
    rows = []
    for attempt in attempts:
        row: Row = {"tool": attempt.tool, "error": attempt.error}
        if not attempt.error:
            got, plain = _answers(attempt.file, feeds), _answers(attempt.file, feeds, optimized=False)
            row |= asdict(timings[attempt.tool]) | {"file": attempt.file.name, "bytes": attempt.file.stat().st_size}
            row |= {
                "explained": _explained(expected, got),
                "levels_agree": _explained(plain, got),
                "changed": sum(a.argmax() != b.argmax() for a, b in zip(expected, got, strict=True)),
                "answers": len(feeds),
                "scores": tasks.report(
                    reference if attempt is attempts[0] or not score else score(attempt.file), reference
                ),
            }
        if attempt.cost:
            row |= {"tool_seconds": attempt.cost.seconds, "tool_peak_mb": attempt.cost.peak_mb}
        rows.append(row)
    ours = rows[-1]
    if not ours["error"]:
        ours["time_share"] = {
            tool: dict(zip(("median", "low", "high"), paired.paired_ratio(runs["onnxprune"], other), strict=True))
            for tool, other in runs.items()
            if tool != "onnxprune"
        }
        ours["forms"] = _forms(attempts[-1])
    return {"model": name, "rows": rows, "checks": checks(name, rows)}


def checks(name: str, rows: list[Row]) -> list[Row]:
    """What must hold of our row."""
    ours = rows[-1]
    if ours["error"]:
        return [{"what": "gives a file", "came": ours["error"], "holds": False}]
    found: list[tuple[str, float, bool]] = [
        ("speed-up over fp32, lower bound > 1", ours["low"], ours["low"] > 1),
        (f"levels agree: explained ≥ {_LEVELS}", ours["levels_agree"], ours["levels_agree"] >= _LEVELS),
    ]
    for peer, share in ours["time_share"].items():
        if peer != "fp32":
            found.append(
                (f"time / {peer}'s, upper bound ≤ {_TIME_OF_PEER}", share["high"], share["high"] <= _TIME_OF_PEER)
            )
    if name.startswith("effnet"):
        found.append(
            (f"changed answers of {ours['answers']} ≤ {_CHANGED}", ours["changed"], ours["changed"] <= _CHANGED)
        )
        found.append((f"logits explained ≥ {_EXPLAINED}", ours["explained"], ours["explained"] >= _EXPLAINED))
    found += [
        (f"{score['task']}: loss ≤ {_POINT}", score["loss"], score["loss"] <= _POINT)
        for score in ours["scores"]
        if name.startswith("ppocr")
    ]
    return [{"what": what, "came": float(came), "holds": bool(holds)} for what, came, holds in found]


def scored_feeds(name: str) -> Feeds:
    """Inputs that no calibration has seen: the labelled pictures, lines and pages."""
    if name.startswith("effnet"):
        return [{"image": images.frame(picture)} for picture, _ in images.labelled()]
    if name == "ppocr-det":
        return [{"x": page} for page, _ in ocr._pages(0, _PAGES)]  # noqa: SLF001 - what the task reads
    lines = [strip for _, strip in ocr._strips(0, ocr.LINES)]  # noqa: SLF001
    if name == "ppocr-rec":
        return [{"x": strip} for strip in lines]
    return [
        {"x": strip[..., :192] if at % 2 else strip[..., ::-1, ::-1][..., :192].copy()}
        for at, strip in enumerate(lines)
    ]


def _answers(path: Path, feeds: Feeds, *, optimized: bool = True) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(None, feed)[0].astype(np.float64) for feed in feeds]


def _explained(expected: list[NDArray[Any]], got: list[NDArray[Any]]) -> float:
    """1 - Σ(y - ŷ)² / Σ(y - ȳ)², ȳ the mean of each feature over samples and places, padding included."""
    # Features stand last, but for pages, which have one.
    kind = (lambda a: a.reshape(-1, 1)) if expected[0].ndim == 4 else (lambda a: a.reshape(-1, a.shape[-1]))
    one, other = (np.concatenate([kind(array) for array in arrays]) for arrays in (expected, got))
    return float(1 - np.square(one - other).sum() / np.square(one - one.mean(axis=0)).sum())


def _forms(attempt: Attempt) -> dict[str, int]:
    """How many weights have which form."""
    counts: dict[str, int] = {}
    for done in attempt.report.get("passes", []):
        for change in done["changes"]:
            if done["pass"].startswith("sparse-int8") and ":" in change["what"]:
                form = change["what"].split(":")[0]
                counts[form] = counts.get(form, 0) + 1
    return counts


def markdown(result: Row) -> str:
    """Return the page written from the results."""
    body, held = [], []
    for model in result["models"]:
        for row in model["rows"]:
            if row["error"]:
                body.append([model["model"], row["tool"], row["error"], *[""] * 7])
                continue
            scores = "; ".join(f"{score['task']} {score['value']:.4f}" for score in row["scores"])
            body.append([
                model["model"], row["tool"], f"{row['bytes']:,}", f"{row['median_ms']:.2f}",
                f"{row['speedup']:.2f} ({row['low']:.2f} … {row['high']:.2f})", f"{row['explained']:.4f}",
                f"{row['changed']:.0f} of {row['answers']:.0f}", f"{row['levels_agree']:.4f}", scores,
                f"{row['tool_seconds']:.0f} s" if "tool_seconds" in row else "",
            ])  # fmt: skip
        held += [
            [model["model"], check["what"], _short(check["came"]), "yes" if check["holds"] else "**no**"]
            for check in model["checks"]
        ]
    forms = [
        [model["model"], ", ".join(f"{count} {form}" for form, count in model["rows"][-1].get("forms", {}).items())]
        for model in result["models"]
    ]
    head = ("model", "file", "bytes", "ms", "speed-up (95 %)", "explained", "changed", "levels", "scores", "tool")
    parts = [
        "# Static int8 of convnets",
        "Written by `python -m benchmarks.static`; not edited by hand.",
        _machine(result),
        _LEGEND,
        tables.table(head, body),
        "What became of our weights:",
        tables.table(("model", "forms"), forms),
        "## What must hold",
        tables.table(("model", "what", "came", "holds"), held),
    ]
    return "\n\n".join(parts) + "\n"


def _machine(result: Row) -> str:
    machine = result["machine"]
    return (
        f"{machine['cpu']}, {', '.join(machine['int8_instructions'])}; "
        f"onnxruntime {machine['versions']['onnxruntime']}; one thread, {result['rounds']} alternated rounds; "
        "speed-up is the median of paired ratios to fp32."
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: list[str]) -> int:
    """Measure, write both files, and return 1 if a check does not hold."""
    asked = script.read(script.options(__doc__, rounds=100, models=True), arguments)
    found = {model["model"]: model for model in script.held(asked.folder, "static").get("models", ())}
    with tempfile.TemporaryDirectory() as folder:
        for name in STATIC:
            if name.startswith(tuple(asked.only)):
                print(f"{name} …", file=sys.stderr, flush=True)
                found[name] = measured(name, Path(folder), asked.rounds)
                # After each model: the next one may take minutes.
                done = [found[each] for each in STATIC if each in found]
                result = {"machine": script.machine(), "rounds": asked.rounds, "models": done}
                script.write(asked.folder, "static", result, markdown)
    return script.missed_of([found[each] for each in STATIC if each in found])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
