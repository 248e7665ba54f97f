"""The ONNX graph as a torch module: its outputs are onnxruntime's, and written back it is the same file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxprune.errors import ModelError
from onnxprune.learn.module import OnnxModule, write_back
from onnxprune.model import Model, load, to_bytes
from onnxprune.model.reading import parse
from onnxprune.pipeline import optimize
from onnxprune.runtime import open_session
from tests import graphs
from tests.graphs import info, node
from tests.matrix.architectures import FURTHER, MATRIX
from tests.matrix.exporting import ATTENTIONS, CHECKED, EXPORTERS, ExportFailedError, exported, feeds

Array = np.ndarray[Any, Any]
FIXTURES = Path(__file__).parents[2] / "fixtures"
# The bound that issue and documentation state, relative to the largest output.
BOUND = 1e-4


def deviation(model: Model, given: Mapping[str, Array], module: OnnxModule | None = None) -> float:
    """max|module - onnxruntime| / max|onnxruntime| of the worst float output."""
    wanted = open_session(model, level="none").run(given)
    with torch.no_grad():
        got = (module or OnnxModule(model))(given)
    worst = 0.0
    for name, value in wanted.items():
        assert tuple(got[name].shape) == value.shape
        mine = got[name].numpy().astype(np.float64)
        worst = max(worst, float(np.abs(mine - value).max(initial=0) / max(float(np.abs(value).max(initial=0)), 1e-6)))
    return worst


def model_of(proto: onnx.ModelProto) -> Model:
    return parse(memoryview(proto.SerializeToString()), Path("graph.onnx"))


def first_samples(folder: str, count: int = 3) -> list[dict[str, Array]]:
    with np.load(FIXTURES / folder / "samples.npz") as stored:
        return [{name: stored[name][at : at + 1] for name in stored if name != "labels"} for at in range(count)]


@pytest.mark.parametrize("name", ["gloss-classifier", "gloss-gpt", "fashion-convnet"])
def test_a_fixture_computes_what_onnxruntime_computes(name: str) -> None:
    model = load(FIXTURES / name / "model.onnx")
    module = OnnxModule(model)
    names = {tensor.name for tensor in model.graph.inputs}
    for given in first_samples(name):
        assert deviation(model, {key: value for key, value in given.items() if key in names}, module) <= BOUND


def check_export(name: str, exporter: str, attention: str) -> None:
    try:
        path = exported(name, exporter, attention)
    except ExportFailedError as failure:
        pytest.skip(f"the exporter gave up: {failure.why}")
    model = load(path)
    module = OnnxModule(model)
    for batch, length in CHECKED:
        given = feeds(name, batch, length)
        try:
            open_session(model).run(given)
        except ModelError:
            # Some exports of torch run at batch 1 alone.
            given = feeds(name, 1, length)
        assert deviation(model, given, module) <= BOUND


@pytest.mark.parametrize("name", ["bert", "gpt2", "swin", "deberta-v2"])
@pytest.mark.filterwarnings("ignore")
def test_an_export_computes_what_onnxruntime_computes(name: str) -> None:
    check_export(name, "torchscript17", "eager")


@pytest.mark.matrix
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", list(MATRIX))
@pytest.mark.filterwarnings("ignore")
def test_every_export_computes_what_onnxruntime_computes(name: str, exporter: str, attention: str) -> None:
    check_export(name, exporter, attention)


@pytest.mark.matrix
@pytest.mark.parametrize("name", list(FURTHER))
@pytest.mark.filterwarnings("ignore")
def test_a_further_export_computes_what_onnxruntime_computes(name: str) -> None:
    check_export(name, "torchscript17", "eager")


@pytest.mark.parametrize("make", [graphs.attention, graphs.feed_forward, graphs.layers, graphs.gemm, graphs.matmul])
def test_parameters_written_back_unchanged_change_no_byte(make: graphs.Maker) -> None:
    model = model_of(make())
    assert to_bytes(write_back(model, OnnxModule(model))) == to_bytes(model)


def test_stored_tensors_are_parameters_under_their_own_names() -> None:
    module = OnnxModule(model_of(graphs.feed_forward()))
    assert set(dict(module.named_parameters())) == {"up", "up_bias", "down", "down_bias"}


def test_a_name_with_dots_is_a_parameter_of_that_name() -> None:
    proto = graphs.matmul()
    proto.graph.initializer[0].name = "layer.0.weight"
    proto.graph.node[0].input[1] = "layer.0.weight"
    module = OnnxModule(model_of(proto))
    assert list(module.state_dict()) == ["layer.0.weight"]


def test_a_changed_parameter_is_written_and_nothing_else() -> None:
    model = model_of(graphs.feed_forward())
    module = OnnxModule(model)
    with torch.no_grad():
        module._parameters["up"].add_(1.0)  # type: ignore[union-attr]
    changed = {t.name: np.asarray(t.values) for t in constants_of(write_back(model, module))}
    before = {t.name: np.asarray(t.values) for t in constants_of(model)}
    np.testing.assert_allclose(changed["up"], before["up"] + 1, rtol=1e-6)
    assert all(np.array_equal(changed[name], before[name]) for name in before if name != "up")


def constants_of(model: Model) -> list[Any]:
    from onnxprune.graph import constants

    return list(constants(model.graph))


def test_scales_of_a_resize_are_no_parameters() -> None:
    nodes = [node("Resize", ["x", "", "scales"], ["y"], mode="linear")]
    stored = {"scales": np.array([1, 1, 2, 2], np.float32)}
    proto = graphs.model(nodes, [info("x", (1, 1, 4, 4))], [info("y", (1, 1, 8, 8))], stored)
    assert OnnxModule(model_of(proto)).names == ()


def test_unknown_operators_are_named_together() -> None:
    nodes = [
        node("Frobnicate", ["x"], ["a"], domain="acme"),
        node("NonMaxSuppression", ["a", "a"], ["b"]),
        node("Relu", ["b"], ["y"]),
    ]
    proto = graphs.model(nodes, [info("x", (1, 4))], [info("y", None)], domains=["acme"])
    with pytest.raises(ModelError) as told:
        OnnxModule(model_of(proto))
    assert str(told.value) == (
        "The torch module has no operators NonMaxSuppression, acme.Frobnicate. Recover and score models without them."
    )


def test_what_depends_on_constants_alone_is_computed_once() -> None:
    nodes = [node("Range", ["zero", "four", "one"], ["r"]), node("Add", ["x", "r"], ["y"])]
    stored = {"zero": np.array(0.0, np.float32), "four": np.array(4.0, np.float32), "one": np.array(1.0, np.float32)}
    module = OnnxModule(model_of(graphs.model(nodes, [info("x", ("n", 4))], [info("y", ("n", 4))], stored)))
    assert [step.call.op for step in module._steps] == ["Add"]
    np.testing.assert_array_equal(module({"x": np.zeros((1, 4), np.float32)})["y"].numpy(), [[0, 1, 2, 3]])


def test_a_row_that_masks_everything_gets_no_gradient_instead_of_nan() -> None:
    nodes = [
        node("Softmax", ["x"], ["p"]),
        node("IsNaN", ["p"], ["n"]),
        node("Where", ["n", "zero", "p"], ["y"]),
    ]
    proto = graphs.model(nodes, [info("x", ("n", 3))], [info("y", ("n", 3))], {"zero": np.array(0, np.float32)})
    x = torch.tensor([[1.0, 2.0, 3.0], [-torch.inf] * 3], requires_grad=True)
    out = OnnxModule(model_of(proto))({"x": x})["y"]
    out[:, 0].sum().backward()
    assert out[1].tolist() == [0, 0, 0]
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad[0].abs().max() > 0


def test_a_branch_runs_where_its_condition_holds() -> None:
    then = onnx.helper.make_graph([node("Mul", ["x", "w"], ["t"])], "then", [], [info("t", None)])
    other = onnx.helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [info("e", None)])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    stored = {"zero": np.array(0, np.float32), "w": np.array([2, 3], np.float32)}
    proto = graphs.model(nodes, [info("x", (2,))], [info("y", (2,))], stored)
    module = OnnxModule(model_of(proto))
    assert module({"x": np.array([1, 1], np.float32)})["y"].tolist() == [2, 3]
    assert module({"x": np.array([-1, -1], np.float32)})["y"].tolist() == [1, 1]


def test_a_loop_carries_its_values() -> None:
    body = onnx.helper.make_graph(
        [node("Identity", ["going"], ["go"]), node("Mul", ["v", "w"], ["next"]), node("Identity", ["next"], ["out"])],
        "body",
        [info("at", (), graphs.INT64), info("going", (), graphs.BOOL), info("v", (2,))],
        [info("go", (), graphs.BOOL), info("next", (2,)), info("out", (2,))],
    )
    nodes = [node("Loop", ["three", "", "x"], ["last", "all"], body=body)]
    stored = {"three": np.array(3), "w": np.array([2, 3], np.float32)}
    proto = graphs.model(nodes, [info("x", (2,))], [info("last", (2,)), info("all", (3, 2))], stored)
    assert deviation(model_of(proto), {"x": np.array([1, 1], np.float32)}) <= BOUND


@pytest.mark.parametrize("make", [graphs.feed_forward, graphs.attention, graphs.gemm])
def test_an_int8_graph_computes_what_onnxruntime_computes_and_trains(make: graphs.Maker, tmp_path: Path) -> None:
    path = graphs.saved(make(), tmp_path)
    result = optimize(path, passes=["sparse-int8"], output=tmp_path / "small.onnx")
    model = load(result.output)
    module = OnnxModule(model)
    assert module.grids
    x = graphs.weights(3, graphs.WIDTH) if make is graphs.gemm else graphs.weights(1, 5, graphs.WIDTH)
    # One step of the activations' grid apart where a half falls the other way.
    assert deviation(model, {"x": x}, module) <= 2e-2
    module({"x": x})["y"].square().sum().backward()
    for name in module.grids:
        gradient = module._parameters[name].grad  # type: ignore[union-attr]
        assert gradient is not None
        assert gradient.abs().max() > 0
    assert to_bytes(write_back(model, module)) == to_bytes(model)


def test_trained_int8_weights_stay_on_their_grid(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    model = load(optimize(path, passes=["sparse-int8"], output=tmp_path / "small.onnx").output)
    module = OnnxModule(model)
    with torch.no_grad():
        for name in module.grids:
            module._parameters[name].mul_(0.9)  # type: ignore[union-attr]
    x = graphs.weights(1, 5, graphs.WIDTH)
    trained = write_back(model, module)
    assert {t.name: t.dtype for t in constants_of(trained)} == {t.name: t.dtype for t in constants_of(model)}
    with torch.no_grad():
        mine = module({"x": x})["y"].numpy()
    theirs = open_session(trained).run({"x": x})["y"]
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-2 * float(np.abs(theirs).max()))


def test_zeros_of_a_sparse_weight_stay_zero() -> None:
    proto = graphs.feed_forward()
    values = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    values[::2] = 0
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, proto.graph.initializer[0].name))
    model = model_of(proto)
    module = OnnxModule(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    up = next(t for t in constants_of(write_back(model, module)) if t.name == "up")
    assert (up.values[::2] == 0).all()
    assert (up.values[1::2] != 0).all()
    module({"x": graphs.weights(1, 2, graphs.WIDTH)})["y"].sum().backward()
    gradient = module._parameters["up"].grad  # type: ignore[union-attr]
    assert gradient is not None
    assert (gradient[::2] == 0).all()
