"""What tensors may hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxprune.runtime import observe
from onnxprune.streamlining.reach import Reach, anything, contracted, product, quotient, total, within
from onnxprune.streamlining.values import LARGEST_INPUT, Values
from tests.building import PROBES, Net

FLOAT32 = float(np.finfo(np.float32).max)
UNARY = ("Abs", "Neg", "Erf", "Gelu", "HardSwish", "Mish", "Relu", "Sigmoid", "Tanh", "Softmax", "Sqrt")
BINARY = ("Add", "Div", "Max", "Mul", "Sub")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_a_graph_computes_lies_within_its_reach(data: st.DataObject) -> None:
    net = Net(opset=22)
    x = net.input("x", ("b", "s", 4))
    held = [x]
    for _ in range(data.draw(st.integers(2, 7))):
        kind = data.draw(st.sampled_from([*UNARY, *BINARY, "linear", "norm", "guard", "clip", "cast", "quantize"]))
        one, other = (data.draw(st.sampled_from(held)) for _ in range(2))
        if kind == "linear":
            made = net.linear(one, 4, 4)
        elif kind == "norm":
            made = net.op("LayerNormalization", one, net.weight(4), net.weight(4), axis=-1)
        elif kind == "guard":
            made = net.op("Where", net.op("IsNaN", one), net.constant(np.float32(0)), one)
        elif kind == "clip":
            made = net.op("Clip", one, net.constant(np.float32(-2)), net.constant(np.float32(3)))
        elif kind == "cast":
            made = net.op("Cast", net.op("Cast", one, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)
        elif kind == "quantize":
            made = net.op("Cast", net.op("DynamicQuantizeLinear", one, outputs=3)[0], to=TensorProto.FLOAT)
        elif kind in BINARY:
            made = net.op(kind, one, other)
        else:
            made = net.op(kind, one)
        held.append(made)
    net.output(net.op("Identity", held[-1]))
    model = net.model()
    values = Values(model.graph, model.overridable)
    feeds = net.feeds(PROBES[0])
    feeds["x"] = (feeds["x"] * 10.0 ** data.draw(st.integers(-3, 5))).astype(np.float32)
    with np.errstate(all="ignore"):
        seen = observe(model, feeds, [name for name in held if name != "x"])
    tensors = model.graph.tensors()
    for name, array in seen.items():
        reach = values.of(tensors[name])
        finite = array[np.isfinite(array)].astype(np.float64)
        slack = 1e-3 * max(reach.size, 1e-6) if math.isfinite(reach.size) else 0
        assert finite.min(initial=math.inf) >= reach.low - slack
        assert finite.max(initial=-math.inf) <= reach.high + slack
        assert reach.nan or not np.isnan(array).any()
        assert reach.plus or not np.isposinf(array).any()
        assert reach.minus or not np.isneginf(array).any()


def test_what_is_beyond_the_type_becomes_infinite() -> None:
    assert within(-1, 7e4, limit=65504.0) == Reach(low=-1, high=65504.0, plus=True, limit=65504.0)
    # Half a step beyond the greatest number is still rounded down to it.
    assert within(-FLOAT32 - 1e20, 0).finite


def test_nothing_is_known_of_what_overflows_or_divides_by_zero() -> None:
    one, infinite = Reach(low=1, high=2), Reach(low=0, high=1, plus=True)
    assert product(one, infinite) == anything()
    assert quotient(one, Reach(low=-1, high=1)) == anything()
    assert contracted(one, infinite) == anything()
    # Infinity less infinity is no number.
    assert total(infinite, Reach(low=0, high=1, minus=True)).nan
    assert not total(infinite, one).nan


def test_shares_weigh_no_more_than_what_they_weigh() -> None:
    shares = Reach(low=0, high=1, shares=True)
    assert contracted(shares, Reach(low=-3, high=2)).high == pytest.approx(3 * 1.01)


def test_float_inputs_are_taken_to_be_moderate_and_said_so() -> None:
    net = Net()
    net.input("i", ("b",), TensorProto.INT64)
    net.output(net.op("Relu", net.input("x", ("b",))))
    values = Values(net.model().graph)
    assert values.inputs == {"x"}
    assert values.of(net.model().graph.inputs[1]) == anything()
    graph = net.model().graph
    assert Values(graph).of(graph.nodes[0].outputs[0]).high == LARGEST_INPUT
