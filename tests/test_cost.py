"""Multiply-accumulates of a run."""

from __future__ import annotations

import pytest

from onnxprune.cost import macs
from onnxprune.inference import refresh_shapes
from onnxprune.runtime import observe_shapes
from onnxprune.streamlining import BY_NAME, Wish
from tests.building import Net


@pytest.mark.parametrize("flat", [True, False])
def test_attention_in_one_operator_multiplies_as_often_as_it_did_spelled_out(flat: bool) -> None:
    net = Net(opset=23)
    x = net.input("x", ("b", "s", 24))
    q, k, v = (net.op("Transpose", net.reshape(net.linear(x, 24, 24), 0, 0, 3, 8), perm=[0, 2, 1, 3]) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    out = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    net.output(net.reshape(net.op("Transpose", out, perm=[0, 2, 1, 3]), 0, 0, 24) if flat else out)
    model, feeds = net.model(), [net.feeds({"b": 2, "s": 5})]
    before = macs(model, {name: seen[0] for name, seen in observe_shapes(model, feeds).items()})
    refresh_shapes(model)
    assert BY_NAME["fused-attention"].carry_out(model, Wish()).places == 1
    model.graph.cleanup()
    after = macs(model, {name: seen[0] for name, seen in observe_shapes(model, feeds).items()})
    # Three linears of 2 · 5 · 24 · 24, and 2 · 3 · 5 · 5 scores over 8 each, and as many for the values.
    assert before == after == 3 * 5760 + 2 * 1200
