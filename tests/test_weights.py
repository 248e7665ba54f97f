"""Weights are found through what exporters put in between, with everything that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.model import load
from onnxprune.weights import Weight, find_weights, seen_through
from tests import graphs
from tests.graphs import info, node


def weights_of(proto: onnx.ModelProto, folder: Path) -> tuple[Weight, ...]:
    model = load(graphs.saved(proto, folder))
    return find_weights(model.graph, model.overridable)


def viewed(
    *nodes: onnx.NodeProto, last: str, shape: tuple[int, ...] = (64, 32), **constants: graphs.Array
) -> onnx.ModelProto:
    """`x` times the weight `w` as `last` gives it."""
    product = node("MatMul", ["x", last], ["y"])
    tensors = {"w": graphs.weights(*shape)} | constants
    return graphs.model([*nodes, product], [info("x", ("batch", None))], [info("y", ("batch", None))], tensors)


@pytest.mark.parametrize(
    ("make", "roles"),
    [
        (graphs.matmul, [("w", ["linear"])]),
        (graphs.gemm, [("w", ["linear"])]),
        (graphs.convolution, [("w", ["conv"]), ("v", ["conv"])]),
        (graphs.transposed_convolution, [("w", ["conv"])]),
        (lambda: graphs.recurrent("GRU"), [("w", ["recurrent"]), ("r", ["recurrent"])]),
        (graphs.tied_embedding, [("table", ["embedding", "linear"])]),
        (graphs.reused, [("w", ["linear", "linear", "linear"])]),
        (graphs.overridable, [("closed", ["linear"])]),
    ],
)
def test_weights_stand_in_order_of_use_with_all_their_readers(
    make: graphs.Maker, roles: list[tuple[str, list[str]]], tmp_path: Path
) -> None:
    found = weights_of(make(), tmp_path)
    assert [(weight.constant.name, [use.role for use in weight.uses]) for weight in found] == roles
    assert all(not weight.others and not weight.given_out for weight in found)


@pytest.mark.parametrize(
    ("proto", "permutation"),
    [
        (viewed(last="w"), ()),
        (viewed(node("Identity", ["w"], ["i"]), last="i"), ()),
        (viewed(node("Transpose", ["w"], ["t"]), last="t"), (1, 0)),
        (viewed(node("Transpose", ["w"], ["t"], perm=[1, 0]), node("Transpose", ["t"], ["u"]), last="u"), (0, 1)),
        (viewed(node("Cast", ["w"], ["c"], to=10), last="c"), None),
        (viewed(node("Reshape", ["w", "to"], ["r"]), last="r", to=np.array([32, 64])), None),
    ],
)
def test_views_in_between_are_seen_through(
    proto: onnx.ModelProto, permutation: tuple[int, ...] | None, tmp_path: Path
) -> None:
    (weight,) = weights_of(proto, tmp_path)
    assert weight.uses[0].permutation == permutation
    assert not weight.others


def test_a_view_of_unknown_size_hides_a_weight(tmp_path: Path) -> None:
    proto = viewed(node("Shape", ["x"], ["s"]), node("Reshape", ["w", "s"], ["r"]), last="r")
    assert weights_of(proto, tmp_path) == ()


@pytest.mark.parametrize(
    ("nodes", "constants", "expected"),
    [
        ([node("Transpose", ["w"], ["y"], perm=[1, 0])], {}, lambda w: w.T),
        ([node("Cast", ["w"], ["y"], to=10)], {}, lambda w: w.astype(np.float16)),
        ([node("Reshape", ["w", "to"], ["y"])], {"to": np.array([0, 2, -1])}, lambda w: w.reshape(64, 2, 16)),
        ([node("Unsqueeze", ["w", "to"], ["y"])], {"to": np.array([0, 3])}, lambda w: w[None, :, :, None]),
        ([node("Identity", ["w"], ["y"])], {}, lambda w: w),
        (
            [node("Unsqueeze", ["w", "to"], ["u"]), node("Squeeze", ["u"], ["y"])],
            {"to": np.array([1])},
            lambda w: w,
        ),
    ],
)
def test_a_weight_seen_through_views_is_what_the_runtime_computes(
    nodes: list[onnx.NodeProto], constants: dict[str, graphs.Array], expected: graphs.Change, tmp_path: Path
) -> None:
    stored = graphs.weights(64, 32)
    kind = 10 if nodes[0].op_type == "Cast" else graphs.FLOAT
    proto = graphs.model(nodes, [], [info("y", None, kind)], {"w": stored} | constants)
    path = graphs.saved(proto, tmp_path)
    graph = load(path).graph
    constant = graph.nodes[0].inputs[0]
    seen = seen_through(constant, graph.nodes)
    np.testing.assert_array_equal(seen, expected(stored), strict=True)
    np.testing.assert_array_equal(seen, graphs.outputs_of(path, {})["y"], strict=True)


def test_other_readers_are_told_apart_even_on_the_same_node(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Gemm", ["x", "w", "w"], ["g"]), node("Add", ["g", "w"], ["y"])],
        [info("x", (64, 64))],
        [info("y", (64, 64)), info("w", (64, 64))],
        {"w": graphs.weights(64, 64)},
    )
    (weight,) = weights_of(proto, tmp_path)
    assert [use.slot for use in weight.uses] == [1]
    assert [reader.op for reader in weight.others] == ["Gemm", "Add"]
    assert weight.given_out


def test_readers_inside_bodies_count_in_copies_too(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.branches(), tmp_path))
    for graph in (model.graph, model.copy().graph, model.copy().copy().graph):
        (weight,) = find_weights(graph)
        assert [use.name for use in weight.uses] == ["y"]
        assert sorted(reader.outputs[0].name for reader in weight.others) == ["else", "then"]


def test_vectors_and_integers_are_no_weights(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("MatMul", ["x", "v"], ["a"]), node("Gather", ["ids", "one"], ["b"])],
        [info("x", ("batch", 64)), info("one", (1,), graphs.INT64)],
        [info("a", ("batch",)), info("b", (1, 4), graphs.INT64)],
        {"v": graphs.weights(64), "ids": np.arange(8).reshape(2, 4)},
    )
    assert weights_of(proto, tmp_path) == ()
