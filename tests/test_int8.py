"""The graph side of quantization: what is there already is used again, names downstream survive."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.int8 import Int8Writer
from onnxprune.model import Model, load, save
from onnxprune.solvers.quantize import round_to_grid, symmetric_scale
from onnxprune.weights import find_weights
from tests import graphs
from tests.graphs import info, node


def ops(model: Model) -> Counter[str]:
    return Counter(found.op for found in model.graph.nodes)


def write_static(model: Model, ranges: dict[str, Any]) -> None:
    """Every convolution of the model between calibrated ranges."""
    writer = Int8Writer(model.graph)
    for weight in find_weights(model.graph):
        (use,) = weight.uses
        scale = symmetric_scale(weight.constant.values, (0,))
        bias = use.node.inputs[2].values if len(use.node.inputs) > 2 else None
        integers = round_to_grid(weight.constant.values, scale)
        writer.grids.convolution(use, integers, scale.ravel(), bias, ranges[use.name], "u8s8")
    writer.finish()
    model.graph.cleanup()


RANGES = {
    "c": {"input": [-4.0, 4.0], "output": [0.0, 5.0], "result": "r"},
    "d": {"input": [0.0, 5.0], "output": [-6.0, 6.0], "result": "d"},
}


def test_activations_that_are_quantized_at_run_time_already_are_not_quantized_again(tmp_path: Path) -> None:
    proto = graphs.matmul()
    proto.graph.node.insert(0, node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    proto.graph.output.extend([info("q", ("batch", 64), 2)])
    path = graphs.saved(proto, tmp_path)
    model = load(path)
    (weight,) = find_weights(model.graph)
    scale = symmetric_scale(weight.constant.values, (1,))
    writer = Int8Writer(model.graph)
    integers = writer.rewriter.constant("w.int8", round_to_grid(weight.constant.values, scale))
    writer.dynamic(weight.uses[0], integers, writer.rewriter.constant("w.scale", scale.ravel()), np.dtype(np.float32))
    writer.finish()
    assert ops(model) == Counter(DynamicQuantizeLinear=1, MatMulInteger=1, Cast=1, Mul=2)
    assert model.graph.outputs[0].name == "y"
    save(model, tmp_path / "int8.onnx")
    feeds = graphs.feeds_for(path)
    expected, got = (graphs.outputs_of(name, feeds)["y"] for name in (path, tmp_path / "int8.onnx"))
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


def test_neighbouring_convolutions_share_what_is_rounded_between_them(tmp_path: Path) -> None:
    path = graphs.saved(graphs.convolution(), tmp_path)
    model = load(path)
    write_static(model, RANGES)
    # Three activations: the input, between both (behind the Relu), and the output of the second.
    assert ops(model)["QuantizeLinear"] == 3
    # Those, two weights and a bias
    assert ops(model)["DequantizeLinear"] == 6
    save(model, tmp_path / "int8.onnx")
    feeds = graphs.feeds_for(path)
    expected, got = (graphs.outputs_of(name, feeds)["y"] for name in (path, tmp_path / "int8.onnx"))
    assert 0 < np.abs(got - expected).max() < 0.1 * np.abs(expected).max()


def test_steps_are_scalars_where_the_format_asks_for_scalars(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.convolution(), tmp_path))
    write_static(model, RANGES)
    for found in model.graph.nodes:
        if found.op == "QuantizeLinear":
            assert found.inputs[1].shape == found.inputs[2].shape == ()


def test_a_bias_is_stored_in_products_of_both_steps(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.convolution(), tmp_path))
    write_static(model, RANGES)
    held = {tensor.name: tensor.values for tensor in model.graph.tensors().values() if hasattr(tensor, "values")}
    np.testing.assert_allclose(held["c.bias.scale"], held["w.scale"] * held["x.scale"], rtol=1e-6)
    np.testing.assert_allclose(
        held["c.bias.int32"] * held["c.bias.scale"], graphs.weights(32), atol=float(held["c.bias.scale"].max())
    )


def test_a_bias_too_large_for_its_steps_stays_inside_32_bits(tmp_path: Path) -> None:
    proto = graphs.convolution()
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == "b":
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(np.full(32, 3e7, np.float32), "b"))
        if tensor.name == "w":
            tiny = numpy_helper.to_array(tensor) * np.float32(1e-4)
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(tiny, "w"))
    model = load(graphs.saved(proto, tmp_path))
    write_static(model, RANGES)
    (stored,) = (t.values for t in model.graph.tensors().values() if t.name == "c.bias.int32")
    assert (stored == np.iinfo(np.int32).max).all()


@pytest.mark.parametrize("shape", [(80, 32), (80, 4, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_looked_up_with_their_scales_whatever_their_shape(
    tmp_path: Path, shape: tuple[int, ...], dtype: Any
) -> None:
    kind = {np.float32: graphs.FLOAT, np.float16: graphs.FLOAT16}[dtype]
    proto = graphs.model(
        [node("Gather", ["table", "ids"], ["y"])],
        [info("ids", ("batch", "sequence"), graphs.INT64)],
        [info("y", ("batch", "sequence", *shape[1:]), kind)],
        {"table": graphs.weights(*shape, dtype=dtype)},
    )
    path = graphs.saved(proto, tmp_path)
    model = load(path)
    (weight,) = find_weights(model.graph)
    scale = symmetric_scale(weight.constant.values, (0,), dtype=np.float16)
    writer = Int8Writer(model.graph)
    integers = writer.rewriter.constant("table.int8", round_to_grid(weight.constant.values, scale))
    writer.gathered(weight.uses[0], integers, writer.rewriter.constant("table.scale", scale), np.dtype(dtype))
    writer.finish()
    save(model, tmp_path / "int8.onnx")
    feeds = graphs.feeds_for(path)
    expected, got = (graphs.outputs_of(name, feeds)["y"] for name in (path, tmp_path / "int8.onnx"))
    assert got.dtype == expected.dtype == dtype
    assert 0 < np.abs(got - expected).max() < 0.01 * np.abs(expected).max()
