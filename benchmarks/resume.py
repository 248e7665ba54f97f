"""Whether a killed run continues where it was: `optimize --speedup 2`, killed with SIGKILL at random moments.

    python -m benchmarks.resume [--folder benchmarks] [--kills 10] [--seed 0] [--rows FILE]

Writes `resume.json`, and `resume.md` from it. On fixtures/gloss-gpt. One run goes to its end with an empty cache. What
the clock said in it (entries of kind `timing`) is all that each killed run starts with; it is killed after a time drawn
uniformly from that of a whole run with these timings, and started again. Each row is printed as it is known; `--rows`
makes the page from what a run that was cut short has printed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.script import machine, write
from benchmarks.tables import table
from onnxprune.plan import read_plan
from onnxprune.store import Store

_GPT = Path(__file__).parents[1] / "fixtures" / "gloss-gpt"
_ASKED = ("--speedup", "2")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, resume, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path)
    options = parser.parse_args(arguments)
    if options.rows is not None:
        result = collected(options.rows, options.seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = measured(Path(folder), options.kills, options.seed)
    write(options.folder, "resume", result, page)


def measured(folder: Path, kills: int, seed: int) -> Row:
    """A whole run, one with its timings, and killed ones."""
    cold_s = run(folder / "cold", folder / "cold.cache")
    timings(folder / "cold.cache", folder / "warm.cache")
    warm_s = run(folder / "warm", folder / "warm.cache")
    generator = np.random.default_rng(seed)
    rows = []
    for at in range(kills):
        place, cache = folder / f"run{at}", folder / f"run{at}.cache"
        timings(folder / "cold.cache", cache)
        after_s = float(generator.uniform(0, warm_s))
        killed = run(place, cache, kill_after_s=after_s)
        left = sorted(path.name for path in place.iterdir())
        held = entries(cache)
        resumed_s = run(place, cache)
        plans = [read_plan(one / "small.plan.json") for one in (folder / "warm", place)]
        rows.append(
            {
                "killed_after_s": killed,
                "entries": held,
                "files_left": left,
                "damaged": damaged(cache),
                "resumed_s": resumed_s,
                "lost_s": killed + resumed_s - warm_s,
                "same_plan": same(folder / "warm", place),
                "edits": [len(plan.edits) for plan in plans],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return {
        "machine": machine(),
        "asked": list(_ASKED),
        "seed": seed,
        "cold_s": cold_s,
        "warm_s": warm_s,
        "cold_and_warm_alike": same(folder / "cold", folder / "warm"),
        "kills": rows,
    }


def collected(path: Path, seed: int) -> Row:
    """What a run that was cut short has printed; a row says how long a whole run takes with the timings."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    warm_s = rows[0]["killed_after_s"] + rows[0]["resumed_s"] - rows[0]["lost_s"]
    return {"machine": machine(), "asked": list(_ASKED), "seed": seed, "warm_s": warm_s, "kills": rows}


def run(place: Path, cache: Path, kill_after_s: float | None = None) -> float:
    """Seconds of one run, to its end or to the moment at which it is killed."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "onnxprune", "optimize", str(_GPT / "model.onnx"), "--data"]
    command += [str(_GPT / "calibration.npz"), "-o", "small.onnx", *_ASKED]
    environment = {**os.environ, "ONNXPRUNE_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[1])}
    before = time.perf_counter()
    with subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
    # 1: the final clock found a little less than was asked; the plan is there all the same.
    if code not in {0, 1, -signal.SIGKILL}:
        raise RuntimeError(f"optimize ended with {code}")
    return time.perf_counter() - before


def timings(source: Path, cache: Path) -> None:
    """What the clock said, and nothing else."""
    cache.mkdir()
    for entry in Store(source).entries():
        if entry.kind == "timing":
            shutil.copy2(entry.path, cache)


def entries(cache: Path) -> dict[str, int]:
    """How many of each kind there are."""
    kinds = [entry.kind for entry in Store(cache).entries()]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def damaged(cache: Path) -> int:
    """Entries that cannot be read, or whose digest is another."""
    store = Store(cache)
    found = [store.get(entry.kind, entry.path.stem.partition("-")[2]) for entry in store.entries()]
    return sum(one is None for one in found)


def same(one: Path, other: Path) -> bool:
    """Whether two runs left the same bytes: model, plan and tensors."""
    names = ("small.onnx", "small.plan.json", "small.plan.safetensors")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def page(result: Row) -> str:
    """Return the page of `resume.json`."""
    rows, machine_ = result["kills"], result["machine"]
    alike = sum(row["same_plan"] for row in rows)
    lost = [row["lost_s"] for row in rows]
    how = (
        f"`optimize {' '.join(result['asked'])}` of fixtures/gloss-gpt, killed with SIGKILL after a random time, each "
        f"run with a cache that holds timings alone, then started again. {machine_['cpu']}, one thread; a whole run "
        f"takes {result['warm_s']:.0f} s where the clock has spoken before."
    )
    verdict = (
        f"Same model, plan and tensors, byte for byte: {alike} of {len(rows)}. Damaged entries: "
        f"{sum(row['damaged'] for row in rows)}. Time lost by a kill: median {np.median(lost):.1f} s, at most "
        f"{max(lost):.1f} s; loading and running the original again is part of it, and so is "
        "what other processes took of the machine meanwhile."
    )
    head = (
        "killed after s",
        "steps kept",
        "losses kept",
        "files left",
        "damaged",
        "resumed in s",
        "lost s",
        "same bytes",
    )
    parts = (
        "# Killed and resumed",
        "Generated by `python -m benchmarks.resume`; not edited by hand.",
        how,
        table(head, map(_cells, rows)),
        verdict,
    )
    return "\n\n".join(parts) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row['killed_after_s']:.1f}",
        str(row["entries"].get("step", 0)),
        str(row["entries"].get("search", 0)),
        ", ".join(row["files_left"]) or "none",
        str(row["damaged"]),
        f"{row['resumed_s']:.1f}",
        f"{row['lost_s']:.1f}",
        "yes" if row["same_plan"] else "no",
    )


if __name__ == "__main__":
    main()
