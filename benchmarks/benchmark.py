"""onnxprune beside what a user would pick instead, on all models, in one run.

    python -m benchmarks.benchmark [--only PREFIX ...] [--stage make|judge|race|page] [--contender TEXT] [--again]

Writes `results.json` after each model, and `README.md` with its pictures from it. Files that were made are kept in the
benchmarks' cache, so that a run that was ended goes on where it was; `--again` makes them anew. A contender that fails
is a row with its error.
"""

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import contest, environments, judging, models, results_page, results_picture
from benchmarks.peak import Peak, gemm_peaks
from benchmarks.peers import PEERS
from benchmarks.script import machine

Row = dict[str, Any]

STAGES = ("make", "judge", "race", "page")


def judge(names: list[str]) -> dict[str, list[Row]]:
    """Return the rows of the models named without their speed, several files at a time."""
    jobs = [(model, contender) for model in names for contender in contest.field(model)]
    with ThreadPoolExecutor(contest.workers()) as pool:
        rows = list(pool.map(lambda job: _row(*job), jobs))
    return {model: [row for (owner, _), row in zip(jobs, rows, strict=True) if owner == model] for model in names}


def _row(model: str, contender: contest.Contender) -> Row:
    made = contest.original(model) if contender.name == "fp32" else contest.held(model, contender)
    if made is None:
        made = {"error": "not made yet", "cost": None, "of": ""}
    row: Row = {"contender": contender.name, "own": contender.is_own, "error": made["error"]}
    row |= {"cost": made["cost"], "cost_is": made["of"]}
    return row if made["error"] else row | judging.judged(model, Path(made["file"])) | {"path": made["file"]}


def race(model: str, rows: list[Row], peaks: dict[str, Peak]) -> None:
    """Add to each row that runs how fast it is, and how far from what the machine can multiply."""
    # Where a file lies is nothing to publish.
    paths = {row["contender"]: row.pop("path", None) for row in rows}
    files = {row["contender"]: Path(paths[row["contender"]]) for row in rows if not row["error"]}
    raced = judging.raced(model, files, peaks)
    for row in rows:
        row.update(raced.get(row["contender"], {}))


def described(model: str, rows: list[Row]) -> Row:
    """Return a model's part of the results."""
    feeds = judging.feeds(model)
    return {
        "model": model,
        "bytes": models.get(model).stat().st_size,
        "input": {name: list(array.shape) for name, array in feeds[1].items()},
        "rows": rows,
    }


def contenders() -> list[Row]:
    """Return what each contender is, with its version and where its settings come from."""
    peers = [
        {
            "contender": name, "tool": peer.package, "version": environments.versions(peer.environment)[peer.package],
            "settings": peer.settings, "source": peer.source,
        }
        for name, peer in PEERS.items()
    ]  # fmt: skip
    notes: dict[str, list[str]] = {}
    for model in contest.PROMISED:
        for one in contest.own(model):
            if one.note not in notes.setdefault(one.name, []):
                notes[one.name].append(one.note)
    version = machine()["versions"]["onnxprune"]
    return [
        *({"contender": name, "tool": "onnxprune", "version": version, "settings": "; or ".join(told), "source": ""}
          for name, told in notes.items()),
        *peers,
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Make, judge, race and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="models whose names start so")
    parser.add_argument("--stage", nargs="+", default=STAGES, choices=STAGES, help="all by default")
    parser.add_argument("--contender", default="", help="make those alone in whose name this stands")
    parser.add_argument("--again", action="store_true", help="make files that are there already, too")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the results go")
    asked = parser.parse_args(arguments)
    # One thread: tools are measured at one, and results repeat.
    os.environ["OMP_NUM_THREADS"] = "1"
    names = [name for name in contest.MODELS if name.startswith(tuple(asked.only))]
    if not names:
        parser.error(f"no model starts with {' or '.join(asked.only)}. Known: {', '.join(contest.MODELS)}.")
    if "make" in asked.stage:
        contest.make_all(names, contest.workers(), asked.contender, asked.again)
    target = asked.folder / "results.json"
    result: Row = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"models": []}
    judged = judge(names) if {"judge", "race"} & set(asked.stage) else {}
    peaks = gemm_peaks() if "race" in asked.stage else {}
    for name in names if "race" in asked.stage else ():
        print(f"{name} …", file=sys.stderr, flush=True)
        race(name, judged[name], peaks)
        held = {model["model"]: model for model in result["models"]} | {name: described(name, judged[name])}
        result["models"] = [held[each] for each in contest.MODELS if each in held]
        result |= {
            "schema": 1,
            "machine": machine() | {"memory_gb": _memory_gb(), "system": platform.platform()},
            "contenders": contenders(),
            "peaks": {operator: asdict(peak) for operator, peak in peaks.items()},
        }
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "page" in asked.stage and target.exists():
        results_picture.draw_all(result, asked.folder)
        (asked.folder / "README.md").write_text(results_page.markdown(result), encoding="utf-8")
    return 0


def _memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
