"""New nodes stand where their inputs are known; names and outputs of what they replace survive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxprune.model import Model, load
from onnxprune.rewrite import Rewriter, onnx_type, substitute
from tests import graphs


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Model:
    return load(graphs.saved(graphs.feed_forward(), tmp_path))


def ops(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def test_nodes_after_a_tensor_stand_right_behind_its_producer(model: Model) -> None:
    make = Rewriter(model.graph)
    tensors = model.graph.tensors()
    out = make.variable("u.abs")
    make.after(tensors["u"], [make.node("Abs", [tensors["u"]], [out])])
    second = make.variable("u.neg")
    # Behind a node that is not placed itself yet.
    make.after(out, [make.node("Neg", [out], [second])])
    first = make.variable("x.sign")
    make.after(tensors["x"], [make.node("Sign", [tensors["x"]], [first])])
    assert ops(model) == ["MatMul", "Add", "Relu", "MatMul", "Add"]
    make.finish()
    assert ops(model) == ["Sign", "MatMul", "Abs", "Neg", "Add", "Relu", "MatMul", "Add"]


def test_a_replacement_stands_in_the_old_place_and_gives_the_old_outputs(model: Model) -> None:
    make = Rewriter(model.graph)
    old = model.graph.nodes[2]
    middle, last = make.variable("r.low"), make.variable("r.high")
    new = [make.node("Neg", [old.inputs[0]], [middle]), make.node("Neg", [middle], [last])]
    make.replace(old, new)
    extra = make.variable("r.extra")
    make.after(model.graph.tensors()["r"], [make.node("Abs", [model.graph.tensors()["r"]], [extra])])
    make.finish()
    assert ops(model) == ["MatMul", "Add", "Neg", "Neg", "Abs", "MatMul", "Add"]
    assert new[1].outputs[0].name == "r"
    assert not old.inputs
    assert not old.outputs


def test_nodes_before_a_node_stand_in_front_of_it(model: Model) -> None:
    make = Rewriter(model.graph)
    out = make.variable("a")
    make.before(model.graph.nodes[3], [make.node("Abs", [model.graph.tensors()["r"]], [out])])
    make.finish()
    assert ops(model) == ["MatMul", "Add", "Relu", "Abs", "MatMul", "Add"]


def test_names_are_free_and_scalars_stay_scalars(model: Model) -> None:
    make = Rewriter(model.graph)
    assert make.variable("u").name == "u.1"
    assert make.constant("u", np.array(2.0)).name == "u.2"
    assert make.constant("s", np.array(2.0)).shape == ()
    turned = make.constant("t", np.ones((3, 2)).T)
    assert turned.values.flags.c_contiguous


def test_names_inside_bodies_are_taken_too(tmp_path: Path) -> None:
    make = Rewriter(load(graphs.saved(graphs.branches(), tmp_path)).graph)
    assert [make.variable(name).name for name in ("m", "then", "v")] == ["m.1", "then.1", "v.1"]


def test_equal_constants_of_one_name_are_shared(model: Model) -> None:
    make = Rewriter(model.graph)
    first = make.shared("s", np.ones(3, np.float32))
    assert make.shared("s", np.ones(3, np.float32)) is first
    others = [make.shared("s", np.zeros(3, np.float32)), make.shared("s", np.ones((3, 1), np.float32))]
    assert [tensor.name for tensor in others] == ["s.1", "s.2"]
    # Three vectors of three floats
    assert make.added_bytes == 36


def test_readers_can_be_moved_all_or_some(model: Model) -> None:
    tensors = model.graph.tensors()
    new = gs.Variable("new")
    other = gs.Node("Abs", inputs=[tensors["u"], tensors["u"]], outputs=[gs.Variable("abs")])
    substitute(tensors["u"], new, [other])
    assert [tensor.name for tensor in other.inputs] == ["new", "new"]
    assert model.graph.nodes[1].inputs[0].name == "u"
    substitute(tensors["u"], new)
    assert model.graph.nodes[1].inputs[0].name == "new"


def test_types_have_the_numbers_that_onnx_gives_them() -> None:
    assert [onnx_type(np.dtype(name)) for name in ("float32", "float16", "int8")] == [1, 10, 3]
