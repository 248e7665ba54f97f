"""Whether a cluster finds what one process finds: a sweep of 12 points, alone, on two workers, and with one killed.

    python -m benchmarks.cluster [--folder benchmarks] [--fixture fashion-convnet]
    python -m benchmarks.cluster --layers [--fixture gloss-classifier]

Writes `cluster.json` after each step, and `cluster.md` from it. One sweep goes to its end in one process with an empty
cache. What the clock said in it (entries of kind `timing`) is the latency table that each of the others starts with:
again in one process; with `--scheduler local --workers 2`; and with a worker killed by SIGKILL once three trials are
done. Fronts are compared point by point, plans byte for byte. Without `--fixture` on a made-up transformer of one
layer, which takes a minute; a fixture is searched for speed-ups, too.

With `--layers`, `optimize` has the layers of one model solved: in one process, by two workers, and with one of them
killed once three layers are done. Plans and models are compared byte for byte.
"""

import argparse
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from benchmarks.script import machine
from benchmarks.tables import table
from onnxprune.pipeline import optimize
from onnxprune.store import FOLDER_VARIABLE, Store
from onnxprune.sweeping import Sweep, sweep
from tests import fronts

Row = dict[str, Any]

_FIXTURES = Path(__file__).parents[1] / "fixtures"
# With the default pipeline twelve points each.
_MADE_UP: Row = {"recipe": fronts.RECIPES}
_SOLVED = (
    ("sparse-int8:sparsity=0.5",),
    ("sparse-int8:sparsity=0.5,sequential=no",),
    ("factor-linear:ratio=0.6,faster=no",),
)
_SEARCHED: Row = {"speedup": (1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5), "size": ("0.25x", "0.2x", "0.15x")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweep four times, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks"))
    parser.add_argument("--fixture")
    parser.add_argument("--layers", action="store_true")
    options = parser.parse_args(arguments)
    path = options.folder / "cluster.json"
    result: Row = json.loads(path.read_text()) if path.exists() else {}
    if options.layers:
        result |= {"layers": layers(options.fixture), "layers_of": options.fixture}
        path.write_text(json.dumps(result, indent=1) + "\n")
        (options.folder / "cluster.md").write_text(page(result))
        return
    result |= {"machine": machine(), "fixture": options.fixture, "rows": []}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model, data = _prepared(scratch, options.fixture)
        wishes = _MADE_UP if options.fixture is None else _SEARCHED
        steps: list[tuple[str, Row, Callable[[str], None]]] = [
            ("the clock speaks", {}, lambda _: None),
            ("one process", {}, lambda _: None),
            ("two workers", {"scheduler": "local", "workers": 2}, lambda _: None),
            ("two workers, one killed", {"scheduler": "local", "workers": 2}, killing()),
        ]
        for at, (title, more, progress) in enumerate(steps):
            with cached(scratch / f"cache{at}", scratch / "cache0" if at else None):
                began = time.perf_counter()
                found = sweep(
                    model, data=data, output=scratch / f"front{at}", progress=progress, **wishes, **more,
                )  # fmt: skip
                seconds = time.perf_counter() - began
            reference = scratch / "front1" if at > 1 else None
            result["rows"].append(row(title, found, seconds, scratch / f"front{at}", reference, result["rows"]))
            (options.folder / "cluster.json").write_text(json.dumps(result, indent=1) + "\n")
            (options.folder / "cluster.md").write_text(page(result))


def _prepared(folder: Path, fixture: str | None) -> tuple[Path, str]:
    """A model and its samples."""
    if fixture is not None:
        shutil.copy(_FIXTURES / fixture / "model.onnx", folder / "model.onnx")
        return folder / "model.onnx", str(_FIXTURES / fixture / "calibration.npz")
    return fronts.prepared(folder, 32)


@contextmanager
def cached(folder: Path, source: Path | None) -> Iterator[None]:
    """A cache of its own, with what the clock has said before and nothing else."""
    folder.mkdir()
    for entry in Store(source).entries() if source is not None else ():
        if entry.kind == "timing":
            shutil.copy2(entry.path, folder)
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER_VARIABLE]
        else:
            os.environ[FOLDER_VARIABLE] = before


def layers(fixture: str | None) -> list[Row]:
    """One model's layers solved in one process, by two workers, and with one of them killed."""
    rows: list[Row] = []
    two: Row = {"scheduler": "local", "workers": 2}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model, data = _prepared(scratch, fixture)
        steps: list[tuple[str, Row]] = [("one process", {}), ("two workers", two), ("two workers, one killed", two)]
        for passes in _SOLVED:
            before: dict[str, bytes] = {}
            for at, (title, more) in enumerate(steps):
                folder = scratch / f"{len(rows)}"
                folder.mkdir()
                said: list[str] = []
                progress = _both(said.append, killing("solved on") if at == 2 else lambda _: None)
                began = time.perf_counter()
                optimize(
                    model, data=data, passes=passes, output=folder / "o.onnx", fidelity="off", fresh=True,
                    progress=progress, **more,
                )  # fmt: skip
                made: Row = {"passes": " ".join(passes), "run": title, "seconds": time.perf_counter() - began}
                made["solved"] = sum("solved on" in one for one in said)
                found = plans(folder)
                before = before or found
                made["same_bytes"] = [found == before, len(found)]
                rows.append(made)
    return rows


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def tell(stage: str) -> None:
        first(stage)
        second(stage)

    return tell


def killing(word: str = "is done") -> Callable[[str], None]:
    """Told each stage: once the third of those with the word is said, the worker that is oldest dies silently."""
    done: list[str] = []

    def tell(stage: str) -> None:
        if word in stage:
            done.append(stage)
        if len(done) == 3 and word in stage:
            # Children are the workers alone: their nannies are threads of this process.
            oldest = min(active_children(), key=lambda child: child.pid or 0)
            os.kill(oldest.pid or 0, signal.SIGKILL)

    return tell


def row(title: str, found: Sweep, seconds: float, folder: Path, reference: Path | None, before: list[Row]) -> Row:
    """A sweep, and how it compares with the one of one process."""
    points = [
        {"name": one.name, "speedup": one.speedup, "size_bytes": one.size_bytes, "fidelity": one.fidelity}
        for one in found.front
    ]
    made: Row = {
        "run": title,
        "seconds": seconds,
        "trials": len(found.front) + len(found.covered) + len(found.failed),
        "failed": [one.trial.name for one in found.failed],
        "points": points,
    }
    if reference is not None:
        made["same_front"] = points == before[1]["points"]
        made["same_bytes"] = [plans(folder) == plans(reference), len(plans(reference))]
    return made


def plans(folder: Path) -> dict[str, bytes]:
    """Every plan of a front with its tensors."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "sweep.json"}


def page(result: Row) -> str:
    """What `cluster.md` holds."""
    return "\n\n".join([*_sweeps(result), *_layers(result)]) + "\n"


def _layers(result: Row) -> list[str]:
    if "layers" not in result:
        return []
    rows = [
        [
            one["passes"], one["run"], str(one["solved"] or ""), "yes" if one["same_bytes"][0] else "no",
            f"{one['seconds']:.0f}",
        ]
        for one in result["layers"]
    ]  # fmt: skip
    head = ("passes", "solved by", "layers that workers solved", "same model and plan, byte for byte", "s")
    what = "The same model" if result["layers_of"] is None else f"fixtures/{result['layers_of']}"
    text = f"{what}, by `python -m benchmarks.cluster --layers`; workers on the same two cores, so none is faster."
    return ["## Layers of one model", text, table(head, rows)]


def _sweeps(result: Row) -> list[str]:
    rows = []
    for one in result["rows"]:
        same, (equal, files) = one.get("same_front"), one.get("same_bytes", (None, 0))
        rows.append(
            [
                one["run"],
                str(one["trials"]),
                str(len(one["points"])),
                str(len(one["failed"])),
                "" if same is None else "yes" if same else "no",
                "" if equal is None else f"{'yes' if equal else 'no'}, {files} files",
                f"{one['seconds']:.0f}",
            ]
        )
    head = ("sweep", "points tried", "on the front", "failed", "same front", "same plans, byte for byte", "s")
    names = ", ".join(one["name"] for one in result["rows"][-1]["points"])
    what = "A made-up transformer of one layer" if result["fixture"] is None else f"fixtures/{result['fixture']}"
    where = f"{what}, {result['machine']['cpu']}, {result['machine']['cores']} cores"
    return [
        "# A sweep on a cluster",
        "Generated by `python -m benchmarks.cluster`; not edited by hand.",
        f"{where} shared with other work, so seconds say little. The first makes the latency table of the others.",
        table(head, rows),
        f"On the front: {names}.",
    ]


if __name__ == "__main__":
    main()
