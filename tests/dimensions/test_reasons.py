"""Why an axis cannot be cut, word for word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxprune.dimensions import trace
from tests.building import Net


def between(*steps: tuple[str, dict[str, Any]], extra: Callable[[Net], list[str]] | None = None) -> Net:
    """[b, s, 6] -> 7 units -> some operators -> 5 outputs."""
    net = Net()
    y = net.linear(net.input("x", ["b", "s", 6]), 6, 7, bias=False)
    for kind, attributes in steps:
        y = net.op(kind, y, *(extra(net) if extra else []), **attributes)
    net.output(net.linear(y, 7, 5, bias=False))
    return net


def mean(net: Net) -> Net:
    y = net.linear(net.input("x", ["b", "s", 6]), 6, 7, bias=False)
    y = net.op("Sub", y, net.op("ReduceMean", y, net.constant([2])))
    net.output(net.linear(y, 7, 5, bias=False))
    return net


def looked_up(net: Net) -> Net:
    y = net.linear(net.input("x", ["b", "s", 6]), 6, 7, bias=False)
    net.output(net.op("Gather", y, net.input("at", [2], 7), axis=2))
    return net


def grouped_twice(net: Net) -> Net:
    """12 units as 3 x 4, swapped to 4 x 3, then as 6 x 2: a boundary after 4 and one after 6 do not nest."""
    y = net.linear(net.input("x", ["b", 6]), 6, 12, bias=False)
    y = net.op("Transpose", net.reshape(y, -1, 3, 4), perm=[0, 2, 1])
    y = net.op("ReduceSum", net.op("Softmax", net.reshape(y, -1, 6, 2), axis=2), net.constant([2]), keepdims=0)
    net.output(net.linear(y, 6, 5, bias=False))
    return net


def conditional(net: Net) -> Net:
    from onnx import helper

    y = net.linear(net.input("x", ["b", "s", 6]), 6, 7, bias=False)
    bodies = {
        name: helper.make_graph(
            [helper.make_node(op, [y], [name])], name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    net.output(net.op("If", net.op("Cast", net.input("c", [1], 7), to=9), **bodies))
    return net


def out_of_tables(net: Net) -> Net:
    y = net.linear(net.input("x", ["b", "s", 6]), 6, 7, bias=False)
    y = net.op("Det", net.op("MatMul", net.op("Transpose", y, perm=[0, 2, 1]), y))
    net.output(y)
    return net


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (between(("Softmax", {"axis": -1})), "Softmax 'n1' normalises over it"),
        (mean(Net()), "ReduceMean 'n1' reduces over it"),
        (looked_up(Net()), "Gather 'n1' picks from it by index"),
        (grouped_twice(Net()), "Reshape 'n3' mixes it with its neighbours"),
        (conditional(Net()), "a body of If 'n2' reads it"),
        (out_of_tables(Net()), "operator 'Det' is not traced"),
        (between(("CumSum", {}), extra=lambda net: [net.constant(np.int64(2))]), "CumSum 'n1' runs along it"),
        (between(("Trilu", {})), "Trilu 'n1' compares its positions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pinned_unit_says_why(net: Net, why: str) -> None:
    pinned = [each for each in net.traced().dimensions.all if each.producers and each.units in {7, 3, 4, 12, 2}]
    assert pinned
    assert all(each.pinned for each in pinned)
    assert any(why in each.pinned for each in pinned), [each.pinned for each in pinned]


def test_the_table_names_each_stored_axis_once_with_its_first_reason() -> None:
    net = between(("Softmax", {"axis": -1}))
    pins = {(pin.tensor, pin.axis): pin.why for pin in net.traced().dimensions.pinned}
    assert pins == {
        ("c0", 0): "it is an axis of graph input 'x'",
        ("c0", 1): "Softmax 'n1' normalises over it",
        ("c1", 0): "Softmax 'n1' normalises over it",
        ("c1", 1): "it is an axis of graph output 'matmul2'",
    }


def test_an_initializer_that_is_an_input_too_is_no_constant() -> None:
    held = between(("Relu", {})).traced()
    found = trace(held.model.graph, held.shapes, overridable=frozenset({"c0"}))
    assert not found.prunable
    assert "initializer 'c0' is a graph input too" in found.all[0].pinned


def test_a_tensor_without_an_observed_shape_is_pinned() -> None:
    held = between(("Relu", {})).traced()
    shapes = {name: shape for name, shape in held.shapes.items() if name != "relu1"}
    found = trace(held.model.graph, shapes)
    assert not found.prunable
    assert any("the shape of 'relu1' was not observed" in each.pinned for each in found.all)


def test_tracing_leaves_the_graph_as_it_was() -> None:
    held = between(("Relu", {})).traced()
    before = str(gs.export_onnx(held.model.graph))
    trace(held.model.graph, held.shapes)
    assert str(gs.export_onnx(held.model.graph)) == before
