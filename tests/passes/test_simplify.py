"""Folding changes no output, keeps what callers may replace, and never grows the file by much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxprune.graph import constants, storage
from onnxprune.model import Model, load, save
from onnxprune.passes import Simplify
from onnxprune.protocol import Context
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node


def simplified(proto: onnx.ModelProto, folder: Path, **options: Any) -> Model:
    """The simplified model, which answers as the original does."""
    path = graphs.saved(proto, folder)
    model, one = load(path), Simplify(**options)
    result, _ = one.apply(model, one.propose(model, find_sites(model), Context()).edits)
    save(result, folder / "simple.onnx")
    onnx.checker.check_model(str(folder / "simple.onnx"))
    for optimized in (True, False):
        feeds = graphs.feeds_for(path)
        expected = graphs.outputs_of(path, feeds, optimized=optimized)
        got = graphs.outputs_of(folder / "simple.onnx", feeds, optimized=optimized)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-6)
    return load(folder / "simple.onnx")


def ops(model: Model) -> list[str]:
    return [found.op for found in model.graph.nodes]


def through(*nodes: onnx.NodeProto, shape: Any = ("batch", 64), result: Any = ("batch", 64), **tensors: Any) -> Any:
    return graphs.model(list(nodes), [info("x", shape)], [info("y", result)], tensors)


def test_identities_dropouts_and_idle_transposes_go(tmp_path: Path) -> None:
    proto = through(
        node("Identity", ["x"], ["a"]),
        node("Dropout", ["a"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 1]),
        node("Relu", ["c"], ["d"]),
        node("Identity", ["d"], ["y"]),
    )
    # The last one names the output.
    assert ops(simplified(proto, tmp_path)) == ["Relu", "Identity"]


def test_a_cast_to_the_same_type_goes_and_others_stay(tmp_path: Path) -> None:
    proto = through(
        node("Cast", ["x"], ["a"], to=TensorProto.FLOAT),
        node("Softmax", ["a"], ["b"]),
        node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        node("Cast", ["c"], ["d"], to=TensorProto.FLOAT16),
        node("Cast", ["d"], ["e"], to=TensorProto.FLOAT),
        node("Relu", ["e"], ["y"]),
    )
    assert ops(simplified(proto, tmp_path)) == ["Softmax", "Cast", "Cast", "Relu"]


def test_a_dropout_whose_mask_is_read_stays(tmp_path: Path) -> None:
    proto = through(node("Dropout", ["x"], ["a", "mask"]), node("Where", ["mask", "a", "x"], ["y"]))
    assert "Dropout" in ops(simplified(proto, tmp_path))


def test_an_identity_between_input_and_output_stays(tmp_path: Path) -> None:
    assert ops(simplified(through(node("Identity", ["x"], ["y"])), tmp_path)) == ["Identity"]


def test_what_nobody_reads_goes_but_inputs_stay(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Relu", ["x"], ["y"]), node("MatMul", ["z", "w"], ["unread"])],
        [info("x", ("batch", 64)), info("z", ("batch", 64))],
        [info("y", ("batch", 64))],
        {"w": graphs.weights(64, 64)},
    )
    result = simplified(proto, tmp_path)
    assert ops(result) == ["Relu"]
    assert [tensor.name for tensor in result.graph.inputs] == ["x", "z"]
    assert not list(constants(result.graph))


def test_constant_arithmetic_is_folded(tmp_path: Path) -> None:
    proto = through(
        node("Add", ["a", "b"], ["c"]),
        node("Sqrt", ["c"], ["d"]),
        node("Mul", ["x", "d"], ["y"]),
        a=np.full(64, 3, np.float32),
        b=np.full(64, 6, np.float32),
    )
    result = simplified(proto, tmp_path)
    assert ops(result) == ["Mul"]
    (tensor,) = constants(result.graph)
    np.testing.assert_array_equal(tensor.values, np.full(64, 3, np.float32))


@pytest.mark.parametrize(("limit", "expected"), [(65536, ["Add"]), (16383, ["Expand", "Add"])])
def test_folding_stops_at_the_limit(tmp_path: Path, limit: int, expected: list[str]) -> None:
    # One number becomes 64 x 64 floats = 16384 bytes.
    proto = through(
        node("Expand", ["one", "to"], ["big"]),
        node("Add", ["x", "big"], ["y"]),
        shape=(64, 64),
        result=(64, 64),
        one=np.ones(1, np.float32),
        to=np.array([64, 64]),
    )
    assert ops(simplified(proto, tmp_path, limit=limit)) == expected


def test_a_weight_behind_a_view_of_its_own_is_stored_as_it_is_read(tmp_path: Path) -> None:
    # 256 KiB, far above the limit: the view costs nothing to fold.
    proto = through(
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["y"]),
        result=("batch", 1024),
        w=graphs.weights(1024, 64),
    )
    result = simplified(proto, tmp_path)
    assert ops(result) == ["MatMul"]
    (tensor,) = constants(result.graph)
    assert (tensor.name, tensor.shape) == ("w", (64, 1024))


def test_a_weight_that_is_given_out_keeps_its_shape_and_name(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])],
        [info("x", ("batch", 64))],
        [info("y", ("batch", 1024)), info("w", (1024, 64))],
        {"w": graphs.weights(1024, 64)},
    )
    result = simplified(proto, tmp_path)
    assert storage(result.graph)[1] == 1024 * 64 * 4


def test_a_weight_that_others_read_too_is_not_copied(tmp_path: Path) -> None:
    proto = through(
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["m"]),
        node("MatMul", ["m", "w"], ["y"]),
        w=graphs.weights(1024, 64),
    )
    result = simplified(proto, tmp_path)
    assert storage(result.graph)[1] == 1024 * 64 * 4


def test_overridable_initializers_are_not_folded(tmp_path: Path) -> None:
    proto = graphs.overridable()
    proto.graph.node.insert(0, node("Transpose", ["open"], ["turned"], perm=[1, 0]))
    proto.graph.node[1].input[1] = "turned"
    proto.graph.node.insert(1, node("Neg", ["bias"], ["minus"]))
    proto.graph.node[3].input[1] = "minus"
    result = simplified(proto, tmp_path)
    assert result.overridable == {"open", "bias"}
    assert ops(result) == ["Transpose", "Neg", "MatMul", "Add", "MatMul"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, [3, 5, 64]),
        ({"start": 1}, [5, 64]),
        ({"start": -1}, [64]),
        ({"start": 0, "end": 2}, [3, 5]),
        ({"end": 9}, [3, 5, 64]),
    ],
)
def test_a_known_shape_is_folded_in_the_part_that_is_asked_for(
    tmp_path: Path, attributes: dict[str, int], expected: list[int]
) -> None:
    proto = graphs.model(
        [node("Shape", ["x"], ["s"], **attributes), node("Cast", ["s"], ["y"], to=graphs.FLOAT)],
        [info("x", (3, 5, 64))],
        [info("y", (len(expected),))],
    )
    result = simplified(proto, tmp_path)
    assert "Shape" not in ops(result)
    assert (
        graphs.outputs_of(tmp_path / "simple.onnx", {"x": np.zeros((3, 5, 64), np.float32)})["y"].tolist() == expected
    )


def test_known_sizes_are_picked_from_a_shape_that_is_not(tmp_path: Path) -> None:
    proto = graphs.model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "one"], ["width"]),
            node("Gather", ["s", "zero"], ["batch"]),
            node("Concat", ["batch", "width"], ["to"], axis=0),
            node("Reshape", ["x", "to"], ["y"]),
        ],
        [info("x", ("batch", 64))],
        [info("y", ("batch", 64))],
        {"one": np.array([1]), "zero": np.array([0])},
    )
    result = simplified(proto, tmp_path)
    assert ops(result) == ["Shape", "Gather", "Concat", "Reshape"]
    assert [found.outputs[0].name for found in result.graph.nodes if found.op == "Gather"] == ["batch"]


def test_arithmetic_of_sizes_that_rounds_is_not_mended(tmp_path: Path) -> None:
    """Half a size computed in floats, as exporters of Resize write it; graphsurgeon would drop the casts."""
    proto = graphs.model(
        [
            node("Shape", ["x"], ["s"]),
            node("Cast", ["s"], ["f"], to=graphs.FLOAT),
            node("Mul", ["f", "half"], ["h"]),
            node("Cast", ["h"], ["i"], to=graphs.INT64),
            node("Expand", ["zero", "i"], ["y"]),
        ],
        [info("x", ("batch", "other"))],
        [info("y", ("b", "o"))],
        {"half": np.array([2.5, 0.5], np.float32), "zero": np.zeros((1, 1), np.float32)},
    )
    simplified(proto, tmp_path)


def test_quantizers_and_random_sources_are_not_folded(tmp_path: Path) -> None:
    proto = graphs.model(
        [
            node("DequantizeLinear", ["q", "step"], ["w"]),
            node("MatMul", ["x", "w"], ["m"]),
            node("RandomNormal", [], ["noise"], shape=[1]),
            node("Mul", ["noise", "none"], ["nothing"]),
            node("Add", ["m", "nothing"], ["y"]),
        ],
        [info("x", ("batch", 64))],
        [info("y", ("batch", 64))],
        {
            "q": np.arange(64 * 64, dtype=np.int64).reshape(64, 64).astype(np.int8),
            "step": np.array(0.01, np.float32),
            "none": np.zeros(1, np.float32),
        },
    )
    assert ops(simplified(proto, tmp_path)) == ["DequantizeLinear", "MatMul", "RandomNormal", "Mul", "Add"]


def test_stale_shapes_are_dropped_and_not_believed(tmp_path: Path) -> None:
    proto = through(
        node("MatMul", ["x", "w"], ["m"]),
        node("Shape", ["m"], ["s"]),
        node("Reshape", ["m", "s"], ["y"]),
        w=graphs.weights(64, 64),
    )
    proto.graph.value_info.append(info("m", (7, 64)))
    # The runtime does believe it, so that the original cannot run at any other size.
    model, one = load(graphs.saved(proto, tmp_path)), Simplify()
    result, _ = one.apply(model, one.propose(model, find_sites(model), Context()).edits)
    assert "Shape" in ops(result)
    save(result, tmp_path / "simple.onnx")
    assert not onnx.load(tmp_path / "simple.onnx").graph.value_info
    feeds = {"x": np.ones((3, 64), np.float32)}
    assert graphs.outputs_of(tmp_path / "simple.onnx", feeds)["y"].shape == (3, 64)


def test_bodies_keep_what_they_read_from_outside(tmp_path: Path) -> None:
    proto = graphs.branches()
    proto.graph.node.insert(0, node("Identity", ["x"], ["same"]))
    for attribute in proto.graph.node[1].attribute:
        attribute.g.node[0].input[0] = "same"
    result = simplified(proto, tmp_path)
    assert ops(result) == ["If", "MatMul"]
    assert sorted(tensor.name for tensor in constants(result.graph)) == ["v", "w"]


def test_the_change_counts_nodes_and_storage(tmp_path: Path) -> None:
    proto = through(
        node("Add", ["a", "a"], ["b"]), node("Add", ["x", "b"], ["y"]), a=np.ones(64, np.float32)
    )  # fmt: skip
    model, one = load(graphs.saved(proto, tmp_path)), Simplify()
    _, (change,) = one.apply(model, one.propose(model, find_sites(model), Context()).edits)
    assert change.site == "graph"
    assert change.what == "2 nodes became 1"
    assert (change.params_before, change.params_after) == (64, 64)
    assert (change.bytes_before, change.bytes_after) == (256, 256)
