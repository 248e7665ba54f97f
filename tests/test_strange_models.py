"""Models that are legal and rare: each job on them ends in a result, or in one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import optimize, pipeline
from onnxprune.learn.objectives import targets_of
from onnxprune.recovering import recover
from onnxprune.runtime import open_session
from tests import graphs
from tests.commands import run
from tests.graphs import info, node

SHAPE = ("batch", 32)
STEPS = ("--steps", "2", "--allow-synthetic")


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)


def one_node() -> onnx.ModelProto:
    return graphs.model([node("Relu", ["x"], ["y"])], [info("x", SHAPE)], [info("y", SHAPE)])


def no_node() -> onnx.ModelProto:
    """What comes in goes out."""
    return graphs.model([], [info("x", SHAPE)], [info("x", SHAPE)])


def no_inputs() -> onnx.ModelProto:
    return graphs.model([node("MatMul", ["w", "w"], ["y"])], [], [info("y", (32, 32))], {"w": graphs.weights(32, 32)})


def a_weight_given_out() -> onnx.ModelProto:
    return graphs.model([], [], [info("w", (32, 32))], {"w": graphs.weights(32, 32)})


def one_output_twice() -> onnx.ModelProto:
    outputs = [info("y", SHAPE), info("y", SHAPE)]
    return graphs.model([node("MatMul", ["x", "w"], ["y"])], [info("x", SHAPE)], outputs, {"w": graphs.weights(32, 32)})


def a_branch_that_is_not_taken() -> onnx.ModelProto:
    """The only weight stands where made-up inputs never come by."""
    taken = onnx.helper.make_graph([node("Neg", ["x"], ["n"])], "taken", [], [info("n", None)])
    other = onnx.helper.make_graph([node("MatMul", ["x", "w"], ["m"])], "other", [], [info("m", None)])
    nodes = [node("If", ["always"], ["y"], then_branch=taken, else_branch=other)]
    stored = {"always": np.array(True), "w": graphs.weights(32, 32)}
    return graphs.model(nodes, [info("x", SHAPE)], [info("y", SHAPE)], stored)


def no_rows() -> onnx.ModelProto:
    """An axis of size zero, so that no sample holds a number."""
    return graphs.model(
        [node("MatMul", ["x", "w"], ["y"])], [info("x", (0, 32))], [info("y", (0, 32))], {"w": graphs.weights(32, 32)}
    )


def infinite_mask() -> onnx.ModelProto:
    stored = {"mask": np.triu(np.full((32, 32), -np.inf, np.float32), 1)}
    nodes = [node("Add", ["x", "mask"], ["a"]), node("Softmax", ["a"], ["y"])]
    return graphs.model(nodes, [info("x", (32, 32))], [info("y", (32, 32))], stored)


MODELS: tuple[Callable[[], onnx.ModelProto], ...] = (
    one_node,
    no_node,
    no_inputs,
    a_weight_given_out,
    one_output_twice,
    a_branch_that_is_not_taken,
    no_rows,
    infinite_mask,
)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "{model}"],
        ["optimize", "{model}", "-o", "{out}"],
        ["optimize", "{model}", "-o", "{out}", "--allow-synthetic", "--pass", "factor-linear:ratio=0.5,faster=no"],
        ["validate", "{model}", "{model}"],
        ["recover", "{model}", "--teacher", "{model}", "-o", "{out}", *STEPS],
        ["train", "{model}", "-o", "{out}", "--method", "gradual-magnitude", *STEPS],
    ],
    ids=lambda command: command[0],
)
def test_a_command_ends_in_a_result_or_in_one_line(
    make: Callable[[], onnx.ModelProto], command: list[str], tmp_path: Path
) -> None:
    model, out = graphs.saved(make(), tmp_path), tmp_path / "out.onnx"
    answer = run(*(word.format(model=model, out=out) for word in command))
    if answer.exit_code == 2:
        (line,) = answer.stderr.splitlines()
        assert line.startswith("onnxprune: ")
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    else:
        assert out.exists() == (command[0] in {"optimize", "recover", "train"})
        if out.exists():
            open_session(out)


def test_an_output_that_is_given_twice_is_taught_once(tmp_path: Path) -> None:
    session = open_session(graphs.saved(one_output_twice(), tmp_path))
    (target,) = targets_of(session, {"x": graphs.weights(2, 32)}, "auto")
    assert target.port.name == "y"


def test_a_weight_that_no_sample_reaches_stays_as_it_is(tmp_path: Path) -> None:
    model = graphs.saved(a_branch_that_is_not_taken(), tmp_path)
    found = recover(model, model, output=tmp_path / "out.onnx", allow_synthetic=True)
    assert (found.weights, found.after.score) == (0, 1.0)


def test_a_linear_that_no_sample_reaches_keeps_its_rank(tmp_path: Path) -> None:
    model = graphs.saved(no_rows(), tmp_path)
    passes = ["factor-linear:ratio=0.5,faster=no"]
    result = optimize(model, output=tmp_path / "out.onnx", passes=passes, allow_synthetic=True)
    skips = [(skip.site, skip.why) for report in result.reports for skip in report.skips]
    assert ("linear.0", "no sample holds a row that it reads") in skips
