"""To a device and back: what is written there runs, what is read back is checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.bundling import RUNS, bundle
from onnxprune.errors import DataError, OutputError, TargetError
from onnxprune.importing import import_results

# Writes what onnxruntime's perf test writes into its result file: name, seconds, bytes, share and number of each run.
# The model in folder 0 takes 2 ms in even rounds and 4 ms in odd ones, that in folder 1 half of it.
PERF_TEST = r"""#!/bin/sh
[ "$1 $2 $3 $4 $5 $6" = "-e xnnpack -m times -r 10" ] || exit 3
[ -f "$(dirname "${11}")/test_data_set_0/input_0.pb" ] || exit 4
round=$(basename "${12}" .csv); round=${round%%-*}
seconds=0.00$((2 * (1 + round % 2)))
case "${11}" in models/1/*) seconds=0.00$((1 + round % 2));; esac
run=0
while [ $run -lt 10 ]; do echo "model,$seconds,1000,99,$run" >>"${12}"; run=$((run + 1)); done
"""


def model(path: Path, name: str = "x") -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A bundle of two models."""
    made = bundle([model(tmp_path / "a.onnx"), model(tmp_path / "b.onnx")], tmp_path / "to-phone", shape=["x=2x4"])
    assert made.models == ("a.onnx", "b.onnx")
    return made.folder


def run(folder: Path, *providers: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(folder / "run.sh"), *providers],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bundle_holds_what_the_perf_test_looks_for(written: Path) -> None:
    tensor = onnx.TensorProto.FromString((written / "models/0/test_data_set_0/input_0.pb").read_bytes())
    assert (tensor.name, list(tensor.dims)) == ("x", [2, 4])
    assert (written / "models/1/model.onnx").read_bytes() == (written.parent / "b.onnx").read_bytes()
    assert all(os.access(written / name, os.X_OK) for name in ("run.sh", "adb.sh", "ssh.sh"))
    for name in ("run.sh", "adb.sh", "ssh.sh"):
        subprocess.run(["sh", "-n", str(written / name)], check=True)
        assert "@" not in (written / name).read_text().replace("[USER@]", "").replace('"$@"', "")


def test_results_of_the_perf_test_come_back_in_pairs(written: Path) -> None:
    tool = written / "onnxruntime_perf_test"
    tool.write_text(PERF_TEST)
    tool.chmod(0o755)
    done = run(written, "xnnpack")
    assert (done.returncode, done.stderr) == (0, "")
    result = import_results(written)
    (measured,) = result.measurements
    assert (measured.target, measured.latency) == ("device:xnnpack", "wall")
    first, second = measured.models
    # Eleven rounds: six of 2 ms and five of 4 ms; in each the second takes half.
    assert (first.latency_ms.median, second.latency_ms.median) == (2.0, 1.0)
    assert (second.speedup.ratio, second.speedup.low, second.speedup.high, second.speedup.runs) == (2, 2, 2, 11)
    assert measured.notes[0].startswith("device: Linux")
    assert result.shape == {"x": (2, 4)}
    assert result.to_json()["targets"][0]["models"][1]["load_ms"] is None


def test_a_board_with_python_needs_no_perf_test(written: Path) -> None:
    done = run(written, "cpu", PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (0, "")
    (measured,) = import_results(written).measurements
    assert measured.target == "device:cpu"
    assert all(timed.latency_ms.median > 0 and timed.load_ms > 0 for timed in measured.models)


def test_a_provider_that_the_device_lacks_is_no_result(written: Path) -> None:
    done = run(written, "armnn", PYTHON=sys.executable)
    assert done.returncode == 0
    with pytest.raises(TargetError, match=r"^a\.onnx: device:armnn refuses the model: .*ArmNNExecutionProvider"):
        import_results(written)
    assert run(written, "gpu").returncode == 2


def results(folder: Path, **lines: str) -> None:
    """Good result files, of which some are then written over."""
    own = folder / "results" / "cpu"
    own.mkdir(parents=True)
    for turn in range(11):
        for at in range(2):
            (own / f"{turn}-{at}.csv").write_text("".join(f"model,0.002,1000,99,{one}\n" for one in range(RUNS)))
    for name, text in lines.items():
        (own / f"{name.removeprefix('r').replace('_', '-')}.csv").write_text(text)


GOOD = "".join(f"model,0.002,1000,99,{one}\n" for one in range(RUNS))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "holds 0 runs, 10 were asked for. Run run.sh again."),
        (GOOD.replace("0.002", "-1", 1), "line 1 is no run of onnxruntime's perf test. Run run.sh again."),
        (GOOD.replace("0.002", "nan", 1), "line 1 is no run of onnxruntime's perf test. Run run.sh again."),
        (
            GOOD.replace("model,0.002", "model;0.002", 1),
            "line 1 is no run of onnxruntime's perf test. Run run.sh again.",
        ),
        (GOOD.replace(",99,9", ",99,9,1"), "line 10 is no run of onnxruntime's perf test. Run run.sh again."),
    ],
)
def test_figures_that_are_none_are_refused(text: str, line: str, written: Path) -> None:
    results(written, r3_1=text)
    with pytest.raises(DataError) as caught:
        import_results(written)
    assert str(caught.value) == f"{written / 'results/cpu/3-1.csv'}: {line}"


def test_a_round_that_is_missing_is_named(written: Path) -> None:
    results(written)
    (written / "results/cpu/10-0.csv").unlink()
    with pytest.raises(DataError, match=r"10-0\.csv: cannot be read: No such file or directory\. Run run\.sh again\.$"):
        import_results(written)


def test_results_of_other_models_are_refused(written: Path) -> None:
    results(written)
    model(written / "models/1/model.onnx", "other")
    with pytest.raises(DataError) as caught:
        import_results(written)
    assert str(caught.value) == (
        f"{written / 'models/1/model.onnx'}: is not the model that was bundled. Write the bundle anew and run it again."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"rounds": 0},
        {"rounds": True},
        {"rounds": 10**9},
        {"runs": "10"},
        {"shape": []},
        {"models": []},
        {"models": [{"name": "a\x1b[31m", "sha256": ""}]},
        {"models": [{"name": "a"}]},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, object], written: Path) -> None:
    results(written)
    path = written / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"is no manifest of schema 1\. Write the bundle anew\.$"):
        import_results(written)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, written: Path) -> None:
    with pytest.raises(DataError) as caught:
        import_results(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is no bundle. Write one with `onnxprune time MODEL ... --bundle`."
    with pytest.raises(DataError) as caught:
        import_results(written)
    assert str(caught.value) == (
        f"{written}: holds no results. Run run.sh on the device first, and bring the folder back."
    )


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    path = model(tmp_path / "a.onnx")
    with pytest.raises(OutputError) as caught:
        bundle([path], tmp_path)
    assert str(caught.value) == f"{tmp_path}: exists and is not an empty folder. Name a new one."
    with pytest.raises(DataError):
        bundle([path], tmp_path / "new", data="nothing.npz")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx"]
