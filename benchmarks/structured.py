"""Structured removal on real models: what cutting keeps, by score and refit, and how fast the result is.

    python -m benchmarks.structured [--only encoder|gpt] [--rounds 100] [--folder benchmarks]

Writes `structured.json`, and `structured.md` from it. MiniLM: heads and neurons cut with calibration on 256 glosses
that no task uses; the correlation of pairwise similarities with the original is on held-out definitions. The GPT
fixture: perplexity of held-out text for half of all heads and neurons, the same counts for every score.
"""

import itertools
import json
import runpy
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks import contenders, models, paired, script, tables, tasks
from benchmarks.sessions import open_session

_ENCODER = "minilm-torchscript-eager"
_GPT = Path(__file__).parents[1] / "fixtures" / "gloss-gpt"
_HELD_OUT_SENTENCES = 64

Row = dict[str, Any]

# What is cut, each followed by int8 or not.
_CUTS: dict[str, tuple[str, ...]] = {
    "int8": ("sparse-int8",),
    "9 heads, 1152 neurons, magnitude": (
        "remove-heads:keep=9,score=magnitude,refit=no",
        "remove-neurons:keep=1152,score=magnitude,refit=no",
    ),
    "9 heads, 1152 neurons, obs": ("remove-heads:keep=9", "remove-neurons:keep=1152"),
    "8 heads, 1024 neurons, obs": ("remove-heads:keep=8", "remove-neurons:keep=1024"),
    "8 heads, 1024 neurons, obs, int8": ("remove-heads:keep=8", "remove-neurons:keep=1024", "sparse-int8"),
}
_SCORES = ("obs", "wanda", "minitron", "output-norm", "magnitude", "random")


def embeddings(path: Path) -> np.ndarray[Any, Any]:
    """Mean-pooled, normalised vectors of held-out calibration sentences: every fourth, which never calibrates."""
    session = open_session(path)
    data = tasks.calibration_file(_ENCODER)
    if data is None:
        raise FileNotFoundError(_ENCODER)
    arrays = np.load(data)
    names = [port.name for port in session.get_inputs()]
    vectors = []
    for at in range(3, len(arrays[names[0]]), 4)[:_HELD_OUT_SENTENCES]:
        feeds = {name: arrays[name][at : at + 1] for name in names}
        mask = arrays["attention_mask"][at].astype(np.float64)
        hidden = session.run(None, feeds)[0][0].astype(np.float64)
        vector = (hidden * mask[:, None]).sum(axis=0) / mask.sum()
        vectors.append(vector / np.linalg.norm(vector))
    return np.array(vectors)


def similarity_correlation(reference: np.ndarray[Any, Any], own: np.ndarray[Any, Any]) -> float:
    """Spearman's correlation of all pairwise cosines."""
    pairs = np.triu_indices(len(reference), 1)
    return float(spearmanr((reference @ reference.T)[pairs], (own @ own.T)[pairs]).statistic)


def encoder(folder: Path, rounds: int) -> list[Row]:
    """Cut MiniLM in several ways; all files alternate in one process."""
    path, data = models.get(_ENCODER), tasks.calibration_file(_ENCODER)
    attempts = [contenders.original(path)]
    for passes in _CUTS.values():
        options = list(itertools.chain.from_iterable(("--pass", spec) for spec in passes))
        target = folder / f"{len(attempts)}.onnx"
        attempts.append(contenders.onnxprune(path, target, "--data", str(data), "--shape", "input_ids=1x128", *options))
    race = paired.race([attempt.file for attempt in attempts], [tasks.feed(_ENCODER)], rounds=rounds)
    score = tasks.of(_ENCODER).scores
    reference, original = (score(path) if score else ()), embeddings(path)
    rows = []
    for name, attempt, timing in zip(("fp32", *_CUTS), attempts, race.timings(), strict=True):
        own = score(attempt.file) if score else ()
        rows.append(
            {
                "cut": name,
                "error": attempt.error,
                "share": attempt.file.stat().st_size / path.stat().st_size,
                "seconds": attempt.cost.seconds if attempt.cost else None,
                "peak_mb": attempt.cost.peak_mb if attempt.cost else None,
                "similarity": similarity_correlation(original, embeddings(attempt.file)),
                "explained": attempt.report.get("fidelity", {}).get("score"),
                "scores": tasks.report(own, reference),
                **asdict(timing),
                # The name alone: where it lay says nothing to others.
                "file": attempt.file.name,
            }
        )
    return rows


def gpt(folder: Path) -> list[Row]:
    """Half of the fixture's heads and neurons by every score, refitted and not; perplexity of 256 held-out blocks."""
    perplexity = runpy.run_path(str(_GPT.parent / "score.py"))["score"]
    path = _GPT / "model.onnx"
    rows: list[Row] = [{"score": "uncut", "refit": "", "perplexity": perplexity("gloss-gpt", path)}]
    for score, refit in itertools.product(_SCORES, ("yes", "no")):
        seeds = range(3) if score == "random" else range(1)
        found = []
        for seed in seeds:
            target = folder / f"{score}.{refit}.{seed}.onnx"
            options = f"keep=0.5,score={score},refit={refit}"
            ours = contenders.onnxprune(
                path, target, "--data", str(_GPT / "calibration.npz"), "--seed", str(seed),
                "--pass", f"remove-heads:{options}", "--pass", f"remove-neurons:{options}",
            )  # fmt: skip
            found.append(float("nan") if ours.error else perplexity("gloss-gpt", target))
        rows.append({"score": score, "refit": refit, "perplexity": float(np.mean(found)), "runs": found})
    return rows


def markdown(result: Row) -> str:
    """Return the page written from the results."""
    lines = [
        "# Structured removal, measured",
        "",
        "Written by `python -m benchmarks.structured`; not edited by hand.",
        f"Machine: {json.dumps(result['machine'])}",
    ]
    if "encoder" in result:
        head = ["cut", "file", "speed-up (95 %)", "similarity", "explained"]
        rows = result["encoder"]
        names = [score["task"] for score in rows[0]["scores"]]
        body = [
            [
                row["cut"],
                f"{row['share']:.3f}",
                f"{row['speedup']:.2f} ({row['low']:.2f} … {row['high']:.2f})",
                f"{row['similarity']:.3f}",
                "" if row["explained"] is None else f"{row['explained']:.3f}",
                *(f"{score['value']:.4f}" for score in row["scores"]),
                "" if row["seconds"] is None else f"{row['seconds']:.0f} s, {row['peak_mb']:.0f} MB",
            ]
            for row in rows
        ]
        lines += [
            "",
            f"## {_ENCODER}: {result['rounds']} alternated rounds at 1 x 128, cpu:1",
            "",
            f"Similarity: Spearman correlation of all pairwise cosines with fp32's, {_HELD_OUT_SENTENCES} definitions.",
            "",
            tables.table([*head, *names, "tool"], body),
        ]
    if "gpt" in result:
        body = [[row["score"], row["refit"], f"{row['perplexity']:.2f}"] for row in result["gpt"]]
        lines += [
            "",
            "## GPT fixture: half of all heads and neurons, perplexity of 256 held-out blocks of 64 tokens",
            "",
            "Random: mean of three seeds. Calibration: 192 blocks of training text.",
            "",
            tables.table(["score", "refit", "perplexity"], body),
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Measure and write both files."""
    parser = script.options(__doc__, rounds=100)
    parser.add_argument("--only", choices=("encoder", "gpt"))
    asked = script.read(parser, arguments)
    result = script.held(asked.folder, "structured") if asked.only else {}
    result |= {"machine": script.machine(), "rounds": asked.rounds}
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "gpt":
            result["encoder"] = encoder(Path(folder), asked.rounds)
        if asked.only != "encoder":
            result["gpt"] = gpt(Path(folder))
    script.write(asked.folder, "structured", result, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
