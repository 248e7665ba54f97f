"""Training methods: one loop, options as dataclasses, ONNX in and ONNX out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune import learn, train
from onnxprune.cli import main
from onnxprune.errors import DataError, MissingDependencyError, OnnxPruneError, OptionError
from onnxprune.graph import constants, numbers
from onnxprune.learn.method import Training
from onnxprune.learn.methods import METHODS
from onnxprune.learn.schedules import Cubic, ramp
from onnxprune.model import load
from onnxprune.training import Trained, settings_of
from tests import graphs

Array = np.ndarray[Any, Any]


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    graphs.saved(graphs.residual_blocks(), tmp_path)
    x = np.random.default_rng(0).standard_normal((96, 1, 6, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def trained(place: Path, *options: str, method: str = "gradual-magnitude", **rest: Any) -> Trained:
    given = ("steps=40", "batch=16", "lr=0.002", "check=10")
    return train(
        place / "model.onnx", method, data=str(place / "data.npz"), output=place / "out.onnx",
        options=[*given, *options], **rest,
    )  # fmt: skip


def stored(path: Path) -> dict[str, Array]:
    return {tensor.name: np.array(numbers(tensor)) for tensor in constants(load(path).graph)}


def test_the_cubic_schedule_is_fast_first_and_slow_in_the_end() -> None:
    schedule = Cubic(final=0.8, begin=10, end=110, every=10)
    assert schedule(0) == schedule(10) == 0
    # Half-way one eighth of the way is left: 0.8 · (1 - 1/8) = 0.7.
    assert schedule(60) == pytest.approx(0.7)
    assert schedule(69) == schedule(60)
    assert schedule(110) == schedule(1000) == 0.8
    assert [step for step in range(200) if schedule.changes(step)] == list(range(10, 111, 10))


def test_a_ramp_rises_to_one_and_stays() -> None:
    assert [ramp(step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert ramp(0, 0) == 1


def test_zeros_come_along_the_schedule_and_are_written(place: Path) -> None:
    result = trained(place, "sparsity=0.75")
    after = stored(place / "out.onnx")
    matrices = result.details["matrices"]
    assert matrices
    for name, one in matrices.items():
        # A quarter of each matrix stays: 64·64 numbers lose 3072.
        assert one["zeros"] == int(one["numbers"] * 0.75) == np.count_nonzero(after[name] == 0)
    # What is kept has all its zeros: masks are whole after step 28 of 40.
    assert result.best_step > 28
    assert result.to_json()["task"]["kind"] == "divergence"


def test_an_interrupted_run_ends_with_the_same_bytes(place: Path) -> None:
    trained(place)
    whole = (place / "out.onnx").read_bytes()
    command = [
        sys.executable, "-m", "onnxprune", "train", str(place / "model.onnx"), "--method", "gradual-magnitude",
        "--data", str(place / "data.npz"), "--steps", "40", "--batch", "16", "--lr", "0.002", "--option", "check=10",
        "-o", str(place / "broken.onnx"),
    ]  # fmt: skip
    environment = {**os.environ, "ONNXPRUNE_CACHE": str(place / "two")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if list((place / "two").glob("recovery-*")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.wait()
    assert not (place / "broken.onnx").exists(), "it was killed before its end"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (place / "broken.onnx").read_bytes() == whole


def test_no_option_of_a_method_hides_one_that_all_have() -> None:
    shared = {field.name for field in fields(Training)}
    for method in METHODS.values():
        assert not shared & {field.name for field in fields(method)}  # type: ignore[arg-type]
        assert method.source
        assert method.summary


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("magic", [], f"No training method named 'magic'. Known: {', '.join(sorted(METHODS))}."),
        (
            "gradual-magnitude",
            ["sparsity=1.5"],
            "gradual-magnitude: sparsity must be a share in [0, 1) or N:M with N below M, got 1.5.",
        ),
        ("gradual-magnitude", ["block=4"], "gradual-magnitude: block must be INPUTSxOUTPUTS such as 4x1, got '4'."),
        ("gradual-magnitude", ["steps=0"], "train: steps must be at least 1, got 0."),
        ("gradual-magnitude", ["steps"], "gradual-magnitude: options read name=value, got 'steps'."),
        ("gradual-magnitude", ["distill=2"], "train: distill must be in [0, 1], got 2.0."),
    ],
)
def test_a_wrong_option_is_told_in_one_line(name: str, options: list[str], line: str) -> None:
    with pytest.raises(OptionError) as told:
        settings_of(name, options)
    assert str(told.value) == line


def test_without_data_nothing_is_trained(place: Path) -> None:
    with pytest.raises(DataError) as told:
        train(place / "model.onnx", "gradual-magnitude")
    assert str(told.value) == (
        "train: it needs sample inputs. Give --data, or --allow-synthetic to train on made-up ones."
    )


def test_a_wrong_command_ends_in_one_line_and_exit_code_two(place: Path) -> None:
    told = CliRunner().invoke(main, ["train", str(place / "model.onnx"), "--method", "magic"])
    assert told.exit_code == 2
    assert told.output.splitlines() == [
        f"onnxprune: No training method named 'magic'. Known: {', '.join(sorted(METHODS))}."
    ]


def test_without_torch_the_command_says_how_to_install_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as told:
        trained(place)
    assert str(told.value) == "train needs torch, which is not installed. Run: pip install 'onnxprune[torch]'."
    assert isinstance(told.value, OnnxPruneError)
