"""Convolutions and products between fixed grids: fused where the runtime can, right at every level."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.graph import constants
from onnxprune.model import load
from onnxprune.passes import SparseInt8
from tests import graphs
from tests.graphs import info, node, weights
from tests.passes.test_sparse_int8 import ops, optimized_ops, proposal_for, quantized, worst_error

STATIC = SparseInt8(activations="static")
# Of the largest output: a handful of roundings to 8 bits, and inputs a little larger than samples have shown.
TOLERANCE = 0.1


def between(
    nodes: list[onnx.NodeProto], shape: tuple[int, ...], held: dict[str, Any], *, opset: int = 17
) -> onnx.ModelProto:
    """Nodes from `x` [batch, …] to `y`; the last one is a Tanh of `out`, so that nothing between is given out."""
    rank = (None,) * (len(shape) + 1)
    return graphs.model(
        [*nodes, node("Tanh", ["out"], ["y"])], [info("x", ("batch", *shape))], [info("y", rank)], held, opset=opset
    )


def convolution(shape: tuple[int, ...], group: int = 1, **attrs: Any) -> onnx.ModelProto:
    """One Conv with a bias from 16 to 32 channels."""
    spatial = len(shape) - 1
    held = {"w": weights(32, 16 // group, *(3,) * spatial), "b": weights(32)}
    return between([node("Conv", ["x", "w", "b"], ["out"], group=group, **attrs)], shape, held)


@pytest.mark.parametrize("space", [(12,), (8, 8), (4, 5, 6)], ids=["1D", "2D", "3D"])
@pytest.mark.parametrize("group", [1, 4, 16])
def test_convolutions_of_every_rank_and_grouping(tmp_path: Path, space: tuple[int, ...], group: int) -> None:
    before, after, skips = quantized(convolution((16, *space), group), tmp_path, STATIC, calibrate=True)
    assert not skips
    assert optimized_ops(after, tmp_path)["QLinearConv"] == 1
    assert 0 < worst_error(before, after) < TOLERANCE


@pytest.mark.parametrize("pads", [[0, 2, 1, 0], [2, 0, 0, 1]])
@pytest.mark.parametrize("strides", [[1, 1], [2, 1]])
def test_padding_on_one_side_means_zero_where_zero_is_no_end_of_the_grid(
    tmp_path: Path, pads: list[int], strides: list[int]
) -> None:
    proto = convolution((16, 8, 8), pads=pads, strides=strides)
    # Inputs from -3 to 3: the grid's zero lies in its middle.
    before, after, _ = quantized(proto, tmp_path, STATIC, calibrate=True)
    (zero,) = (t.values for t in constants(load(after).graph) if t.name == "x.zero_point")
    assert 100 < int(zero) < 156
    assert 0 < worst_error(before, after) < TOLERANCE


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("attrs", [{}, {"strides": [2, 2], "pads": [1, 0, 0, 1]}], ids=str)
def test_transposed_convolutions_scale_their_outputs(
    tmp_path: Path, group: int, bias: bool, attrs: dict[str, Any]
) -> None:
    held = {"w": weights(16, 32 // group, 3, 3) * np.logspace(-2, 0, 32 // group, dtype=np.float32)[:, None, None]}
    held |= {"b": weights(32)} if bias else {}
    nodes = [node("ConvTranspose", ["x", "w", "b"] if bias else ["x", "w"], ["out"], group=group, **attrs)]
    before, after, skips = quantized(between(nodes, (16, 6, 6), held), tmp_path, STATIC, calibrate=True)
    assert not skips
    decoders = {found.input[0]: found for found in onnx.load(after).graph.node if found.op_type == "DequantizeLinear"}
    (axis,) = decoders["w.int8"].attribute
    assert axis.i == 1
    onnx.checker.check_model(str(after), full_check=True)
    assert 0 < worst_error(before, after) < TOLERANCE


def test_a_transposed_convolution_is_left_to_float_unless_asked_for(tmp_path: Path) -> None:
    _, after, _ = quantized(graphs.transposed_convolution(), tmp_path, calibrate=True)
    assert ops(after)["QuantizeLinear"] == 0


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        (graphs.matmul, "MatMulIntegerToFloat"),
        (graphs.gemm, "QGemm"),
        (lambda: graphs.gemm(transB=1), "QGemm"),
        (lambda: graphs.gemm(transB=1, alpha=-0.5, beta=3.0), "QGemm"),
    ],
    ids=["matmul", "gemm", "transB", "alpha and beta"],
)
def test_products_read_a_fixed_grid_and_give_floats(tmp_path: Path, make: graphs.Maker, fused: str) -> None:
    before, after, skips = quantized(make(), tmp_path, STATIC, calibrate=True)
    assert not skips
    assert ops(after)["DynamicQuantizeLinear"] == 0
    assert ops(after)["QuantizeLinear"] == 1
    assert optimized_ops(after, tmp_path)[fused] == 1
    assert 0 < worst_error(before, after) < TOLERANCE


def test_a_product_whose_bias_is_one_number_takes_its_range_at_run_time(tmp_path: Path) -> None:
    proto = graphs.gemm()
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([0.5], np.float32), "b"))
    before, after, _ = quantized(proto, tmp_path, STATIC, calibrate=True)
    assert ops(after)["DynamicQuantizeLinear"] == 1
    assert 0 < worst_error(before, after) < TOLERANCE


@pytest.mark.parametrize("signs", ["u8s8", "s8s8", "u8u8"])
def test_the_types_of_integers_are_a_choice_that_changes_no_result(tmp_path: Path, signs: Any) -> None:
    one = SparseInt8(activations="static", signs=signs)
    before, after, _ = quantized(graphs.convolution(), tmp_path, one, calibrate=True)
    held = {t.name: t.values for t in constants(load(after).graph)}
    assert str(held["w.int8"].dtype) == {"u": "uint8", "s": "int8"}[signs[2]]
    assert str(held["x.zero_point"].dtype) == {"u": "uint8", "s": "int8"}[signs[0]]
    assert set(held["w.int8.zero_point"].tolist()) == ({128} if signs == "u8u8" else {0})
    (tmp_path / "plain").mkdir()
    _, plain, _ = quantized(graphs.convolution(), tmp_path / "plain", STATIC, calibrate=True)
    feeds = graphs.feeds_for(before, seed=9)
    one_answer, other = (graphs.outputs_of(path, feeds, optimized=False)["y"] for path in (after, plain))
    np.testing.assert_allclose(one_answer, other, atol=1e-6 * np.abs(other).max())
    assert 0 < worst_error(before, after) < TOLERANCE


def test_a_convolution_that_several_read_is_rounded_once_for_all(tmp_path: Path) -> None:
    held = {"w": weights(32, 16, 3, 3), "v": weights(32, 32, 1, 1), "u": weights(32, 32, 1, 1, seed=1)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Conv", ["c", "v"], ["d"]),
        node("Conv", ["c", "u"], ["e"]),
        node("Sum", ["c", "d", "e"], ["out"]),
    ]
    before, after, _ = quantized(between(nodes, (16, 8, 8), held), tmp_path, STATIC, calibrate=True)
    # The input, the first one's output, and those of the other two.
    assert ops(after)["QuantizeLinear"] == 4
    assert optimized_ops(after, tmp_path)["QLinearConv"] == 3
    assert 0 < worst_error(before, after) < TOLERANCE


@pytest.mark.parametrize("given", ["c", "r"])
def test_what_the_graph_gives_out_stays_in_float(tmp_path: Path, given: str) -> None:
    proto = graphs.convolution()
    proto.graph.output.append(info(given, ("batch", 32, 8, 8)))
    _, after, _ = quantized(proto, tmp_path, calibrate=True)
    # The first convolution or what follows it is an output; the second one's is not.
    assert optimized_ops(after, tmp_path)["QLinearConv"] == 1
    stored = [t.name for t in constants(load(after).graph) if t.values.dtype == np.int8 and t.shape == (32, 16, 3, 3)]
    assert stored == ["w.int8"]


@pytest.mark.parametrize("opset", [11, 12])
def test_old_opsets_are_raised_and_their_clips_still_merge(tmp_path: Path, opset: int) -> None:
    held = {"w": weights(32, 16, 3, 3), "low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Clip", ["c", "low", "high"], ["out"])]
    proto = between(nodes, (16, 8, 8), held, opset=opset)
    before, after, _ = quantized(proto, tmp_path, STATIC, calibrate=True)
    assert onnx.load(after).opset_import[0].version == 13
    assert optimized_ops(after, tmp_path) == Counter(QuantizeLinear=1, QLinearConv=1, DequantizeLinear=1, Tanh=1) | (
        optimized_ops(after, tmp_path) & Counter(Transpose=9)
    )
    assert 0 < worst_error(before, after) < TOLERANCE


def test_values_that_move_stay_integers_on_the_way(tmp_path: Path) -> None:
    held = {"w": weights(32, 16, 1, 1), "v": weights(32, 16, 1, 1, seed=1), "u": weights(32, 64, 1, 1)}
    held["sizes"] = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Tanh", ["x"], ["t"]),
        node("Conv", ["t", "v"], ["d"]),
        node("Resize", ["d", "", "sizes"], ["e"], mode="nearest"),
        node("Resize", ["c", "", "sizes"], ["f"], mode="nearest"),
        node("Concat", ["e", "f"], ["g"], axis=1),
        node("Conv", ["g", "u"], ["out"]),
    ]
    before, after, _ = quantized(between(nodes, (16, 8, 8), held), tmp_path, STATIC, calibrate=True)
    scales = {
        t.name: float(t.values) for t in constants(load(after).graph) if t.name.endswith(".scale") and not t.shape
    }
    # One grid from both convolutions to the one that reads them.
    assert len({scales[f"{name}.scale"] for name in "cdefg"}) == 1
    # Two floats become integers; floats again are what Tanh reads, before and after.
    assert optimized_ops(after, tmp_path)["QuantizeLinear"] == 2
    assert optimized_ops(after, tmp_path)["DequantizeLinear"] == 2
    assert 0 < worst_error(before, after) < TOLERANCE


def test_the_runtime_does_not_round_what_is_meant_to_stay_in_float(tmp_path: Path) -> None:
    """A depthwise convolution whose channels differ a thousandfold, in float between two that are integers."""
    spread = np.logspace(-3, 0, 32, dtype=np.float32)
    held = {"w": weights(32, 16, 1, 1), "v": weights(32, 1, 5, 5) * spread[:, None, None, None]}
    held["u"] = weights(32, 32, 1, 1) / spread[None, :, None, None]
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Conv", ["c", "v"], ["d"], group=32),
        node("Relu", ["d"], ["r"]),
        node("Conv", ["r", "u"], ["out"]),
    ]
    path = graphs.saved(between(nodes, (16, 8, 8), held), tmp_path)
    model, one = load(path), STATIC
    edits = proposal_for(model, one, [graphs.feeds_for(path, seed=at) for at in range(4)]).edits
    result, _ = one.apply(model, [edit for edit in edits if edit.args.get("weight") != "v"])
    from onnxprune.model import save

    save(result, tmp_path / "mixed.onnx")
    fused = optimized_ops(tmp_path / "mixed.onnx", tmp_path)
    assert fused["QLinearConv"] == 2
    feeds = graphs.feeds_for(path, seed=9)
    plain, optimized = (graphs.outputs_of(tmp_path / "mixed.onnx", feeds, optimized=on)["y"] for on in (False, True))
    assert np.abs(plain - optimized).max() < 0.02 * np.abs(plain).max()


def test_biases_take_back_what_rounding_adds_to_means(tmp_path: Path) -> None:
    """Weights that all round down, and inputs that are all positive: without it every output is too small."""
    numbers = np.random.default_rng(0).integers(-60, 60, (32, 16, 1, 1)) + 0.45
    numbers[:, 0] = 127
    nodes = [node("Abs", ["x"], ["p"]), node("Conv", ["p", "w"], ["out"])]
    proto = between(nodes, (16, 8, 8), {"w": (numbers / 127 / 8).astype(np.float32)})
    proto.graph.node[-1].op_type = "Identity"
    shifts = {}
    for correct in (False, True):
        folder = tmp_path / str(correct)
        folder.mkdir()
        one = SparseInt8(activations="static", correct=correct)
        before, after, _ = quantized(proto, folder, one, calibrate=True)
        feeds = graphs.feeds_for(before, batch=16, seed=9)
        expected, got = (graphs.outputs_of(path, feeds)["y"].mean(axis=(0, 2, 3)) for path in (before, after))
        shifts[correct] = np.abs(got - expected).mean()
    assert shifts[True] < 0.25 * shifts[False]


@pytest.mark.parametrize("ranges", ["percentile", "entropy", "mse"])
def test_ranges_cut_off_outliers(tmp_path: Path, ranges: Any) -> None:
    path = graphs.saved(convolution((16, 8, 8)), tmp_path)
    model = load(path)
    feeds = [graphs.feeds_for(path, batch=16, seed=at) for at in range(4)]
    feeds[0]["x"][0, 0, 0, 0] = 500.0
    whole, cut = (
        proposal_for(model, SparseInt8(activations="static", ranges=method), feeds).edits[0].args["ranges"]["out"]
        for method in ("minmax", ranges)
    )
    assert whole["input"][1] == 500.0
    assert cut["input"][1] < 480.0
