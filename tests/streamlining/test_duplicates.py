"""Operators that others equal."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tests.building import Net
from tests.streamlining.rewriting import moved_by


def test_a_mask_that_every_layer_makes_anew_is_made_once() -> None:
    net = Net()
    x, keep = net.input("x", ("b", "s")), net.input("m", ("b", "s"), TensorProto.INT64)
    for _ in range(3):
        flags = net.op("Cast", keep, to=TensorProto.BOOL)
        mask = net.op("Where", flags, net.constant(np.float32(0)), net.constant(np.float32(-1e4)))
        x = net.op("Softmax", net.op("Add", x, mask), axis=-1)
    net.output(x)
    done, left = moved_by(net, "duplicates")
    # Two layers made a Cast and a Where too many.
    assert done.places == 4
    assert (left["Cast"], left["Where"], left["Add"]) == (1, 1, 3)


def test_equal_operators_on_other_constants_or_with_other_attributes_stay() -> None:
    net = Net()
    x = net.input("x", ("b", "s"))
    parts = [net.op("Add", x, net.constant(np.float32(n))) for n in (1, 2)]
    parts += [net.op("Softmax", x, axis=axis) for axis in (0, 1)]
    net.output(net.op("Concat", *parts, axis=0))
    assert moved_by(net, "duplicates")[0].places == 0


def test_noise_is_drawn_as_often_as_before() -> None:
    net = Net()
    x = net.input("x", ("b", "s"))
    drawn = [net.op("Shape", net.op("RandomNormalLike", x)) for _ in range(2)]
    net.output(net.op("Add", *drawn))
    _, left = moved_by(net, "duplicates")
    assert left["RandomNormalLike"] == 2


def test_an_output_of_the_model_keeps_its_operator() -> None:
    net = Net()
    x = net.input("x", ("b", "s"))
    for _ in range(2):
        net.output(net.op("Relu", x))
    assert moved_by(net, "duplicates")[0].places == 0
