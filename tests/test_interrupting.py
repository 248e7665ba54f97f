"""Whenever a run is interrupted, told to end or killed, nothing half-written is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.model import load, save
from tests import graphs

# Ends itself in the middle of the file of that name.
PROGRAM = """
import os, signal, sys
# What starts tests in the background makes them deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from contextlib import contextmanager
from onnxprune import files, plan, pipeline, subject
from onnxprune.model import writing

pipeline.TIMING_S = subject.RACE_S = 0.02
name, number = sys.argv[1], int(sys.argv[2])

@contextmanager
def hooked(path):
    with files.atomic(path) as file:
        if path.name == name:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), number)
        yield file

writing.atomic = plan.atomic = hooked
from onnxprune.cli import main
main(["optimize", "given.onnx", "-o", "out.onnx", "--pass", "sparse-int8:activations=none"])
"""
ENDS = {
    signal.SIGINT: (130, "onnxprune: interrupted; nothing half-written is left.\n"),
    signal.SIGTERM: (143, "onnxprune: interrupted; nothing half-written is left.\n"),
    signal.SIGKILL: (-signal.SIGKILL, ""),
}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        # A candidate that is judged; the result's data, the result itself, its plan.
        ("model.onnx", signal.SIGTERM),
        ("out.onnx.data", signal.SIGINT),
        ("out.onnx", signal.SIGKILL),
        ("out.plan.json", signal.SIGTERM),
    ],
)
def test_an_interrupted_run_leaves_nothing_half_written(tmp_path: Path, name: str, number: signal.Signals) -> None:
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    save(load(graphs.saved(graphs.feed_forward(), tmp_path)), place / "given.onnx", external=True)
    (place / "out.plan.json").write_text("an older one")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "TMPDIR": str(temporary),
        "ONNXPRUNE_CACHE": "off",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, str(int(number))],
        cwd=place, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    code, said = ENDS[number]
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith(said), done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    if number != signal.SIGKILL:
        assert not list(temporary.glob("onnxprune-*"))
