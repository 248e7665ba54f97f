"""What distillation wins back of a cut model, and what gradients know about units.

    python -m benchmarks.recovery [--only encoder|gpt|scores] [--rounds 80] [--made FOLDER] [--folder benchmarks]

Writes `recovery.json`, and `recovery.md` from it. MiniLM is cut, recovered on WordNet definitions that no task uses,
without labels, and made integer, by one command; one recovery takes half an hour of processor time at most. Files that
lie in FOLDER already, with their plans, are measured as they are; what is missing is made there. A run that was killed
makes the file again that it was at; with ONNXPRUNE_CACHE set, its training continues at the last checkpoint.
"""

import itertools
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, packages, paired, script, tables, tasks
from benchmarks.gpt import FIXTURE, held_out_perplexity, training_file
from benchmarks.recovery_data import training_file as definitions
from onnxprune import apply, optimize, recover
from onnxprune.passes import Recover

_ENCODER = "minilm-torchscript-eager"
_STEPS = 900
_RECOVER = f"recover:steps={_STEPS},batch=64,check=100,lr=0.0005,mixed=yes"
_CUTS = {"8 heads, 1024 neurons": ("8", "1024"), "6 heads, 768 neurons": ("6", "768")}
_THIN = ("sparse-int8:sparsity=0.5,embeddings=4",)
_AGAIN = Recover(steps=200, batch=64, check=100, lr=0.0002, mixed="yes")
_COMBINED = "8 heads, 1024 neurons, recovered, half sparse int8, 4-bit embeddings, recovered, packed"
_FULL = {"input_ids": (1, 128), "attention_mask": (1, 128), "token_type_ids": (1, 128)}
_SCORES = ("taylor", "taylor2", "taylor-mixed", "vector", "michel", "gradient-output", "lrp", "magnitude", "random")
_LONGEST = "8 heads, 1024 neurons, recovered, int8"
_KEPT = ("steps", "best_step", "cpu_seconds", "fidelity", "objective", "history")
_HALF = ("remove-heads:keep=0.5", "remove-neurons:keep=0.5")
_GPT_RECOVER = "recover:steps=1200,batch=32,check=100,lr=0.001"

Row = dict[str, Any]


def encoder_jobs() -> dict[str, tuple[str, ...]]:
    """Passes of every file, by what the tables call it."""
    jobs: dict[str, tuple[str, ...]] = {}
    for name, (heads, neurons) in _CUTS.items():
        cut = (f"remove-heads:keep={heads}", f"remove-neurons:keep={neurons}")
        jobs[f"{name}, int8"] = (*cut, "sparse-int8")
        jobs[f"{name}, recovered, int8"] = (*cut, _RECOVER, "sparse-int8")
    return jobs


def _stem(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "_")


def made(name: str, passes: tuple[str, ...], folder: Path, model: Path, data: Path, lessons: Path) -> Path:
    """Return the file of a job, made if it is not there."""
    target = folder / f"{_stem(name)}.onnx"
    if not target.exists():
        shape = [f"{key}={'x'.join(map(str, size))}" for key, size in _FULL.items()] if "minilm" in model.name else []
        optimize(
            model, output=target, data=str(data), passes=passes, shape=shape,
            recover_data=str(lessons) if any(one.startswith("recover") for one in passes) else None,
            loss="next-token" if "minilm" not in model.name else None,
        )  # fmt: skip
    return target


def combined(folder: Path, model: Path, data: Path, lessons: Path) -> tuple[Path, Row]:
    """Return the smallest file, and what its second recovery took and did.

    It goes on from the recovered cut as it was before it became integer: the long recovery is not done twice.
    """
    target, told = folder / "combined.onnx", folder / "combined.json"
    if not target.exists():
        shape = [f"{key}={'x'.join(map(str, size))}" for key, size in _FULL.items()]
        floats, thin, again = (folder / f"combined-{name}.onnx" for name in ("floats", "thin", "again"))
        apply(model, _before_integers(folder / f"{_stem(_LONGEST)}.plan.json", folder), floats)
        optimize(floats, output=thin, data=str(data), passes=_THIN, shape=shape)
        found = recover(thin, model, data=str(lessons), output=again, settings=_AGAIN).to_json()
        told.write_text(json.dumps({**found, "fidelity": found["steering"]}), encoding="utf-8")
        optimize(again, output=target, data=str(data), passes=("pack-weights",), shape=shape)
    row = json.loads(told.read_text(encoding="utf-8"))
    return target, {key: row[key] for key in _KEPT}


def _before_integers(plan: Path, folder: Path) -> Path:
    """Return a copy of a plan that ends before weights become integers."""
    document = json.loads(plan.read_text(encoding="utf-8"))
    document["edits"] = [edit for edit in document["edits"] if edit["pass"] != "sparse-int8"]  # noqa: S105
    copy = folder / "combined-floats.plan.json"
    copy.write_text(json.dumps(document), encoding="utf-8")
    shutil.copyfile(plan.with_suffix(".safetensors"), copy.with_suffix(".safetensors"))
    return copy


def recoveries(file: Path) -> list[Row]:
    """Return what each recovery in a file's plan took and did."""
    plan = json.loads(file.with_name(f"{file.stem}.plan.json").read_text(encoding="utf-8"))
    return [
        {key: edit["args"][key] for key in _KEPT}
        for edit in plan["edits"]
        if edit["pass"] == "recover"  # noqa: S105 - no password
    ]


def encoder(folder: Path, rounds: int) -> list[Row]:
    """Every file alternates in one process with the original."""
    path, data = models.get(_ENCODER), tasks.calibration_file(_ENCODER)
    score = tasks.of(_ENCODER).scores
    if data is None or score is None:
        raise FileNotFoundError(_ENCODER)
    files = {name: made(name, passes, folder, path, data, definitions()) for name, passes in encoder_jobs().items()}
    spent = {file: recoveries(file) for file in files.values()}
    files[_COMBINED], last = combined(folder, path, data, definitions())
    spent[files[_COMBINED]] = [*spent[files[_LONGEST]], last]
    race = paired.race([path, *files.values()], [tasks.feed(_ENCODER)], rounds=rounds)
    reference = score(path)
    rows = []
    for name, file, timing in zip(("fp32", *files), (path, *files.values()), race.timings(), strict=True):
        rows.append(
            {
                "cut": name,
                "share": file.stat().st_size / path.stat().st_size,
                "scores": tasks.report(score(file), reference),
                "recovery": spent.get(file, []),
                **asdict(timing),
                # The name alone: where it lay says nothing to others.
                "file": file.name,
            }
        )
    return rows


def scores() -> list[Row]:
    """A third of the units of the GPT fixture's inner four layers by every score, not refitted."""
    path = FIXTURE / "model.onnx"
    inner = "+".join
    heads, neurons = (inner(f"{kind}.{at}" for at in range(1, 5)) for kind in ("heads", "neurons"))
    rows: list[Row] = [{"score": "uncut", "perplexity": held_out_perplexity(path), "runs": []}]
    target = packages.cache_folder("recovery") / "scored.onnx"
    for name in _SCORES:
        found = []
        for seed in range(3) if name == "random" else range(1):
            passes = [
                f"remove-{kind}:keep=0.66,score={name},refit=no,sites={sites}"
                for kind, sites in (("heads", heads), ("neurons", neurons))
            ]
            data = str(FIXTURE / "calibration.npz")
            optimize(path, output=target, data=data, passes=passes, loss="next-token", seed=seed)
            found.append(held_out_perplexity(target))
        rows.append({"score": name, "perplexity": float(np.mean(found)), "runs": found})
    return rows


def gpt(folder: Path) -> list[Row]:
    """Half of the GPT fixture's heads and neurons, at once and in three rounds, recovered on training text."""
    path, data, lessons = FIXTURE / "model.onnx", FIXTURE / "calibration.npz", training_file()
    third = _GPT_RECOVER.replace("1200", "400")
    rounds = tuple(
        itertools.chain.from_iterable(
            (f"remove-heads:keep={keep}", f"remove-neurons:keep={keep}", third) for keep in ("0.8333", "0.6667", "0.5")
        )
    )
    jobs = {
        "half": _HALF,
        "half, recovered": (*_HALF, _GPT_RECOVER),
        "half in three rounds, recovered after each": rounds,
        "half, recovered, int8": (*_HALF, _GPT_RECOVER, "sparse-int8"),
    }
    rows: list[Row] = [{"cut": "uncut", "perplexity": held_out_perplexity(path), "recovery": []}]
    for name, passes in jobs.items():
        file = made(f"gpt, {name}", passes, folder, path, data, lessons)
        rows.append({"cut": name, "perplexity": held_out_perplexity(file), "recovery": recoveries(file)})
    return rows


def markdown(result: Row) -> str:
    """Return the page written from the results."""
    lines = [
        "# Recovery, measured",
        "",
        "Written by `python -m benchmarks.recovery`; not edited by hand.",
        f"Machine: {json.dumps(result['machine'])}",
    ]
    if "encoder" in result:
        lines += ["", *_encoder_page(result["encoder"], result["rounds"])]
    if "scores" in result:
        whole = result["scores"][0]["perplexity"]
        body = [
            [row["score"], f"{row['perplexity']:.2f}", f"{row['perplexity'] / whole - 1:+.1%}"]
            for row in result["scores"]
        ]
        lines += [
            "",
            "## Scores: GPT fixture, 34 % of the heads and neurons of its inner four layers, not refitted",
            "",
            "Perplexity of 256 held-out blocks of 64 tokens; gradients of the next-token loss on 64 calibration",
            "blocks. Random: mean of three seeds.",
            "",
            tables.table(["score", "perplexity", "change"], body),
        ]
    if "gpt" in result:
        whole = result["gpt"][0]["perplexity"]
        body = [
            [row["cut"], f"{row['perplexity']:.2f}", f"{row['perplexity'] / whole - 1:+.1%}", _spent(row["recovery"])]
            for row in result["gpt"]
        ]
        lines += [
            "",
            "## Recovery of the GPT fixture, half of all heads and neurons cut by `obs` and refitted",
            "",
            "Distilled on 12,000 blocks of its training text, no labels: divergence of the logits and hidden states.",
            "",
            tables.table(["cut", "perplexity", "change", "recovery"], body),
        ]
    return "\n".join(lines) + "\n"


def _encoder_page(rows: list[Row], rounds: int) -> list[str]:
    names = [score["task"] for score in rows[0]["scores"]]
    body = [
        [
            row["cut"],
            f"{row['share']:.3f}",
            f"{row['speedup']:.2f} ({row['low']:.2f} … {row['high']:.2f})",
            *(f"{score['value']:.4f}" for score in row["scores"]),
            _spent(row["recovery"]),
        ]
        for row in rows
    ]
    whole = rows[0]["scores"]
    shares = [[row["cut"], *itertools.starmap(_share, zip(row["scores"], whole, strict=True))] for row in rows[1:]]
    return [
        f"## {_ENCODER}: {rounds} alternated rounds at 1 x 128, cpu:1",
        "",
        "Trained on WordNet definitions, fragments of them and several joined, none of which a task uses.",
        "",
        tables.table(["cut", "file", "speed-up (95 %)", *names, "recovery"], body),
        "",
        "As shares of fp32's scores, with the 95 % interval of the paired difference:",
        "",
        tables.table(["cut", *names], shares),
    ]


def _share(score: Row, reference: Row) -> str:
    whole = reference["value"]
    low, high = (1 + score[f"difference_{end}"] / whole for end in ("low", "high"))
    return f"{score['value'] / whole:.3f} ({low:.3f} … {high:.3f})"


def _spent(found: list[Row]) -> str:
    return "; ".join(
        f"{each['steps']} steps, {each['cpu_seconds']:.0f} CPU s, fidelity {each['fidelity'][0]:.3f} to "
        f"{each['fidelity'][1]:.3f}"
        for each in found
    )


def main(arguments: list[str]) -> int:
    """Measure and write both files."""
    parser = script.options(__doc__, rounds=80)
    parser.add_argument("--only", choices=("encoder", "gpt", "scores"))
    parser.add_argument("--made", type=Path, default=packages.cache_folder("recovery"))
    asked = script.read(parser, arguments)
    result = script.held(asked.folder, "recovery") | {"machine": script.machine()}
    parts = {
        "scores": scores,
        "gpt": lambda: gpt(asked.made),
        "encoder": lambda: encoder(asked.made, asked.rounds),
    }
    for name, run in parts.items():
        if asked.only in {None, name}:
            result[name] = run()
            if name == "encoder":
                result["rounds"] = asked.rounds
            script.write(asked.folder, "recovery", result, markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
