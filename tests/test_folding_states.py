"""Initial states of zeros are left out, and outputs stay what they were."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from onnxprune.folding import drop_zero_states
from onnxprune.model import Model
from onnxprune.runtime import open_session
from tests.building import Net

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def recurrent(kind: str, state: str, *, directions: int = 1) -> Net:
    """A recurrent operator over [s, b, 4] that begins with a state of a kind."""
    net, hidden = Net(opset=17), 5
    x = net.input("x", ("s", "b", 4))
    weights = [net.weight(directions, GATES[kind] * hidden, size) for size in (4, hidden)]
    bias = net.weight(directions, 2 * GATES[kind] * hidden)
    batch = net.op("Slice", net.op("Shape", x), net.constant([1]), net.constant([2]))
    shape = net.op("Concat", net.constant([directions]), batch, net.constant([hidden]), axis=0)
    zeros = net.op("ConstantOfShape", shape)
    begin = {
        "zeros": zeros,
        "viewed zeros": net.op("Slice", net.op("Expand", net.constant(np.zeros((), np.float32)), shape),
                               net.constant([0]), net.constant([directions]), net.constant([0])),
        "halves": net.op("Add", zeros, net.constant(np.float32(0.5))),
        "given": net.op("Expand", net.input("h", (1, 1, 1)), shape),
        "gated": net.op("Mul", zeros, net.op("Expand", net.constant(np.float32(2)), shape)),
    }[state]  # fmt: skip
    extra = {"direction": "bidirectional"} if directions == 2 else {}
    states = [begin] * (2 if kind == "LSTM" else 1)
    y, last = net.op(kind, x, *weights, bias, "", *states, outputs=2, hidden_size=hidden, **extra)
    net.output(y)
    net.output(last)
    return net


def dropped(net: Net) -> tuple[Model, int]:
    model = net.model()
    count = drop_zero_states(model.graph, model.overridable)
    model.graph.cleanup(remove_unused_graph_inputs=False)
    return model, count


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("state", ["zeros", "viewed zeros"])
@pytest.mark.parametrize("kind", GATES)
def test_zeros_are_what_an_absent_state_is(kind: str, state: str, directions: int) -> None:
    net = recurrent(kind, state, directions=directions)
    model, count = dropped(net)
    assert count == (2 if kind == "LSTM" else 1)
    assert [node.op for node in model.graph.nodes] == [kind]
    before, after = open_session(net.model()), open_session(model)
    for feeds in net.checks():
        got = after.run(feeds)
        for name, wanted in before.run(feeds).items():
            np.testing.assert_array_equal(got[name], wanted)


@pytest.mark.parametrize("state", ["halves", "given", "gated"])
def test_other_states_stay(state: str) -> None:
    """Of a product with zeros nothing is known: the other factor may be infinite."""
    assert dropped(recurrent("GRU", state))[1] == 0


def test_zeros_that_a_caller_may_replace_stay() -> None:
    net = recurrent("GRU", "viewed zeros")
    zero = next(tensor for tensor in net.initializers if not tensor.dims and tensor.data_type == TensorProto.FLOAT)
    net.input(zero.name, [])
    assert dropped(net)[1] == 0
