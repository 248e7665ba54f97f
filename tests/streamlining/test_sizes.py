"""Sizes are asked of the model's inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.building import Net
from tests.streamlining.rewriting import moved_by


def layers(count: int = 2, *, form: str = "Gather") -> Net:
    """Layers that view their own tensor as heads and back, by sizes that they ask it for."""
    net = Net()
    x = net.op("Relu", net.input("x", ("b", "s", 8)))
    for _ in range(count):
        shape = net.op("Shape", x)
        sizes = [picked(net, form, shape, axis) for axis in (0, 1)]
        heads = net.op("Reshape", x, net.op("Concat", *sizes, net.constant([2, 4]), axis=0))
        x = net.op("Sin", net.op("Reshape", heads, net.op("Concat", *sizes, net.constant([8]), axis=0)))
    net.output(x)
    return net


def picked(net: Net, form: str, shape: str, axis: int) -> str:
    if form == "Slice":
        return str(net.op("Slice", shape, net.constant([axis]), net.constant([axis + 1])))
    if form == "Squeeze":
        one = net.op("Squeeze", net.op("Slice", shape, net.constant([axis]), net.constant([axis + 1])))
        return str(net.op("Unsqueeze", one, net.constant([0])))
    return str(net.op("Gather", shape, net.constant([axis])))


@pytest.mark.parametrize("form", ["Gather", "Slice"])
def test_all_layers_ask_the_input(form: str) -> None:
    done, left = moved_by(layers(3, form=form), "sizes", tolerance=0)
    assert (done.places, left["Shape"]) == (6, 1)


def test_what_no_size_is_picked_from_is_left_alone() -> None:
    """A Squeeze of a part is not a Squeeze of a Shape."""
    done, left = moved_by(layers(1, form="Squeeze"), "sizes", tolerance=0)
    assert (done.places, left["Shape"]) == (2, 1)


def test_a_width_is_a_number() -> None:
    net = Net()
    x = net.op("MatMul", net.input("x", ("b", "s", 8)), net.weight(8, 6))
    width = net.op("Gather", net.op("Shape", x), net.constant(np.int64(2)))
    net.output(net.op("Mul", x, net.op("Cast", width, to=TensorProto.FLOAT)))
    done, left = moved_by(net, "sizes", tolerance=0)
    assert (done.places, left["Shape"]) == (1, 0)


def test_a_size_that_a_branch_hangs_on_stays() -> None:
    """The runtime would put the branch in place of the If, and ended the process over it (1.31, QDQ around it)."""
    net = Net()
    x = net.op("Relu", net.input("x", ("b", 3)))
    is_three = net.op(
        "Equal", net.op("Gather", net.op("Shape", x), net.constant(np.int64(1))), net.constant(np.int64(3))
    )
    bodies = [
        helper.make_graph(
            [helper.make_node(kind, [x], [f"{kind}.y"])], kind, [],
            [helper.make_tensor_value_info(f"{kind}.y", TensorProto.FLOAT, ["b", 3])],
        )
        for kind in ("Sin", "Cos")
    ]  # fmt: skip
    net.output(net.op("If", is_three, then_branch=bodies[0], else_branch=bodies[1]))
    assert moved_by(net, "sizes", tolerance=0)[0].places == 0


@pytest.mark.parametrize("way", ["pooled", "cut", "found", "asked of the input"])
def test_sizes_of_their_own_stay(way: str) -> None:
    """What is half as long, one shorter, or as long as values say; and what is asked of the input already."""
    net = Net()
    x = net.input("x", ("b", 2, "s"))
    if way == "pooled":
        y = net.op("MaxPool", x, kernel_shape=[2], strides=[2])
    elif way == "cut":
        y = net.op("Slice", x, net.constant([1]), net.constant([1000]), net.constant([2]))
    elif way == "found":
        y = net.op("Transpose", net.op("NonZero", x))
    else:
        y = x
    size = net.op("Gather", net.op("Shape", y), net.constant(np.int64(0 if way == "found" else 2)))
    net.output(net.op("Cast", size, to=TensorProto.FLOAT))
    assert moved_by(net, "sizes", tolerance=0)[0].places == 0


def test_inputs_of_other_lengths_are_not_taken_for_each_other() -> None:
    net = Net()
    x, y = net.input("x", ("b", "s")), net.op("Relu", net.input("y", ("t", "b")))
    sizes = [net.op("Gather", net.op("Shape", y), net.constant([axis])) for axis in (0, 1)]
    net.output(net.op("Expand", net.op("ReduceSum", x, keepdims=0), net.op("Concat", *sizes, axis=0)))
    done, left = moved_by(net, "sizes", tolerance=0)
    assert (done.places, left["Shape"]) == (2, 2)


def test_a_size_that_the_model_gives_out_stays() -> None:
    net = Net()
    net.output(net.op("Gather", net.op("Shape", net.op("Relu", net.input("x", ("b", "s")))), net.constant([1])))
    assert moved_by(net, "sizes", tolerance=0)[0].places == 0
