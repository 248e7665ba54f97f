"""Each command: what it prints, the keys of its JSON, its exit code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune import pipeline
from onnxprune.cli import main
from onnxprune.passes import OWN
from onnxprune.targets.cpu import CpuTarget
from tests import graphs
from tests.commands import run

FIGURES = {"size_bytes", "gzip_bytes", "params", "nonzero", "macs", "load_ms", "latency_ms"}
OUTPUT = {"explained", "cosine_mean", "cosine_p05", "max_abs", "relative_l2", "top1_agreement"}
SITE = {"id", "kind", "units", "unit_size", "params", "shared_by"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.chdir(tmp_path)
    graphs.saved(graphs.feed_forward(), tmp_path)


def answer(*arguments: str, code: int = 0) -> Any:
    """The JSON of a command."""
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (code, "")
    return json.loads(result.stdout)


def test_optimize_has_the_documented_keys() -> None:
    document = answer("optimize", "model.onnx", "-o", "small.onnx")
    assert {"input", "output", "plan", "data", "before", "after", "speedup", "fidelity", "goal", "passes"} <= set(
        document
    )
    assert (document["input"], document["output"], document["plan"]) == ("model.onnx", "small.onnx", "small.plan.json")
    assert {"source", "samples", "synthetic"} <= set(document["data"])
    assert document["before"].keys() >= FIGURES
    assert document["after"].keys() >= FIGURES
    assert document["after"]["latency_ms"].keys() >= {"median", "p10", "p90"}
    assert document["speedup"].keys() >= {"target", "shape", "ratio", "low", "high", "runs"}
    assert document["fidelity"].keys() >= {"score", "outputs"}
    assert document["fidelity"]["outputs"]["y"].keys() >= OUTPUT
    assert document["goal"].keys() >= {"asked", "met", "reason"}
    for report in document["passes"]:
        assert report.keys() >= {"pass", "changes", "skips", "reverted"}
    change = document["passes"][0]["changes"][0]
    assert change.keys() >= {"site", "what", "params_before", "params_after", "bytes_before", "bytes_after"}
    assert document["before"]["size_bytes"] == Path("model.onnx").stat().st_size
    assert document["after"]["size_bytes"] == Path("small.onnx").stat().st_size


def test_optimize_prints_the_verdict_first_and_how_to_replay_last() -> None:
    result = run("optimize", "model.onnx", "-o", "small.onnx")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Synthetic inputs: no --data was given")
    assert lines[1].startswith("small.onnx — 0.2")
    assert " x the file, " in lines[1]
    assert lines[-1] == "replay: onnxprune apply model.onnx small.plan.json -o OUT"
    assert len(lines) < 30


def test_samples_take_the_warning_away() -> None:
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((8, 1, 5, 64)).astype(np.float32))
    result = run("optimize", "model.onnx", "-o", "small.onnx", "--data", "data.npz")
    assert "ynthetic" not in result.stdout
    assert "on 2 held-out samples" in result.stdout
    document = answer("optimize", "model.onnx", "-o", "small.onnx", "--data", "data.npz")
    assert document["data"] == {
        "source": "data.npz",
        "samples": 8,
        "calibration": 6,
        "held_out": 2,
        "synthetic": False,
    }


def test_a_goal_that_is_missed_is_exit_code_1_and_the_result_is_saved() -> None:
    proto = graphs.matmul()
    proto.graph.node.append(graphs.node("RandomNormalLike", ["x"], ["noise"]))
    proto.graph.output.append(graphs.info("noise", ("batch", 64)))
    graphs.saved(proto, Path(), "noisy.onnx")
    result = run("optimize", "noisy.onnx", "-o", "small.onnx")
    assert result.exit_code == 1
    assert "goal missed: fidelity " in result.stdout
    assert Path("small.onnx").exists()
    document = answer("optimize", "noisy.onnx", "-o", "small.onnx", code=1)
    assert document["goal"]["met"] is False
    assert document["goal"]["reason"].endswith("is under the floor 0.95")


def test_options_reach_the_job() -> None:
    arguments = ["--pass", "sparse-int8:linears=stored", "--shape", "x=2x3x64", "--fidelity", "0.5", "--seed", "3"]
    document = answer("optimize", "model.onnx", "-o", "small.onnx", *arguments)
    assert [report["pass"] for report in document["passes"]] == ["simplify", "sparse-int8:linears=stored"]
    assert document["speedup"]["shape"] == {"x": [2, 3, 64]}
    assert document["goal"]["asked"] == {"fidelity": 0.5}
    plan = json.loads(Path("small.plan.json").read_text())
    assert plan["seed"] == 3
    assert answer("optimize", "model.onnx", "-o", "small.onnx", "--fidelity", "off")["goal"]["asked"] == {}


def test_apply_replays_a_plan() -> None:
    run("optimize", "model.onnx", "-o", "small.onnx")
    result = run("apply", "model.onnx", "small.plan.json", "-o", "again.onnx")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "again.onnx: written\n", "")
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()
    assert answer("apply", "model.onnx", "small.plan.json", "-o", "again.onnx") == {
        "input": "model.onnx",
        "plan": "small.plan.json",
        "output": "again.onnx",
        "size_bytes": Path("small.onnx").stat().st_size,
        "sha256": hashlib.sha256(Path("small.onnx").read_bytes()).hexdigest(),
    }


def test_validate_says_how_far_and_by_its_exit_code_whether_too_far() -> None:
    run("optimize", "model.onnx", "-o", "small.onnx")
    document = answer("validate", "model.onnx", "small.onnx")
    assert set(document) >= {"reference", "candidate", "data", "fidelity", "floor", "passed", "divergence"}
    assert document["passed"] is True
    assert document["divergence"]["tensor"] == "u"
    same = answer("validate", "model.onnx", "model.onnx")
    assert same["fidelity"]["score"] == 1
    assert same["divergence"] is None
    result = run("validate", "model.onnx", "small.onnx", "--fidelity", "1")
    assert result.exit_code == 1
    assert "too far: fidelity 0.9" in result.stdout


def test_time_compares_with_the_first_model() -> None:
    run("optimize", "model.onnx", "-o", "small.onnx")
    document = answer("time", "model.onnx", "small.onnx", "--seconds", "0.02", "--shape", "x=1x4x64")
    assert document["target"] == "cpu:1"
    assert document["shape"] == {"x": [1, 4, 64]}
    first, second = document["models"]
    assert (first["model"], second["model"]) == ("model.onnx", "small.onnx")
    assert first["speedup"]["ratio"] == 1
    assert second.keys() >= {"load_ms", "latency_ms", "speedup"}
    table = run("time", "model.onnx", "small.onnx", "--seconds", "0.02").stdout
    assert "times as fast as the first" in table


def test_several_targets_have_a_column_each() -> None:
    targets = ("--target", "cpu", "--target", "cpu-mobile", "--target", "nnapi")
    document = answer("optimize", "model.onnx", "-o", "small.onnx", *targets)
    assert [each["target"] for each in document["targets"]] == ["cpu:1", "cpu-mobile", "nnapi"]
    assert document["speedup"]["target"] == "cpu:1"
    wall, mobile, forecast = document["targets"]
    for each in (wall, mobile):
        assert each["latency"] == "wall"
        assert [row["model"] for row in each["models"]] == ["model.onnx", "small.onnx"]
        assert all(row["latency_ms"]["median"] > 0 and row["placement"]["nodes"] for row in each["models"])
    assert all("latency_ms" not in row and row["forecasts"] for row in forecast["models"])
    text = run("time", "model.onnx", "small.onnx", "--seconds", "0.02", *targets).stdout
    assert "alternated runs on cpu-mobile" in text
    assert "nodes on Nnapi" in text
    text = run("optimize", "model.onnx", "-o", "small.onnx", *targets).stdout
    assert "cpu-mobile" in text
    assert "forecast" in text


def test_a_bundle_is_written_and_its_results_are_asked_for() -> None:
    document = answer("time", "model.onnx", "--bundle", "phone")
    assert document.keys() == {"bundle", "models", "size_bytes"}
    assert Path("phone/run.sh").is_file()
    result = run("time", "--import", "phone")
    assert (result.exit_code, result.stderr) == (
        2,
        "onnxprune: phone: holds no results. Run run.sh on the device first, and bring the folder back.\n",
    )
    assert run("time").exit_code == 2
    assert run("time", "model.onnx", "--import", "phone").exit_code == 2


def test_a_forecast_alone_is_no_target_to_optimize_for() -> None:
    result = run("optimize", "model.onnx", "--target", "coreml")
    assert result.exit_code == 2
    assert result.stderr == (
        "onnxprune: Nothing runs on coreml: a forecast. Name a target that runs as well, for example --target cpu:1.\n"
    )


def test_inspect_lists_sites_parameters_and_work() -> None:
    document = answer("inspect", "model.onnx", "--shape", "x=2x3x64")
    assert set(document) >= {"inputs", "outputs", "opset", "params", "macs", "sites"}
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", "sequence", 64]}]
    assert document["opset"] == {"ai.onnx": 17}
    # 64·96 + 96 + 96·64 + 64
    assert document["params"] == 12448
    # 6 tokens through both products
    assert document["macs"] == 6 * 2 * 64 * 96
    assert all(site.keys() >= SITE for site in document["sites"])
    linears = [(site["id"], site["units"], site["shared_by"]) for site in document["sites"] if site["kind"] == "linear"]
    assert linears == [("linear.0", 96, 1), ("linear.1", 64, 1)]
    text = run("inspect", "model.onnx").stdout
    assert "x float32 [batch, sequence, 64]" in text
    assert "linear.0" in text


def test_passes_and_targets_are_listed() -> None:
    listed = answer("passes")
    assert set(listed) >= {kind.name for kind in OWN}
    assert listed["simplify"] == {"limit": 65536}
    text = run("passes").stdout
    assert all(kind.name in text for kind in OWN)
    targets = {each["target"]: each for each in answer("targets")}
    assert targets.keys() >= {"cpu:1", "cpu-mobile", "xnnpack", "arm64", "web", "nnapi", "coreml"}
    assert targets["cpu:1"]["ready"] is True
    assert all(each["ready"] or each["reason"] for each in targets.values())
    assert all(name in run("targets").stdout for name in targets)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--help"], 0),
        (["optimize", "--help"], 0),
        (["prune"], 2),
        (["optimize"], 2),
        (["optimize", "model.onnx", "--seed", "x"], 2),
        (["optimize", "model.onnx", "--nonsense"], 2),
        (["apply", "model.onnx", "plan.json"], 2),
        (["--version"], 0),
    ],
)
def test_usage_is_exit_code_2_and_help_is_0(arguments: list[str], code: int) -> None:
    assert run(*arguments).exit_code == code


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_of_every_command_says_what_each_option_takes(command: str) -> None:
    text = run(command, "--help").stdout
    assert text.splitlines()[2].strip()
    for parameter in main.commands[command].params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{command} {parameter.name} has no help"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m onnxprune passes | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where temporary files go is no fault of the input, and no news for a traceback."""

    def save(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/place/feeds.npz")

    monkeypatch.setattr(CpuTarget, "place", save)
    result = run("time", "model.onnx", "--seconds", "0.01")
    assert result.exit_code == 2
    line = "onnxprune: /place/feeds.npz: cannot be written: No space left on device. "
    assert result.stderr.endswith(f"{line}Make room there, or set TMPDIR to another folder.\n")


def test_results_go_to_stdout_and_nothing_else_does() -> None:
    command = [sys.executable, "-m", "onnxprune", "inspect", "model.onnx", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["params"] == 12448
    assert done.stderr == ""
