"""The front of speed, size and fidelity: trials as plain data, points that no other covers, each a plan."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import apply, sweep, sweeping
from onnxprune.cli import main
from onnxprune.errors import DataError, MissingDependencyError, OnnxPruneError, OptionError, OutputError
from onnxprune.front import Point, split
from onnxprune.report.plotting import check_plot, draw
from onnxprune.targets.timing import Latency, Ratio, Timed
from onnxprune.trials import Job, Trial, Tried, carry_out, forget_bench, trials_of
from tests import graphs

RECIPES = ("sparse-int8:linears=stored", "remove-heads:keep=3 sparse-int8:linears=stored")


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.trials.TIMING_S", 0.02)
    monkeypatch.setattr("onnxprune.subject.RACE_S", 0.01)


def prepared(folder: Path) -> tuple[Path, str]:
    """A model and its samples."""
    path = graphs.saved(graphs.layers(1), folder)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(8)]
    np.savez(folder / "data.npz", x=np.stack([feed["x"] for feed in feeds]))
    return path, str(folder / "data.npz")


# The front


def point(name: str, speedup: float, size: int, fidelity: float) -> Point:
    timed = Timed(name=name, load_ms=1.0, latency_ms=Latency(1.0, 1.0, 1.0), speedup=Ratio(speedup, 0.9, 1.1, 11))
    return Point(
        name=name, asked={}, plan=None, timed=timed, size_bytes=size, fidelity=fidelity, low=0.0, high=1.0, samples=4
    )


def test_points_that_another_covers_are_left_out_and_say_by_which() -> None:
    fast, small, true = point("fast", 4.0, 100, 0.8), point("small", 2.0, 50, 0.9), point("true", 1.5, 200, 0.99)
    worse = point("worse", 1.9, 60, 0.85)
    front, covered = split((worse, fast, small, true))
    assert front == (true, small, fast)
    assert covered == ((worse, "small"),)


def test_of_points_alike_the_first_stays() -> None:
    front, covered = split((point("a", 2.0, 50, 0.9), point("b", 2.0, 50, 0.9)))
    assert [one.name for one in front] == ["a"]
    assert [(one.name, by) for one, by in covered] == [("b", "a")]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=8))
def test_a_front_covers_all_points_and_none_of_its_own(figures: list[tuple[int, int, int]]) -> None:
    points = [point(str(at), float(a), b, c / 4) for at, (a, b, c) in enumerate(figures)]
    front, covered = split(points)
    assert sorted([*front, *(one for one, _ in covered)], key=lambda one: one.name) == points
    assert not any(one.covers(other) for one in front for other in front)
    for one, by in covered:
        better = next(other for other in points if other.name == by)
        assert better.covers(one) or (better.speedup, better.size_bytes) == (one.speedup, one.size_bytes)
    # Somebody on the front is at least as good as each that is not.
    for one, _ in covered:
        assert any(
            other.speedup >= one.speedup and other.size_bytes <= one.size_bytes and other.fidelity >= one.fidelity
            for other in front
        )


# Trials


def test_trials_are_plain_data() -> None:
    trials = trials_of([1.5, 2.0], ["0.2x"], ["remove-heads:keep=3 sparse-int8"])
    assert [trial.name for trial in trials] == ["default", "speedup-1.5", "speedup-2", "size-0.2x", "recipe-1"]
    assert trials[4].passes == ("remove-heads:keep=3", "sparse-int8")
    assert [trial.asked() for trial in trials[:2]] == [{}, {"speedup": 1.5}]
    for value in (*trials, Job(model="m.onnx", data="d.npz", shape=("x=1x2",))):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own
        json.dumps(vars(value))


def test_without_a_wish_a_few_speedups_are_tried() -> None:
    assert [trial.speedup for trial in trials_of()] == [None, 1.5, 2.0, 2.5, 3.0, 4.0]


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"speedups": [2.0, 2.0]}, "Trial speedup-2 is named twice. Name each speed-up and size once."),
        ({"speedups": [-1.0]}, "speedup must be above 0, got -1.0."),
        ({"recipes": ["prune"]}, "No pass named 'prune'. Known: "),
        ({"sizes": ["big"]}, "--size must be a share such as 0.2x or a size such as 20MB"),
    ],
)
def test_a_wish_that_no_trial_could_have_is_refused(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        trials_of(**wishes)
    assert str(caught.value).startswith(message)


def test_a_trial_is_a_function_of_plain_data(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    job, trial = Job(model=str(path), data=data), Trial(name="a", passes=(RECIPES[0],))
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        # As another worker would: nothing is left of the first.
        forget_bench()
        found.append(carry_out(job, trial, str(tmp_path / name)))
    assert replace(found[0], plan="", model="") == replace(found[1], plan="", model="")
    assert pickle.loads(pickle.dumps(found[0])) == found[0]  # noqa: S301 - our own
    for name in ("a.onnx", "a.plan.json", "a.plan.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    trial = Trial(name="a", passes=("sparse-int8:convs=none",))
    found = carry_out(Job(model=str(path), data=data), trial, str(tmp_path))
    assert found.why.startswith("sparse-int8")
    assert not found.model


# The whole


def test_each_point_is_a_plan_that_replays(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    found = sweep(path, data=data, recipe=RECIPES, output=tmp_path / "front")
    names = {one.name for one in found.front} | {one.name for one, _ in found.covered}
    assert names == {"default", "recipe-1", "recipe-2"}
    assert not found.failed
    document = json.loads((tmp_path / "front" / "sweep.json").read_text())
    assert document == json.loads(json.dumps(found.to_json()))
    for one in document["points"]:
        apply(path, one["plan"], tmp_path / "again.onnx")
        assert (tmp_path / "again.onnx").stat().st_size == one["size_bytes"]
    kept = {name.name for name in (tmp_path / "front").iterdir()}
    plans = {f"{one.name}.plan.{suffix}" for one in found.front for suffix in ("json", "safetensors")}
    assert kept == plans | {"sweep.json"}


def test_the_json_of_a_sweep_has_the_documented_keys(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    arguments = ["sweep", str(path), "--data", data, "--recipe", RECIPES[0], "--json"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert list(document) == ["input", "data", "target", "shape", "original", "points", "covered", "failed"]
    keys = ["name", "asked", "plan", "speedup", "latency_ms", "size_bytes", "fidelity", "predicted"]
    assert all(list(one) == keys for one in document["points"])
    assert all(list(one) == [*keys, "by"] for one in document["covered"])
    assert list(document["original"]) == ["size_bytes", "latency_ms"]
    assert (tmp_path / "model.sweep" / "sweep.json").exists()


def test_the_table_starts_with_the_original_and_ends_with_how_to_make_a_model(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    arguments = ["sweep", str(path), "--data", data, "--recipe", RECIPES[0], "--plot", str(tmp_path / "front.svg")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["trial", "times", "as", "fast", "asked", "median", "ms", "file", "share", "fidelity"]
    assert lines[1].split()[0] == "original"
    assert lines[-1].startswith(f"a model of a point: onnxprune apply {path} {tmp_path}")
    assert "<svg" in (tmp_path / "front.svg").read_text()


def test_a_speedup_is_searched_for(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    found = sweep(path, data=data, speedup=[1.2])
    (one,) = [one for one in (*found.front, *(one for one, _ in found.covered)) if one.name == "speedup-1.2"]
    assert one.asked == {"speedup": 1.2}
    assert one.predicted is not None


def test_nothing_is_written_where_nothing_came_of_any_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = prepared(tmp_path)

    def fail(_: Job, trial: Trial, __: str) -> Tried:
        return Tried(trial=trial, why="it does not fit.")

    monkeypatch.setattr(sweeping, "carry_out", fail)
    with pytest.raises(DataError) as caught:
        sweep(path, data=data, recipe=RECIPES)
    assert str(caught.value) == f"{path}: nothing came of any trial; of default: it does not fit."
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data.npz", "model.onnx"]


@pytest.mark.parametrize(
    ("output", "message"),
    [("none/front", "none: no such folder. Make it or choose another place with --output."),
     ("model.onnx", "model.onnx: is a file. Name a folder with --output.")],
)  # fmt: skip
def test_a_folder_that_cannot_be_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    prepared(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as caught:
        sweep("model.onnx", data="data.npz", output=output)
    assert str(caught.value) == message


# The picture


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("front.pdf", OptionError, "--plot must name a file ending in .png or .svg, got 'front.pdf'."),
        ("no/front.svg", OutputError, "no: no such folder. Make it or choose another place with --plot."),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(name: str, error: type[OnnxPruneError], message: str) -> None:
    with pytest.raises(error) as caught:
        check_plot(Path(name))
    assert str(caught.value) == message


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.report.plotting.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as caught:
        check_plot(Path("front.svg"))
    assert str(caught.value) == "--plot needs matplotlib. Install it: pip install 'onnxprune[report]'."


def test_matplotlib_is_imported_for_a_picture_only() -> None:
    code = "import sys, onnxprune.cli.sweeping, onnxprune.report.plotting; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_same_sweep_is_the_same_picture(tmp_path: Path) -> None:
    path, data = prepared(tmp_path)
    found = sweep(path, data=data, recipe=RECIPES[:1])
    for name in ("a.svg", "b.svg"):
        draw(found, tmp_path / name)
    draw(found, tmp_path / "c.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "times as fast as the original, cpu:1" in (tmp_path / "a.svg").read_text()


def test_what_the_clock_said_of_the_same_files_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = prepared(tmp_path)
    first = sweep(path, data=data, recipe=RECIPES[:1], output=tmp_path / "first")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("timed again")

    with monkeypatch.context() as patch:
        patch.setattr("onnxprune.targets.cpu.CpuTarget.time", never)
        second = sweep(path, data=data, recipe=RECIPES[:1], output=tmp_path / "second")
    assert [replace(one, plan=None) for one in second.front] == [replace(one, plan=None) for one in first.front]
    assert second.original == first.original
    fresh = sweep(path, data=data, recipe=RECIPES[:1], output=tmp_path / "fresh", fresh=True)
    assert fresh.original != first.original
