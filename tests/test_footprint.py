"""What packing saves in the file and costs at load, measured where the runtime is all there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxprune import optimize, pipeline
from onnxprune.cli import main
from onnxprune.footprint import footprints
from onnxprune.model import load
from onnxprune.targets import residence
from tests import graphs


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.chdir(tmp_path)


def test_a_packed_result_is_measured_beside_its_dense_form() -> None:
    graphs.saved(graphs.compressible(), Path())
    result = optimize("model.onnx", output="small.onnx", passes=["pack-weights"])
    assert result.storage is not None
    document = result.to_json()["storage"]
    assert document.keys() == {"dense", "packed"}
    keys = {"size_bytes", "gzip_bytes", "load_ms", "resident_bytes", "peak_bytes"}
    assert document["dense"].keys() == document["packed"].keys() == keys
    assert document["packed"]["size_bytes"] == Path("small.onnx").stat().st_size
    assert document["packed"]["size_bytes"] < document["dense"]["size_bytes"]
    text = CliRunner().invoke(main, ["optimize", "model.onnx", "-o", "small.onnx", "--pass", "pack-weights"]).output
    (line,) = (line for line in text.splitlines() if line.startswith("packed: "))
    assert line.startswith("packed: file 0.03 MB (dense 0.06 MB), gzip ")


def test_nothing_is_measured_where_nothing_is_packed() -> None:
    path = graphs.saved(graphs.matmul(), Path())
    assert footprints(path, load(path), {"x": np.zeros((1, 64), np.float32)}) is None


def test_a_large_parent_is_not_counted() -> None:
    """The peak that the kernel tells of a child holds what its parent had before: 300 MB here."""
    path = graphs.saved(graphs.matmul(), Path())
    ballast = np.ones(300 << 20, np.uint8)
    held = residence.measure_residence(path, {"x": np.zeros((1, 64), np.float32)})
    assert ballast.any()
    assert held is not None
    assert held.resident_bytes <= held.peak_bytes < 100 << 20
    assert held.load_ms > 0


def test_a_system_that_does_not_tell_and_a_model_that_does_not_load_give_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert residence.measure_residence(tmp_path / "none.onnx", {}) is None
    monkeypatch.setattr(residence, "_STATUS", tmp_path / "none")
    path = graphs.saved(graphs.matmul(), Path())
    assert residence.measure_residence(path, {"x": np.zeros((1, 64), np.float32)}) is None


def test_files_of_the_users_folder_are_no_packages_and_inputs_may_have_any_name(tmp_path: Path) -> None:
    """A folder with models of strangers may hold a numpy.py; numpy's archives take no array named file."""
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)")
    proto = graphs.matmul()
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "file"
    assert residence.measure_residence(graphs.saved(proto, tmp_path), {"file": np.zeros((1, 64), np.float32)})


def test_a_process_that_takes_too_long_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residence, "_TIMEOUT_S", 1e-3)
    assert residence.measure_residence(graphs.saved(graphs.matmul(), Path()), {"x": np.zeros((1, 64))}) is None
