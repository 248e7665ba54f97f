"""What a cut reports, what it refuses, and that it touches nothing else."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxprune.cut import count_parameters, remove_units
from onnxprune.errors import Declined
from tests.building import Net
from tests.equality import Traced, compare, cut


def two_linears() -> Net:
    net = Net()
    net.output(net.linear(net.op("Relu", net.linear(net.input("x", ["b", "s", 6]), 6, 7)), 7, 5))
    return net


def hidden(held: Traced) -> int:
    (dimension,) = held.dimensions.prunable
    return dimension.index


def test_a_cut_reports_the_numbers_that_go() -> None:
    held = two_linears().traced()
    # A unit is 6 + 1 + 5 numbers: a column, a bias, a row. Two units: 24.
    model, removed = cut(held, {hidden(held): [1, 4]})
    assert removed == 2 * (6 + 1 + 5)
    assert count_parameters(held.model.graph) - count_parameters(model.graph) == 24


@pytest.mark.parametrize(
    ("index", "units", "why"),
    [
        (99, [0], "there is no dimension 99; there are 3"),
        (1, [7], "dimension 1 has units 0 to 6, not 7"),
        (1, range(7), "dimension 1 would lose all of its 7 units"),
        (0, [0], "it is an axis of graph input 'x'"),
    ],
)
def test_a_cut_that_cannot_be_right_is_declined_before_anything_changes(index: int, units: list[int], why: str) -> None:
    held = two_linears().traced()
    model = held.model.copy()
    before = str(gs.export_onnx(model.graph))
    with pytest.raises(Declined) as refusal:
        remove_units(model.graph, held.dimensions, {index: units}, held.shapes)
    assert str(refusal.value) == why
    assert str(gs.export_onnx(model.graph)) == before


def test_dimensions_of_another_graph_are_declined() -> None:
    held, other = two_linears().traced(), Net()
    other.output(other.linear(other.input("x", ["b", 6]), 6, 5, bias=False))
    model = other.model()
    with pytest.raises(Declined, match="the dimensions belong to another graph"):
        remove_units(model.graph, held.dimensions, {1: [0]}, held.shapes)


def test_a_cut_of_a_copy_leaves_the_original_alone() -> None:
    held = two_linears().traced()
    before = str(gs.export_onnx(held.model.graph))
    cut(held, {hidden(held): [0]})
    assert str(gs.export_onnx(held.model.graph)) == before


def test_removing_nothing_changes_nothing() -> None:
    held = two_linears().traced()
    model, removed = cut(held, {hidden(held): []})
    assert removed == 0
    assert str(gs.export_onnx(model.graph)) == str(gs.export_onnx(held.model.graph))


def test_a_shape_constant_that_two_nodes_share_is_not_edited_in_place() -> None:
    """Both layers read one shape [0, 0, 4, 3]; only the first loses heads."""
    net = Net()
    x, shape, flat = net.input("x", ["b", "s", 6]), net.constant([0, 0, 4, 3]), net.constant([0, 0, 12])
    for _ in range(2):
        y = net.op("Reshape", net.linear(x, 6, 12), shape)
        x = net.linear(net.op("Reshape", net.op("Tanh", net.op("Mul", y, net.weight(4, 1))), flat), 12, 6)
        x = net.op("LayerNormalization", x, net.weight(6))
    net.output(net.linear(x, 6, 5))
    held = net.traced()
    first = held.dimensions.prunable[0]
    model, _ = cut(held, {first.index: [0]})
    shapes = [n.inputs[1].values.tolist() for n in model.graph.nodes if n.op == "Reshape"]
    assert shapes == [[0, 0, 3, 3], [0, 0, 9], [0, 0, 4, 3], [0, 0, 12]]


def test_the_comparison_fails_when_other_units_are_masked() -> None:
    """The check itself can fail: cut one unit, mask its neighbour."""
    from onnxprune.runtime import open_session
    from tests.equality import BOUND, masked, relative_error

    net = two_linears()
    held = net.traced()
    smaller, _ = cut(held, {hidden(held): [1]})
    feeds = net.checks()[0]
    wrong = open_session(masked(held, {hidden(held): [2]})).run(feeds)
    assert relative_error(open_session(smaller).run(feeds), wrong) > 100 * BOUND
    assert compare(held, {hidden(held): [1]}, [feeds])[0] <= BOUND


def test_a_nan_counts_as_an_infinite_error() -> None:
    from tests.equality import relative_error

    assert relative_error({"y": np.asarray([np.nan])}, {"y": np.asarray([1.0])}) == float("inf")


def test_bounds_behind_a_computation_on_constants_are_restated() -> None:
    """The axes of a Slice come out of a Cast; [first 3 | last 4] of 7 units, one unit cut of each part."""
    net = Net()
    y = net.linear(net.input("x", ["b", 6]), 6, 7)
    axes = net.op("Cast", net.constant(np.asarray([1], np.int32)), to=7)
    a = net.op("Slice", y, net.constant([0]), net.constant([3]), axes)
    b = net.op("Slice", y, net.constant([-4]), net.constant([2**62]), axes)
    net.output(net.op("Add", net.linear(a, 3, 5), net.linear(b, 4, 5)))
    held = net.traced()
    first, second = held.dimensions.prunable
    assert (first.units, second.units) == (3, 4)
    error, moved = compare(held, {first.index: [1], second.index: [0]}, net.checks())
    assert error <= 1e-5
    assert moved > 1e-5
