"""Dead units of real exports through the default pipeline, and what the report says of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import pipeline
from onnxprune.comparison import validate
from onnxprune.inspection import inspect
from onnxprune.result import Result
from tests import graphs
from tests.building import Net
from tests.matrix import exporting, fusing
from tests.matrix.architectures import ARCHITECTURES

# 8 heads of width 8; DESIGN's bound for lossless edits.
SIZE, BOUND = 8, 1e-5


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.01)


def rows(*heads: int) -> list[int]:
    return [head * SIZE + at for head in heads for at in range(SIZE)]


def zeroed(network: Any) -> None:
    """What training leaves: heads without output, without values, without anything, and neurons of both kinds."""
    layer = network.encoder.layer[0]
    own = layer.attention.self
    layer.attention.output.dense.weight.data[:, rows(1)] = 0
    own.value.weight.data[rows(3)] = 0
    for linear in (own.query, own.key, own.value):
        linear.weight.data[rows(5)] = 0
    layer.intermediate.dense.weight.data[:10] = 0
    layer.output.dense.weight.data[:, 50:55] = 0


def export(
    monkeypatch: pytest.MonkeyPatch, folder: Path, exporter: str, attention: str, edit: Callable[[Any], None]
) -> Path:
    """A tiny BERT whose weights were edited, as the matrix exports it."""
    build = exporting.build

    def edited(*arguments: Any) -> Any:
        network = build(*arguments)
        edit(network)
        return network

    monkeypatch.setattr(exporting, "build", edited)
    path = folder / "bert.onnx"
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        exporting._export(ARCHITECTURES["bert"], "bert", exporter, attention, path)
    return path


def changed(result: Result) -> dict[str, str]:
    report = next(report for report in result.reports if report.pass_spec.startswith("remove-dead"))
    assert not report.reverted
    return {change.site: change.what for change in report.changes if change.site != "graph"}


@pytest.mark.parametrize(
    ("exporter", "attention", "fuser"),
    [("torchscript17", "eager", ""), ("torchscript17", "eager", "onnxruntime"), ("dynamo18", "sdpa", "")],
)
def test_a_bert_loses_exactly_what_training_zeroed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exporter: str, attention: str, fuser: str
) -> None:
    path = export(monkeypatch, tmp_path, exporter, attention, zeroed)
    if fuser:
        plain, path = path, tmp_path / "fused.onnx"
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            fusing.FUSERS[fuser](plain, path, "bert")
    dead = {site["id"]: site["dead_units"] for site in inspect(path).to_json()["sites"] if site["dead_units"]}
    assert dead == {"heads.0": 3, "neurons.0": 15}
    result = pipeline.optimize(path, output=tmp_path / "out.onnx", passes=["remove-dead"])
    assert changed(result) == {
        "heads.0": "3 of 8 heads removed: 1, 3, 5",
        "neurons.0": "15 of 112 neurons removed: 0-9, 50-54",
    }
    assert validate(path, result.output).fidelity.within(BOUND).passed
    sites = {site.id: (site.units, site.original_units) for site in inspect(result.output).sites}
    assert sites["heads.0"] == (5, 8)
    assert sites["heads.1"] == (8, 8)
    assert sites["neurons.0"] == (97, 112)
    # Three heads of 8 columns in Q, K and V with their biases and 8 rows of the output; 15 neurons of 64 + 1 + 64.
    assert result.before.params - result.after.params == 3 * (3 * 65 * 8 + 8 * 64) + 15 * 129
    pipeline.apply(path, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.output.read_bytes()


def test_no_option_is_needed(tmp_path: Path) -> None:
    """The default pipeline does it: every fourth neuron of 96, before anything becomes int8."""
    result = pipeline.optimize(graphs.saved(graphs.dead_units(), tmp_path), output=tmp_path / "out.onnx")
    named = ", ".join(str(unit) for unit in range(0, 96, 4))
    assert changed(result) == {"neurons.0": f"24 of 96 neurons removed: {named}"}


def test_gates_that_are_multiplied_to_weights_are_folded_first(tmp_path: Path) -> None:
    """As some training methods export them: weight x gate in the graph."""
    net = Net()
    gate = np.ones(32, np.float32)
    gate[[7, 8]] = 0
    x = net.input("x", ["b", "s", 24])
    gated = net.op("Mul", net.weight(24, 32), net.constant(gate))
    hidden = net.op("Relu", net.op("MatMul", x, gated))
    net.output(net.op("MatMul", hidden, net.weight(32, 24)))
    path = graphs.saved(net.proto(), tmp_path)
    result = pipeline.optimize(path, output=tmp_path / "out.onnx", passes=["remove-dead"])
    assert changed(result) == {"neurons.0": "2 of 32 neurons removed: 7-8"}
    assert validate(path, result.output).fidelity.within(BOUND).passed


def test_a_second_run_finds_nothing(tmp_path: Path) -> None:
    path = graphs.saved(graphs.dead_units(), tmp_path)
    pipeline.optimize(path, output=tmp_path / "out.onnx", passes=["remove-dead"])
    again = pipeline.optimize(tmp_path / "out.onnx", output=tmp_path / "again.onnx", passes=["remove-dead"])
    assert not changed(again)
    why = [skip.why for report in again.reports for skip in report.skips]
    assert why == ["none of its units is dead"]


def test_a_fold_that_a_caller_could_override_gets_a_bias_of_its_own(tmp_path: Path) -> None:
    """The next bias is a graph input too: its default may be replaced, the constant may not."""
    proto = graphs.feed_forward()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == "up":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[:, 5] = 0
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(values, "up"))
        if tensor.name == "up_bias":
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(np.ones(96, np.float32), "up_bias"))
    proto.graph.input.append(graphs.info("down_bias", (graphs.WIDTH,)))
    path = graphs.saved(proto, tmp_path)
    result = pipeline.optimize(path, output=tmp_path / "out.onnx", passes=["remove-dead"])
    assert changed(result) == {"neurons.0": "1 of 96 neurons removed: 5"}
    held = {tensor.name: tensor for tensor in onnx.load(result.output).graph.initializer}
    before = {tensor.name: tensor for tensor in proto.graph.initializer}
    assert held["down_bias"].raw_data == before["down_bias"].raw_data
    assert validate(path, result.output).fidelity.within(BOUND).passed
