"""A cut model wins back what it lost, and nothing of its structure goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import learn, spec
from onnxprune.errors import DataError, MissingDependencyError, ModelError, OptionError
from onnxprune.gradual import with_recovery
from onnxprune.graph import constants, numbers
from onnxprune.learn.schedules import share_of_rate
from onnxprune.model import load
from onnxprune.passes import Recover, known
from onnxprune.pipeline import apply, optimize
from onnxprune.recovering import Recovered, recover
from tests import graphs

Array = np.ndarray[Any, Any]
CUT = ("remove-neurons:keep=0.5,refit=no,score=random",)


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    graphs.saved(graphs.residual_blocks(), tmp_path, "teacher.onnx")
    x = np.random.default_rng(0).standard_normal((96, 1, 6, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def cut(place: Path, *passes: str, name: str = "cut.onnx") -> Path:
    result = optimize(place / "teacher.onnx", data=str(place / "data.npz"), passes=passes or CUT, output=place / name)
    return result.output


def recovered(place: Path, candidate: Path, **options: Any) -> Recovered:
    given: dict[str, Any] = {"steps": 60, "batch": 16, "lr": 2e-3, "check": 20} | options
    return recover(
        candidate, place / "teacher.onnx", data=str(place / "data.npz"), output=place / "out.onnx",
        settings=Recover(**given),
    )  # fmt: skip


def stored(path: Path) -> dict[str, Array]:
    return {tensor.name: np.array(numbers(tensor)) for tensor in constants(load(path).graph)}


def test_a_cut_model_wins_fidelity_back_and_stays_cut(place: Path) -> None:
    candidate = cut(place)
    result = recovered(place, candidate)
    assert result.after.score > result.before.score + 0.02
    before, after = stored(candidate), stored(place / "out.onnx")
    assert {name: x.shape for name, x in before.items()} == {name: x.shape for name, x in after.items()}
    assert result.to_json()["best_step"] in {20, 40, 60}
    assert "hidden states behind" in result.objective


def test_zeros_stay_zero(place: Path) -> None:
    proto = onnx.load(place / "teacher.onnx")
    for at, tensor in enumerate(proto.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor).copy()
        if values.ndim > 1:
            values[::3] = 0
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    candidate = graphs.saved(proto, place, "sparse.onnx")
    result = recovered(place, candidate)
    assert result.after.score > result.before.score
    before, after = stored(candidate), stored(place / "out.onnx")
    assert any((before[name] == 0).any() for name in before)
    assert all(not x[before[name] == 0].any() for name, x in after.items() if x.ndim > 1)


def test_int8_stays_int8_and_on_its_grid(place: Path) -> None:
    candidate = cut(place, *CUT, "sparse-int8")
    result = recovered(place, candidate)
    assert result.after.score > result.before.score + 0.02
    before, after = stored(candidate), stored(place / "out.onnx")
    whole = [name for name, x in before.items() if x.dtype == np.int8 and x.ndim > 1]
    assert whole
    assert all(after[name].dtype == np.int8 for name in whole)
    assert any(not np.array_equal(before[name], after[name]) for name in whole)
    # The grid itself, scales and zero points, is not trained.
    assert all(np.array_equal(before[name], after[name]) for name in before if name.endswith(".scale"))


def test_a_factored_model_is_recovered_as_pairs(place: Path) -> None:
    candidate = cut(place, "factor-linear:rank=8,faster=no")
    result = recovered(place, candidate)
    assert result.after.score > result.before.score
    assert {x.shape for x in stored(place / "out.onnx").values()} == {x.shape for x in stored(candidate).values()}


def test_what_came_packed_goes_packed(place: Path) -> None:
    candidate = cut(place, *CUT, "sparse-int8:sparsity=0.8", "pack-weights")
    result = recovered(place, candidate)
    assert result.after.score >= result.before.score
    operators = [{node.op for node in load(path).graph.nodes} for path in (candidate, place / "out.onnx")]
    assert "CumSum" in operators[0]
    assert "CumSum" in operators[1]


def test_low_rank_updates_change_matrices_by_their_rank_alone(place: Path) -> None:
    candidate = cut(place)
    result = recovered(place, candidate, rank=2)
    assert result.after.score > result.before.score
    before, after = stored(candidate), stored(place / "out.onnx")
    moved = {name: after[name] - x for name, x in before.items() if x.ndim > 1 and not np.array_equal(x, after[name])}
    assert moved
    for difference in moved.values():
        sizes = np.linalg.svd(difference.astype(np.float64), compute_uv=False)
        assert sizes[2] <= 1e-4 * sizes[0]


def test_an_interrupted_run_ends_with_the_same_bytes(place: Path) -> None:
    candidate = cut(place)
    recovered(place, candidate)
    whole = (place / "out.onnx").read_bytes()
    for entry in (place / "cache").glob("recovery-*"):
        entry.unlink()

    class Stop(Exception):  # noqa: N818 - an interruption, not an error
        pass

    def stop_at(step: int) -> Callable[[str], None]:
        def progress(line: str) -> None:
            if f"step {step} of" in line:
                raise Stop

        return progress

    settings = Recover(steps=60, batch=16, lr=2e-3, check=20)
    with pytest.raises(Stop):
        recover(
            candidate, place / "teacher.onnx", data=str(place / "data.npz"), output=place / "out.onnx",
            settings=settings, progress=stop_at(50),
        )  # fmt: skip
    assert list((place / "cache").glob("recovery-*"))
    recovered(place, candidate)
    assert (place / "out.onnx").read_bytes() == whole


def test_a_killed_process_continues_and_ends_with_the_same_bytes(place: Path) -> None:
    candidate = cut(place)
    command = [
        sys.executable, "-m", "onnxprune", "recover", str(candidate), "--teacher", str(place / "teacher.onnx"),
        "--data", str(place / "data.npz"), "--steps", "150", "--batch", "16", "--lr", "0.002", "--set", "check=10",
    ]  # fmt: skip

    def run(name: str, cache: str, *, kill: bool = False) -> None:
        environment = {**os.environ, "ONNXPRUNE_CACHE": str(place / cache)}
        process = subprocess.Popen(
            [*command, "-o", str(place / name)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while kill and process.poll() is None:
            if list((place / cache).glob("recovery-*")):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        process.wait()

    recovered(place, candidate, steps=150, check=10)
    (place / "out.onnx").replace(place / "whole.onnx")
    run("broken.onnx", "two", kill=True)
    assert not (place / "broken.onnx").exists(), "it was killed before its end"
    run("broken.onnx", "two")
    assert (place / "broken.onnx").read_bytes() == (place / "whole.onnx").read_bytes()


def test_a_plan_with_recovery_replays_to_the_byte(place: Path) -> None:
    result = optimize(
        place / "teacher.onnx", data=str(place / "data.npz"), passes=[*CUT, "sparse-int8"], recover=20,
        output=place / "small.onnx",
    )  # fmt: skip
    (line,) = [change.what for report in result.reports for change in report.changes if "trained" in change.what]
    assert line.endswith("of 20 steps")
    apply(place / "teacher.onnx", result.plan, place / "again.onnx")
    assert (place / "again.onnx").read_bytes() == (place / "small.onnx").read_bytes()


def test_recovery_stands_after_cuts_and_before_integers() -> None:
    passes = [spec.parse(text, known()) for text in ("simplify", "remove-heads:keep=0.5", "sparse-int8")]
    assert [one.name for one in with_recovery(passes, 10)] == ["simplify", "remove-heads", "recover", "sparse-int8"]


def test_gradual_recovery_cuts_in_equal_parts() -> None:
    texts = ("simplify", "remove-heads:keep=0.5", "remove-neurons:keep=0.6", "sparse-int8")
    passes = [spec.parse(text, known()) for text in texts]
    # 1 - 0.5 / 2 = 0.75, 1 - 0.4 / 2 = 0.8; ten steps in two rounds are five each.
    assert [spec.format(one) for one in with_recovery(passes, 10, 2)] == [
        "simplify", "remove-heads:keep=0.75", "remove-neurons:keep=0.8", "recover:steps=5",
        "remove-heads:keep=0.5", "remove-neurons:keep=0.6", "recover:steps=5", "sparse-int8",
    ]  # fmt: skip


def test_the_rate_rises_and_falls() -> None:
    # Ten steps with a fifth of warm-up: 1/2, 1, then half a cosine over eight steps.
    shares = [share_of_rate(step, 10, 0.2) for step in range(11)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[6] == pytest.approx(0.5)
    assert shares[10] == pytest.approx(0)


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (
            lambda place: recover(cut(place), place / "teacher.onnx"),
            DataError,
            "recover: it needs sample inputs. Give --data, or --allow-synthetic to train on made-up ones.",
        ),
        (
            lambda place: recover(
                graphs.saved(graphs.matmul(), place, "other.onnx"),
                graphs.saved(graphs.attention(), place, "teacher.onnx"),
                data=str(place / "data.npz"),
            ),
            ModelError,
            "not even",
        ),
        (lambda _: Recover(steps=0), OptionError, "recover: steps must be at least 1, got 0."),
        (lambda _: Recover(warmup=1), OptionError, "recover: warmup must be in [0, 1), got 1."),
        (lambda _: Recover(lr=0), OptionError, "recover: lr must be above 0, got 0."),
        (lambda _: with_recovery((), 1, 0), OptionError, "--gradual must be at least 1 round, got 0."),
        (
            lambda _: with_recovery((), None, 2),
            OptionError,
            "--gradual cuts and recovers in rounds. Give --recover STEPS, too.",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(make: Callable[[Path], Any], error: Any, line: str, place: Path) -> None:
    with pytest.raises(error) as told:
        make(place)
    if line != "not even":
        assert str(told.value) == line


def test_without_torch_the_command_says_how_to_install_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = cut(place)
    monkeypatch.setattr(learn, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as told:
        recover(candidate, place / "teacher.onnx", data=str(place / "data.npz"))
    assert str(told.value) == "recover needs torch, which is not installed. Run: pip install 'onnxprune[torch]'."
