"""One model on every target that is set up: outputs agree, figures are of the right kind, nodes are where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import TargetError
from onnxprune.measurement import measure
from onnxprune.targets.target import parse_target
from tests.targets.installed import installed

# `provider:CPU` runs the worker with this very interpreter: the one hosted target that is always there.
QUICK = ["provider:CPU", "xnnpack", "web", "xnnpack-web"]
EMULATED = ["arm64", "arm64-xnnpack"]
XNNPACK = {"xnnpack", "xnnpack-web", "arm64-xnnpack"}
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    """Conv, Relu, then an operator that XNNPACK has no kernel for; an int64 output beside the float one."""
    weight = numpy_helper.from_array(np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Erf", ["r"], ["y"], name="erf"),
        helper.make_node("ArgMax", ["y"], ["top"], axis=1, name="top"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8]),
            helper.make_tensor_value_info("top", TensorProto.INT64, [1, 1, 8, 8]),
        ],
        [weight],
    )
    path = tmp_path / "convolution.onnx"
    # An operator set that no node uses, and a file format newer than the oldest runtime's.
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("pkg.unused", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.mark.parametrize("name", [*QUICK, *EMULATED])
def test_outputs_agree_on_every_target(name: str, convolution: Path) -> None:
    target = installed(name)
    (here,), (there,) = parse_target("cpu").run([convolution], {"x": IMAGE}), target.run([convolution], {"x": IMAGE})
    assert there.keys() == here.keys() == {"y", "top"}
    assert there["top"].dtype == np.int64
    assert there["y"].shape == (1, 4, 8, 8)
    # Float sums of 27 products in another order: a few units in the last place of numbers below 1.
    np.testing.assert_allclose(there["y"], here["y"], atol=2e-6)
    np.testing.assert_array_equal(there["top"], here["top"])


@pytest.mark.parametrize("name", ["cpu", "cpu-mobile", *QUICK, EMULATED[0]])
def test_figures_are_of_the_kind_that_the_target_gives(name: str, convolution: Path) -> None:
    measured = measure(installed(name), [convolution, convolution], {"x": IMAGE}, budget_s=0)
    first, second = measured.models
    assert first.speedup.ratio == 1
    if measured.latency == "instructions":
        assert np.isnan(first.latency_ms.median)
        # The same model twice: counts repeat to a few in a thousand.
        assert second.speedup.ratio == pytest.approx(1, abs=0.02)
        assert first.instructions is not None
        # 8·8·4 outputs of 27 products, four of them an instruction at best.
        assert first.instructions > 8 * 8 * 4 * 27 / 4
    else:
        assert first.latency_ms.median > 0
        assert first.load_ms > 0
        assert second.speedup.runs == 11


@pytest.mark.parametrize("name", ["cpu", *QUICK, EMULATED[1]])
def test_a_map_says_what_runs_where_and_why(name: str, convolution: Path) -> None:
    (placed,) = installed(name).place([convolution], {"x": IMAGE})
    counts = placed.counts
    if name in XNNPACK:
        # The Relu is merged into the Conv.
        assert counts["XnnpackExecutionProvider"] == 1
        assert placed.partitions == 1
        why = {each.op: each.why for each in placed.fallen}
        assert why["Erf"] == "Xnnpack has no kernel for it in this form"
        assert "Conv" not in why
    else:
        assert set(counts) == {"CPUExecutionProvider"}
        assert placed.partitions == 1
        assert not placed.fallen
    assert "Erf" in {node.op for node in placed.nodes}


@pytest.mark.parametrize("name", ["cpu", *QUICK])
def test_a_model_that_the_runtime_refuses_is_one_line(name: str, tmp_path: Path) -> None:
    target = installed(name)
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, [1]) for port in "xy"]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    path = tmp_path / "broken.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(
        Exception, match=r"^broken\.onnx: .* refuses the model: (.*NoSuchOperator|an exception without a text$)"
    ) as caught:
        target.time([path], {"x": np.ones(1, np.float32)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cpu", *QUICK])
def test_feeds_that_do_not_fit_are_one_line(name: str, convolution: Path) -> None:
    with pytest.raises(Exception, match=r"^convolution\.onnx: .* failed while running it: ") as caught:
        installed(name).time([convolution], {"x": IMAGE[:, :2]})
    assert "\n" not in str(caught.value)


def test_weights_beside_the_file_are_found(convolution: Path, tmp_path: Path) -> None:
    proto = onnx.load(convolution)
    apart = tmp_path / "apart"
    apart.mkdir()
    onnx.save(
        proto, apart / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0, convert_attribute=True
    )
    for name in QUICK:
        target = parse_target(name)
        if target.probe() is None:
            np.testing.assert_allclose(
                target.run([apart / "m.onnx"], {"x": IMAGE})[0]["y"],
                parse_target("cpu").run([convolution], {"x": IMAGE})[0]["y"],
                atol=2e-6,
            )


def test_a_silently_dropped_provider_is_a_failure(convolution: Path) -> None:
    """The runtime warns and goes on without a provider that it does not have; here that is no answer."""
    target = parse_target("provider:Xnnpack")
    hosted = type(target)(**{**vars(target), "missing": lambda: None})
    if "XnnpackExecutionProvider" in __import__("onnxruntime").get_available_providers():
        pytest.skip("this onnxruntime has XNNPACK")
    with pytest.raises(TargetError) as caught:
        hosted.time([convolution], {"x": IMAGE})
    assert str(caught.value) == (
        "convolution.onnx: provider:Xnnpack refuses the model: the session silently left out XnnpackExecutionProvider"
    )
