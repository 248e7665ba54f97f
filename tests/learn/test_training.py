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
import torch
from click.testing import CliRunner

from onnxprune import learn, train
from onnxprune.cli import main
from onnxprune.errors import DataError, MissingDependencyError, OnnxPruneError, OptionError
from onnxprune.graph import constants, numbers
from onnxprune.learn.masking import Masks, Pattern
from onnxprune.learn.matrices import Matrix, matrices
from onnxprune.learn.method import Training
from onnxprune.learn.methods import METHODS
from onnxprune.learn.schedules import Cubic, ramp
from onnxprune.model import load
from onnxprune.solvers.wanda import Blocks
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


def test_zeros_keep_to_a_pattern(place: Path) -> None:
    trained(place, "sparsity=2:4")
    up = stored(place / "out.onnx")["up0"]
    # Two of each four consecutive inputs of an output: [64, 96] is read as x @ weight.
    assert np.array_equal(np.count_nonzero(up.reshape(16, 4, 96), axis=1), np.full((16, 96), 2))


def test_tiles_are_zero_or_not_as_a_whole(place: Path) -> None:
    trained(place, "sparsity=0.5", "block=4x8")
    kept = stored(place / "out.onnx")["up0"].reshape(16, 4, 12, 8) != 0
    shares = kept.mean(axis=(1, 3))
    assert set(np.unique(shares)) == {0, 1}
    assert shares.mean() == 0.5


def test_int8_and_zeros_are_learned_together(place: Path) -> None:
    trained(place, "sparsity=0.5", "int8=yes")
    up = stored(place / "out.onnx")["up0"].astype(np.float64)
    assert np.mean(up == 0) >= 0.5
    steps = np.abs(up).max(axis=0) / 127
    whole = up / steps
    # One step an output, and every number a whole multiple of it, to float32's rounding.
    assert np.abs(whole - np.round(whole)).max() < 1e-3
    assert len(np.unique(np.round(whole))) > 64


def test_momentum_does_not_move_what_is_masked() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    masks = Masks({"w": weight}, {})
    masks.set("w", np.array([[True, False], [True, True]]))
    weight.grad = torch.ones(2, 2)
    masks.drop_gradients()
    optimizer.step()
    assert float(weight.detach()[0, 1]) != 0, "momentum moves it, which is what the masks are for"
    masks.hold(optimizer)
    assert float(weight.detach()[0, 1]) == 0
    assert float(optimizer.state[weight]["exp_avg"][0, 1]) == 0
    weight.grad = torch.zeros(2, 2)
    optimizer.step()
    assert float(weight.detach()[0, 1]) == 0


def test_a_mask_zeroes_as_many_as_asked_whatever_the_ties() -> None:
    matrix = Matrix("w", (4, 6), (0,), "linear", ())
    assert Pattern().mask(matrix, np.zeros((4, 6)), 0.5).sum() == 12
    # As a Gemm with transB stores it, [outputs, inputs]: two of each four inputs, along the last axis.
    turned = Matrix("w", (6, 4), (1,), "linear", ())
    scores = np.tile([4.0, 1.0, 3.0, 2.0], (6, 1))
    kept = Pattern(Blocks(2, 4)).mask(turned, scores, 0.5)
    assert np.array_equal(kept, np.tile([True, False, True, False], (6, 1)))
    # Half-way one of the two goes.
    assert Pattern(Blocks(2, 4)).mask(turned, scores, 0.3).sum() == 18


@pytest.mark.parametrize(
    ("make", "shape", "inputs"),
    [
        (graphs.matmul, (64, 64), (0,)),
        (graphs.gemm, (64, 48), (0,)),
        (lambda: graphs.gemm(transB=1), (48, 64), (1,)),
        (graphs.convolution, (32, 16, 3, 3), (1, 2, 3)),
    ],
)
def test_a_matrix_knows_which_axes_are_its_inputs(place: Path, make: Any, shape: Any, inputs: Any) -> None:
    model = load(graphs.saved(make(), place, "one.onnx"))
    (one,) = matrices(model, {"w"})
    assert (one.shape, one.inputs) == (shape, inputs)
    values = np.arange(one.size, dtype=np.float64).reshape(shape)
    assert np.array_equal(one.stored(one.table(values)), values)
    assert matrices(model, {"w"}, head=False) == (() if one.kind == "linear" else (one,))
