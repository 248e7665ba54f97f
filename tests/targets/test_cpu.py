"""Timing on the processor; the bounds are wide, since the machine is shared."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.targets import worker
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.worker import Rounds

WIDTH = 128
FEEDS = {"x0": np.ones((16, WIDTH), np.float32)}


def products(path: Path, count: int) -> Path:
    """A chain of matrix products [n, 128] x [128, 128]."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((random.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32), f"w{at}")
        for at in range(count)
    ]
    nodes = [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in range(count)]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, ["n", WIDTH])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def rounds_of(path: Path, **settings: float) -> Rounds:
    """Milliseconds of one model's rounds, with some of the job's settings."""
    job = {"providers": [("CPUExecutionProvider", {})], "budget_s": 4.0, "min_runs": 11, "max_runs": 500} | settings
    sessions, _ = worker.load_models([str(path)], job)
    return worker.time_sessions(sessions, [FEEDS], job)


@pytest.mark.serial
def test_a_model_is_as_fast_as_itself(tmp_path: Path) -> None:
    path = products(tmp_path / "a.onnx", 20)
    first, second = CpuTarget().time([path, path], FEEDS, budget_s=1.0)
    assert first.speedup.ratio == first.speedup.low == first.speedup.high == 1
    # Two sessions of one file differ by where their memory lies; an interval of one process does not know that.
    assert second.speedup.low < 1.1
    assert second.speedup.high > 0.9


@pytest.mark.serial
def test_a_tenth_of_the_work_is_faster(tmp_path: Path) -> None:
    slow, fast = products(tmp_path / "slow.onnx", 40), products(tmp_path / "fast.onnx", 4)
    timed = CpuTarget().time([slow, fast], FEEDS, budget_s=1.0)
    assert [model.name for model in timed] == ["slow.onnx", "fast.onnx"]
    assert timed[1].speedup.low > 2
    assert timed[1].latency_ms.median < timed[0].latency_ms.median
    assert all(model.load_ms > 0 for model in timed)


def test_rounds_are_bounded_from_both_sides(tmp_path: Path) -> None:
    path = products(tmp_path / "a.onnx", 1)
    assert len(rounds_of(path, budget_s=0, min_runs=5)) == 5
    assert len(rounds_of(path, budget_s=60, max_runs=7)) == 7


def test_two_threads_are_timed_too(tmp_path: Path) -> None:
    assert CpuTarget(2).time([products(tmp_path / "a.onnx", 2)], FEEDS, budget_s=0)[0].speedup.runs == 11


def test_the_process_is_left_as_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: pins.append(processors))
    rounds_of(products(tmp_path / "a.onnx", 1), max_runs=11)
    assert len(pins[0]) == 1
    assert pins[1:] == [{0, 1, 2}]
    assert gc.isenabled()


def test_the_clock_runs_on_one_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    clocked = worker.clocked

    def watched(run: Callable[[], object]) -> float:
        pinned.append(len(os.sched_getaffinity(0)))
        return clocked(run)

    monkeypatch.setattr(worker, "clocked", watched)
    rounds_of(products(tmp_path / "a.onnx", 1), max_runs=11, warmup=2)
    assert pinned[2:] == [1] * 11


@pytest.mark.parametrize("models", [2, 3, 4])
def test_every_model_takes_every_turn_and_follows_no_other_always(models: int) -> None:
    orders = [worker.order(models, turn) for turn in range(2 * models)]
    assert all(sorted(order) == list(range(models)) for order in orders)
    for turn in zip(*orders, strict=True):
        assert sorted(turn) == sorted([*range(models)] * 2)
    before = {(one, other) for order in orders for one, other in pairwise(order)}
    assert all((other, one) in before for one, other in before)


def test_a_file_that_does_not_load_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"^broken\.onnx: onnxruntime refuses the model: "):
        CpuTarget().time([broken], FEEDS)


def test_feeds_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = products(tmp_path / "a.onnx", 1)
    with pytest.raises(ModelError, match=r"^a\.onnx: onnxruntime failed while running it: "):
        CpuTarget().time([path], {"x0": np.ones((1, 3), np.float32)})
