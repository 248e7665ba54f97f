"""Numbers that move into weights."""

from __future__ import annotations

import numpy as np

from onnxprune.graph import constants
from onnxprune.passes import SparseInt8
from onnxprune.protocol import Context
from onnxprune.sites import find_sites
from tests.building import Net
from tests.streamlining.rewriting import moved_by, rewritten


def attention(*, half: bool, gemm: bool = False) -> Net:
    """One head; its scale stands once behind the scores, or a root of it on queries and on keys."""
    net = Net()
    x = net.input("x", ("s", 16) if gemm else ("b", "s", 16))
    if gemm:
        q, k = (net.op("Gemm", x, net.weight(16, 16), net.weight(16), alpha=0.5) for _ in range(2))
    else:
        q, k = net.linear(x, 16, 16), net.linear(x, 16, 16)
    turned = net.op("Transpose", k, perm=[1, 0] if gemm else [0, 2, 1])
    if half:
        q, turned = (net.op("Mul", part, net.constant(np.float32(0.5))) for part in (q, turned))
    scores = net.op("MatMul", q, turned)
    net.output(net.op("Softmax", scores if half else net.op("Div", scores, net.constant(np.float32(4))), axis=-1))
    return net


def test_the_scale_of_scores_moves_into_one_projection() -> None:
    done, left = moved_by(attention(half=False), "scales")
    assert (done.places, done.kept, left["Div"]) == (1, (), 0)


def test_roots_on_queries_and_keys_move_into_both() -> None:
    done, left = moved_by(attention(half=True), "scales")
    assert (done.places, left["Mul"]) == (2, 0)


def test_a_gemm_takes_a_scale_as_an_attribute() -> None:
    done, left = moved_by(attention(half=True, gemm=True), "scales")
    assert (done.places, left["Mul"]) == (2, 0)


def test_a_weight_that_is_stored_in_integers_is_scaled_by_its_step() -> None:
    net = attention(half=True)
    model, one = net.model(), SparseInt8()
    small, _ = one.apply(model, one.propose(model, find_sites(model, None), Context()).edits)
    products = sum(node.op == "Mul" for node in small.graph.nodes)
    result, done = rewritten(net, small, "scales")
    assert done.places == 2
    assert sum(node.op == "Mul" for node in result.graph.nodes) == products - 2


def test_a_number_that_is_scaled_stays_an_array() -> None:
    """Two numbers behind what has no weights: the first takes the second."""
    net = Net()
    root = net.op("Mul", net.op("Sin", net.input("x", ("b", "s", 4))), net.constant(np.float32(0.5)))
    net.output(net.op("Tanh", net.op("Mul", root, net.constant(np.float32(0.25)))))
    result, done = rewritten(net, net.model(), "scales")
    assert done.places == 1
    assert [tensor.values.shape for tensor in constants(result.copy().graph)] == [()]


def test_weights_that_others_read_are_not_scaled() -> None:
    net = Net()
    x, w = net.input("x", ("b", "s", 16)), net.weight(16, 16)
    first, second = net.op("MatMul", x, w), net.op("MatMul", net.op("Relu", x), w)
    net.output(net.op("Concat", net.op("Mul", first, net.constant(np.float32(3))), second, axis=-1))
    done, left = moved_by(net, "scales")
    assert (done.places, left["Mul"]) == (0, 1)
    assert [why for _, why in done.kept] == ["a scale of 3 stays: what it scales does not come of weights of its own"]


def test_a_product_that_is_read_beside_its_scale_stays() -> None:
    net = Net()
    y = net.linear(net.input("x", ("b", "s", 16)), 16, 16)
    net.output(net.op("Add", y, net.op("Mul", y, net.constant(np.float32(2)))))
    assert moved_by(net, "scales")[0].places == 0


def test_a_scale_does_not_pass_a_bend() -> None:
    net = Net()
    y = net.op("Tanh", net.linear(net.input("x", ("b", "s", 16)), 16, 16))
    net.output(net.op("Mul", y, net.constant(np.float32(2))))
    assert moved_by(net, "scales")[0].places == 0


def test_a_scale_that_would_leave_a_half_precision_weight_stays() -> None:
    """60000 · 2 is beyond float16, whose greatest number is 65504."""
    net = Net()
    x = net.op("Cast", net.input("x", ("b", 2)), to=10)
    y = net.op("MatMul", x, net.constant(np.full((2, 2), 60000, np.float16)))
    net.output(net.op("Cast", net.op("Mul", y, net.constant(np.float16(2))), to=1))
    model = net.model()
    assert rewritten(net, model, "scales")[1].places == 0
