"""What NNAPI and CoreML would take, by onnxruntime's lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError, TargetError
from onnxprune.measurement import measure
from onnxprune.targets.forecast import COREML, NNAPI, ForecastTarget, best
from onnxprune.targets.placement import summary

FEEDS = {"x": np.ones((1, 3, 8, 8), np.float32)}


def chain(path: Path, *operators: str, height: int | str = 8) -> Path:
    """A convolution followed by operators of one input."""
    weight = numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["t0"], pads=[1, 1, 1, 1])]
    nodes += [helper.make_node(op, [f"t{at}"], [f"t{at + 1}"]) for at, op in enumerate(operators)]
    shape = [1, 3, height, 8]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"t{len(operators)}", TensorProto.FLOAT, shape)],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_of_listed_operators_is_one_partition(tmp_path: Path) -> None:
    (found,) = ForecastTarget(NNAPI).forecast(chain(tmp_path / "m.onnx", "Relu", "Sigmoid", "Tanh"))
    assert (found.verdict, found.fixed, found.placement.partitions) == ("yes", True, 1)
    assert found.placement.counts == {"NnapiExecutionProvider": 4}


def test_an_operator_that_the_list_lacks_splits_the_model_in_two(tmp_path: Path) -> None:
    (found,) = ForecastTarget(NNAPI).forecast(chain(tmp_path / "m.onnx", "Erf", "Sigmoid"))
    assert found.placement.partitions == 2
    assert [(each.op, each.count, each.why) for each in found.placement.fallen] == [("Erf", 1, "the list lacks it")]


def test_dynamic_sizes_are_forecast_as_if_they_were_fixed_and_said_so(tmp_path: Path) -> None:
    (found,) = ForecastTarget(NNAPI).forecast(chain(tmp_path / "m.onnx", "Relu", height="h"))
    assert not found.fixed
    assert found.to_json()["as_is"] is False
    assert found.verdict == "yes"


def test_coreml_is_forecast_in_both_of_its_formats(tmp_path: Path) -> None:
    # Erf stands in the list of ML Programs only.
    program, network = ForecastTarget(COREML).forecast(chain(tmp_path / "m.onnx", "Erf"))
    assert (program.form, network.form) == ("ML Program", "NeuralNetwork")
    assert program.placement.counts == {"CoreMLExecutionProvider": 2}
    assert network.placement.counts["CoreMLExecutionProvider"] == 1
    assert best((network, program)) is program


def test_a_model_without_nodes_between_others_is_forecast(tmp_path: Path) -> None:
    """Every tensor is an input or an output: onnxruntime's tool takes that for shapes that were never inferred."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Sigmoid", ["x"], ["z"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xyz"]
    graph = helper.make_graph(nodes, "both", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    (found,) = ForecastTarget(NNAPI).forecast(tmp_path / "m.onnx")
    assert (found.verdict, found.placement.counts) == ("yes", {"NnapiExecutionProvider": 2})


def test_a_model_that_is_folded_away_is_not_for_a_provider(tmp_path: Path) -> None:
    constant = numpy_helper.from_array(np.ones(4, np.float32), "c")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Relu", ["c"], ["y"])], "constant", [], [output], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    for found in ForecastTarget(COREML).forecast(tmp_path / "m.onnx"):
        assert (found.verdict, found.placement.nodes) == ("no", ())
        assert summary(found.placement) == "no node is left to run"


def test_a_forecast_has_no_figures(tmp_path: Path) -> None:
    path = chain(tmp_path / "m.onnx", "Relu")
    target = ForecastTarget(NNAPI)
    measured = measure(target, [path], FEEDS, budget_s=0)
    row = measured.to_json([path])["models"][0]
    assert "latency_ms" not in row
    assert "speedup" not in row
    assert row["forecasts"][0]["kind"] == "forecast"
    for ask in (target.time, target.run):
        with pytest.raises(TargetError, match=r"^Target nnapi is a forecast and gives no (times|outputs)\."):
            ask([path], FEEDS)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"^broken\.onnx: onnxruntime refuses the model: "):
        ForecastTarget(NNAPI).forecast(broken)
