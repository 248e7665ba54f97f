"""The same inputs give the same bytes, whatever the process, the order of sets and the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import graphs

PROGRAM = """
import sys
from onnxprune import apply, optimize, pipeline, subject

pipeline.TIMING_S = subject.RACE_S = 0.02
data = "data.npz" if sys.argv[1] == "data" else None
optimize("model.onnx", output=sys.argv[2] + "/out.onnx", data=data, passes=sys.argv[3:], fresh=True)
apply("model.onnx", sys.argv[2] + "/out.plan.json", sys.argv[2] + "/again.onnx")
"""
# No clock decides in any of these.
BY_DATA = ("remove-neurons:keep=0.5", "sparse-int8:activations=none,sparsity=0.5", "pack-weights")
BY_WEIGHTS = ("remove-neurons:keep=0.5,score=magnitude,refit=no", "sparse-int8:activations=none", "pack-weights")


def made(folder: Path, name: str, hashes: int, threads: int, how: str, *passes: str) -> dict[str, bytes]:
    place = folder / name
    place.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONHASHSEED": str(hashes),
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-c", PROGRAM, how, name, *passes]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in place.iterdir()}
    assert found["out.onnx"] == found["again.onnx"]
    return found


@pytest.mark.parametrize(("how", "passes", "threads"), [("data", BY_DATA, 1), ("none", BY_WEIGHTS, 4)])
def test_processes_and_threads_change_no_byte(tmp_path: Path, how: str, passes: tuple[str, ...], threads: int) -> None:
    graphs.saved(graphs.feed_forward(), tmp_path)
    feeds = graphs.feeds_for(tmp_path / "model.onnx")
    samples = {name: np.stack([np.roll(value, at, axis=-1) for at in range(8)]) for name, value in feeds.items()}
    np.savez(tmp_path / "data.npz", **samples)  # type: ignore[arg-type]
    first = made(tmp_path, "first", 0, 1, how, *passes)
    assert set(first) == {"out.onnx", "out.plan.json", "out.plan.safetensors", "again.onnx"}
    assert made(tmp_path, "second", 1, threads, how, *passes) == first
