"""Shapes that are computed at every run."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.streamlining.targets import literal
from tests.building import Net
from tests.streamlining.rewriting import moved_by


def split_by_its_own_shape(net: Net, x: str) -> str:
    """As TorchScript writes it: every size is asked for, picked, made a list and joined."""
    shape = net.op("Shape", x)
    sizes = [
        net.op("Unsqueeze", net.op("Gather", shape, net.constant(np.int64(at))), net.constant([0])) for at in (0, 1)
    ]
    target = net.op("Concat", *sizes, net.constant([-1]), net.constant([4]), axis=0)
    return str(net.op("Reshape", x, target))


def test_a_target_that_copies_its_inputs_axes_becomes_a_literal() -> None:
    net = Net()
    net.output(split_by_its_own_shape(net, net.input("x", ("b", "s", 12))))
    done, left = moved_by(net, "shapes")
    assert done.places == 1
    assert left == {"Reshape": 1}


def test_sizes_of_another_tensor_of_the_same_shape_count_as_well() -> None:
    net = Net()
    x, ids = net.input("x", ("b", "s", 12)), net.input("ids", ("b", "s"), TensorProto.INT64)
    net.output(net.op("Reshape", x, net.op("Concat", net.op("Shape", ids), net.constant([-1, 3]), axis=0)))
    done, left = moved_by(net, "shapes")
    assert (done.places, left) == (1, {"Reshape": 1})


def test_a_target_that_a_caller_gives_stays() -> None:
    """Its values are no sizes, whatever they were in the runs that were seen."""
    net = Net()
    x, wide = net.input("x", ("b", "s", 12)), net.input("wide", (1,), TensorProto.INT64)
    target = net.op("Concat", net.constant([0, -1]), net.op("Add", wide, net.constant([1])), axis=0)
    net.output(net.op("Reshape", x, target))
    net.feeds = lambda sizes, seed=1: {  # type: ignore[method-assign]
        "x": np.full((sizes["b"], sizes["s"], 12), seed, np.float32), "wide": np.array([3])
    }  # fmt: skip
    done, left = moved_by(net, "shapes")
    assert (done.places, left["Concat"]) == (0, 1)


def test_shapes_that_data_make_stay() -> None:
    net = Net()
    flags = net.input("flags", ("b", "s"), TensorProto.INT64)
    found = net.op("NonZero", net.op("Add", net.op("Mul", flags, net.constant(np.int64(0))), net.constant(np.int64(1))))
    net.output(net.op("Reshape", found, net.op("Concat", net.op("Shape", found), net.constant([1]), axis=0)))
    done, _ = moved_by(net, "shapes")
    assert done.places == 0


def test_two_axes_that_no_literal_names_stay_computed() -> None:
    """Neither is an axis of the input, and only one may be -1."""
    assert literal([(6, 35), (10, 77)], [(2, 3, 5, 7), (2, 5, 7, 11)], [None] * 4) is None
    # 2 never changes; the second takes what is left.
    assert literal([(6, 35), (10, 77)], [(2, 105), (2, 385)], [None] * 2) == [2, -1]
    assert literal([(2, 8), (5, 8)], [(2, 4, 2), (5, 4, 2)], [None, -1, 2]) == [0, None, None]
