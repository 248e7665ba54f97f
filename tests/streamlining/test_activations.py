"""Cheaper activations."""

from __future__ import annotations

from collections import Counter
from math import erf

import numpy as np
import pytest
from onnx import TensorProto

from onnxprune.inference import refresh_shapes
from onnxprune.runtime import open_session
from onnxprune.streamlining.activations import BOUNDS, Form, approximate
from tests.building import Net


def spelled(net: Net, x: str, order: str) -> str:
    """A Gelu, x · (1 + erf(x / √2)) / 2, with its products in one of the orders that exporters write."""
    half = net.constant(np.float32(0.5))
    if order == "scaled":
        inner = net.op("Mul", x, net.constant(np.float32(0.70710678)))
    else:
        inner = net.op("Div", x, net.constant(np.float32(1.41421356)))
    one = net.op("Add", net.op("Erf", inner), net.constant(np.float32(1)))
    if order == "half first":
        return str(net.op("Mul", net.op("Mul", x, half), one))
    if order == "scaled":
        return str(net.op("Mul", x, net.op("Mul", one, half)))
    if order == "halved":
        return str(net.op("Div", net.op("Mul", x, one), net.constant(np.float32(2))))
    return str(net.op("Mul", net.op("Mul", x, one), half))


def net_of(order: str) -> Net:
    net = Net(opset=20 if order == "one" else 17)
    x = net.input("x", ("n",))
    net.output(net.op("Gelu", x) if order == "one" else spelled(net, x, order))
    return net


@pytest.mark.parametrize("form", list(BOUNDS))
@pytest.mark.parametrize("order", ["one", "half last", "half first", "scaled", "halved"])
def test_every_gelu_stays_within_the_stated_distance(order: str, form: Form) -> None:
    model = net_of(order).model()
    assert approximate(model, form) == 1
    assert not {node.op for node in model.graph.nodes} & {"Erf"}
    # Beyond 12 both are x or 0 to float rounding.
    x = np.linspace(-12, 12, 20001, dtype=np.float32)
    exact = np.array([0.5 * v * (1 + erf(v / 2**0.5)) for v in x.astype(np.float64)])
    moved = np.abs(open_session(model).run({"x": x})[model.graph.outputs[0].name] - exact).max()
    # The bound is tight: nothing smaller of two digits holds.
    assert 0.95 * BOUNDS[form] < moved <= BOUNDS[form]


def test_other_functions_of_erf_are_left_alone() -> None:
    net = Net()
    x, y = net.input("x", ("n",)), net.input("y", ("n",))
    one = net.constant(np.float32(1))
    net.output(net.op("Add", net.op("Erf", x), one))
    wide = net.op("Add", net.op("Erf", net.op("Div", x, net.constant(np.float32(2)))), one)
    net.output(net.op("Mul", net.op("Mul", x, wide), net.constant(np.float32(0.5))))
    gate = net.op("Add", net.op("Erf", net.op("Div", x, net.constant(np.float32(2**0.5)))), one)
    net.output(net.op("Mul", net.op("Mul", y, gate), net.constant(np.float32(0.5))))
    model = net.model()
    before = Counter(node.op for node in model.graph.nodes)
    assert approximate(model, "tanh") == 0
    assert Counter(node.op for node in model.graph.nodes) == before


def test_half_precision_stays_half_precision() -> None:
    net = Net(opset=20)
    x = net.op("Cast", net.input("x", ("n",)), to=TensorProto.FLOAT16)
    net.output(net.op("Cast", net.op("Gelu", x), to=TensorProto.FLOAT))
    model = net.model()
    refresh_shapes(model)
    assert approximate(model, "sigmoid") == 1
    got = open_session(model).run({"x": np.array([-1, 0, 2], np.float32)})
    np.testing.assert_allclose(got[model.graph.outputs[0].name], [-0.154, 0, 1.936], atol=2e-3)
