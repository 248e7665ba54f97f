"""A run that was killed continues where it was, and gives the same plan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors

from onnxprune import bench, optimize, pipeline, stages
from onnxprune.calibration import Needs
from onnxprune.model import Model
from onnxprune.passes import sparse_int8
from onnxprune.plan import Change, Edit, edits_to_json, read_plan, tensors_of
from onnxprune.protocol import Context, Proposal
from onnxprune.result import Result
from onnxprune.resuming import fingerprint
from onnxprune.sites import Site
from onnxprune.store import Held, Store, open_store
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.timing import Timed
from tests import graphs

PASSES = ("remove-heads:keep=3", "remove-neurons:keep=0.5", "sparse-int8")
NOTE = (
    "taken over from an earlier run: simplify, remove-heads:keep=3, remove-neurons:keep=0.5, sparse-int8; "
    "--fresh does all anew"
)


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.setattr("onnxprune.subject.RACE_S", 0.02)


def prepared(folder: Path) -> Path:
    """A model with samples beside it."""
    path = graphs.saved(graphs.layers(1), folder)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(8)]
    np.savez(folder / "data.npz", x=np.stack([feed["x"] for feed in feeds]))
    return path


def run(path: Path, name: str = "small", **options: Any) -> Result:
    arguments: dict[str, Any] = {"passes": PASSES, "data": str(path.with_name("data.npz")), **options}
    return optimize(path, output=path.with_name(f"{name}.onnx"), **arguments)


def written(result: Result) -> dict[str, bytes]:
    """All that a run leaves, by suffix."""
    return {
        path.suffix: path.read_bytes() for path in (result.output, result.plan, result.plan.with_suffix(".safetensors"))
    }


def took_over(result: Result) -> bool:
    return any(note.startswith("taken over from an earlier run: ") for note in result.notes)


def test_what_was_done_is_taken_over_to_the_same_bytes(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    first, second = run(path, "first"), run(path, "second")
    assert not took_over(first)
    assert NOTE in second.notes
    assert written(first) == written(second)
    assert first.fidelity == second.fidelity
    assert first.reports == second.reports


def test_a_fresh_run_takes_nothing_over(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    run(path)
    assert not took_over(run(path, fresh=True))
    # What it found takes the place of what was there.
    assert took_over(run(path))


def other_data(path: Path) -> None:
    with np.load(path.with_name("data.npz")) as held:
        x = held["x"]
    x[0, 0, 0, 0] += 1
    np.savez(path.with_name("data.npz"), x=x)


@pytest.mark.parametrize("change", ["seed", "shape", "made-up data", "data", "other code"])
def test_a_run_that_differs_takes_nothing_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    path = prepared(tmp_path)
    run(path)
    options: dict[str, dict[str, Any]] = {"seed": {"seed": 1}, "shape": {"shape": ["x=1x9x64"]}}
    options["made-up data"] = {"data": None, "allow_synthetic": True}
    if change == "data":
        other_data(path)
    if change == "other code":
        monkeypatch.setattr("onnxprune.resuming.code", lambda: "changed")
    assert not took_over(run(path, **options.get(change, {})))


def test_passes_after_the_same_ones_take_those_over(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    run(path)
    result = run(path, passes=("remove-heads:keep=3", "sparse-int8"))
    assert "taken over from an earlier run: simplify, remove-heads:keep=3; --fresh does all anew" in result.notes


def test_a_floor_is_another_job(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    run(path, passes=["sparse-int8"], fidelity="off")
    assert not took_over(run(path, passes=["sparse-int8"], fidelity=0.5))


def test_several_passes_are_the_same_under_any_floor_until_edits_give_way(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    run(path, fidelity="off")
    assert NOTE in run(path, fidelity=0.01).notes


def test_labels_and_samples_are_told_apart() -> None:
    from onnxprune.data import Samples

    one = {"x": np.zeros((1, 2), np.float32)}
    bare = Samples(feeds=[one, one], source="a")
    assert fingerprint(bare) == fingerprint(replace(bare, source="b"))
    assert fingerprint(bare) != fingerprint(replace(bare, labels=np.zeros(2)))
    assert fingerprint(bare) != fingerprint(replace(bare, feeds=[one]))
    texts = Samples(feeds=[{"x": np.array(["a"], object)}], source="a")
    assert fingerprint(texts) != fingerprint(replace(texts, feeds=[{"x": np.array(["b"], object)}]))


# Damage


def entries(kind: str) -> list[Path]:
    return [entry.path for entry in open_store().entries() if entry.kind == kind]


def test_damaged_entries_are_computed_anew_with_a_note(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    first = run(path, "first")
    for entry in entries("step"):
        entry.write_bytes(entry.read_bytes()[:-7])
    second = run(path, "second")
    assert not took_over(second)
    assert any(note.startswith("cache: step: an entry was damaged (") for note in second.notes)
    assert written(first) == written(second)


def test_a_step_that_is_taken_over_after_one_taken_anew_is_judged(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    first = run(path, "first")
    for entry in entries("step"):
        with safetensors.safe_open(entry, framework="numpy") as file:
            anew = any(name.startswith("remove-heads.") for name in file.keys())  # noqa: SIM118 - no mapping
        if anew:
            entry.unlink()
    second = run(path, "second")
    taken = "simplify, remove-neurons:keep=0.5, sparse-int8"
    assert f"taken over from an earlier run: {taken}; --fresh does all anew" in second.notes
    assert second.fidelity.score == first.fidelity.score


def forge(change: Any) -> None:
    """Entries whose digests are right and whose edits are not."""
    store = open_store()
    for path in entries("step"):
        key = path.stem.partition("-")[2]
        held = store.get("step", key)
        assert held is not None
        if any(name.startswith("sparse-int8.") for name in held.tensors):
            store.put("step", key, *change(held))


def ruined(held: Held) -> tuple[Any, dict[str, Any]]:
    return held.document, {n: np.full_like(a, np.nan) if n.endswith("scale") else a for n, a in held.tensors.items()}


def renamed(held: Held) -> tuple[Any, dict[str, Any]]:
    edits = [{**edit, "args": {**edit["args"], "weight": "no such"}} for edit in held.document["edits"]]
    return {**held.document, "edits": edits}, dict(held.tensors)


def test_a_forged_entry_that_breaks_the_model_is_not_believed(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    first = run(path, "first")
    forge(ruined)
    second = run(path, "second")
    assert "cache: what an earlier run left does not pass any more, so all was done anew" in second.notes
    assert written(first) == written(second)


@pytest.mark.parametrize("change", [renamed, lambda _: ({"edits": 3}, {}), lambda held: ([], dict(held.tensors))])
def test_a_forged_entry_that_does_not_fit_is_not_believed(tmp_path: Path, change: Any) -> None:
    path = prepared(tmp_path)
    first = run(path, "first")
    forge(change)
    second = run(path, "second")
    assert any(note.startswith("cache: a saved step of sparse-int8 does not fit (") for note in second.notes)
    assert written(first) == written(second)


# What a clock said


def test_what_a_clock_said_is_kept_so_that_the_same_forms_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prepared(tmp_path)
    first = run(path, "first")
    for entry in entries("step"):
        entry.unlink()
    real = CpuTarget.time

    def reversed_time(self: CpuTarget, paths: Sequence[Path], *arguments: Any, **options: Any) -> tuple[Timed, ...]:
        timed = real(self, paths, *arguments, **options)
        ratio = timed[1].speedup
        slow = replace(ratio, ratio=1 / ratio.ratio, low=1 / ratio.high, high=1 / ratio.low)
        return (timed[0], *(replace(one, speedup=slow) for one in timed[1:]))

    monkeypatch.setattr(CpuTarget, "time", reversed_time)
    second = run(path, "second")
    assert not took_over(second)
    assert written(first) == written(second)


def test_statistics_are_collected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graphs.saved(graphs.convolution(), tmp_path)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(8)]
    np.savez(tmp_path / "data.npz", x=np.stack([feed["x"] for feed in feeds]))
    first = run(path, "first", passes=["sparse-int8:convs=static"])

    def refuse(*_: object) -> None:
        raise AssertionError("collected again")

    for entry in entries("step"):
        entry.unlink()
    monkeypatch.setattr(stages, "collected", refuse)
    assert written(first) == written(run(path, "second", passes=["sparse-int8:convs=static"]))


# Killed


KILLED = """
import os, signal, sys
from onnxprune import optimize, pipeline, store, subject
from pathlib import Path

pipeline.TIMING_S = subject.RACE_S = 0.02
count, half = int(sys.argv[1]), sys.argv[2] == "half"
chunks, calls = store.chunks, 0

def kill(arrays, metadata=None):
    global calls
    calls += 1
    whole = b"".join(chunks(arrays, metadata))
    return [whole] if calls != count else dying(whole)

def dying(whole):
    yield whole[: len(whole) // 2] if half else whole
    os.kill(os.getpid(), signal.SIGKILL)

store.chunks = kill
optimize("model.onnx", output="small.onnx", data="data.npz", passes=sys.argv[3:])
"""


@pytest.mark.parametrize(("count", "half"), [(1, True), (3, False), (4, True)])
def test_a_killed_run_continues_and_gives_the_same_plan(tmp_path: Path, cache: str, count: int, *, half: bool) -> None:
    path = prepared(tmp_path)
    command = [sys.executable, "-c", KILLED, str(count), "half" if half else "whole", *PASSES]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    died = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "small.onnx").exists()
    assert len(list(Path(cache).glob(".*.part"))) == 1
    resumed = run(path, "resumed")
    # Entries in order: simplify, heads, neurons, the race of int8, int8.
    assert took_over(resumed) is (count > 1)
    assert written(resumed) == written(run(path, "whole", fresh=True))


def test_runs_at_the_same_time_give_the_same(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda name: run(path, name, passes=PASSES[:2]), "abc"))
    assert written(results[0]) == written(results[1]) == written(results[2])


# Passes from elsewhere


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Counts how often it is asked."""

    name: ClassVar[str] = "counting"
    lossless: ClassVar[bool] = True
    asked: ClassVar[list[int]] = []

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """Nothing to do."""
        del model, sites, context
        self.asked.append(1)
        return Proposal()

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """Nothing."""
        del edits
        return model, ()


def test_a_pass_whose_own_source_changed_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared(tmp_path)
    known = {"counting": Counting, **stages_known()}
    monkeypatch.setattr(bench, "known", lambda: known)
    for _ in range(2):
        run(path, passes=["counting"])
    assert len(Counting.asked) == 1
    copy = tmp_path / "elsewhere.py"
    copy.write_text("# changed")
    monkeypatch.setattr(sys.modules[Counting.__module__], "__file__", str(copy))
    run(path, passes=["counting"])
    assert len(Counting.asked) == 2


def stages_known() -> dict[str, Any]:
    from onnxprune.passes import known

    return dict(known())


def test_what_a_step_keeps_is_the_plan(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    result = run(path, passes=["sparse-int8"])
    edits = read_plan(result.plan).edits[1:]
    store = Store(Path(os.environ["ONNXPRUNE_CACHE"]))
    held = [store.get("step", entry.stem.partition("-")[2]) for entry in entries("step")]
    (last,) = [one for one in held if one is not None and len(one.document["edits"]) > 1]
    assert last.document["edits"] == edits_to_json(edits)
    assert last.tensors.keys() == tensors_of(edits).keys()
    assert sparse_int8.SparseInt8.name in {edit.pass_name for edit in edits}
