"""Heads are what has a product of activations of its own: with softmax or without, in one tensor or one by one."""

from __future__ import annotations

import pytest

from onnxprune.cut import remove_units
from tests.attentions import one_by_one
from tests.building import Net
from tests.equality import BOUND, compare

WIDTH, HEADS, SIZE = 24, 3, 8
EVEN = (SIZE,) * HEADS


def put_apart(net: Net, x: str) -> str:
    return str(net.op("Transpose", net.reshape(x, 0, 0, HEADS, SIZE), perm=[0, 2, 1, 3]))


def put_together(net: Net, x: str) -> str:
    return net.reshape(net.op("Transpose", x, perm=[0, 2, 1, 3]), 0, 0, WIDTH)


def linear_attention() -> Net:
    net = Net(seed=5)
    x = net.input("x", ["b", "s", WIDTH])
    q, k, v = (put_apart(net, net.linear(x, WIDTH, WIDTH)) for _ in range(3))
    state = net.op("MatMul", net.op("Transpose", net.op("Relu", k), perm=[0, 1, 3, 2]), v)
    net.output(net.linear(put_together(net, net.op("MatMul", net.op("Relu", q), state)), WIDTH, WIDTH))
    return net


def sigmoid_attention_by_einsum() -> Net:
    net = Net(seed=6)
    x = net.input("x", ["b", "s", WIDTH])
    q, k, v = (net.op("Einsum", x, net.weight(WIDTH, HEADS, SIZE), equation="bsd,dhk->bshk") for _ in range(3))
    shares = net.op("Sigmoid", net.op("Einsum", q, k, equation="bqhk,bshk->bhqs"))
    context = net.op("Einsum", shares, v, equation="bhqs,bshk->bqhk")
    net.output(net.op("Einsum", context, net.weight(HEADS, SIZE, WIDTH), equation="bqhk,hkd->bqd"))
    return net


@pytest.mark.parametrize(
    "net",
    [linear_attention(), sigmoid_attention_by_einsum(), one_by_one(WIDTH, EVEN), one_by_one(WIDTH, EVEN, einsum=True)],
    ids=["linear", "sigmoid", "one by one", "one by one, Einsum"],
)
@pytest.mark.parametrize("gone", [(0,), (1, 2)])
def test_heads_are_found_and_cut_exactly(net: Net, gone: tuple[int, ...]) -> None:
    held = net.traced()
    (heads,) = [each for each in held.dimensions.prunable if each.kind == "heads"]
    assert heads.units == HEADS
    error, moved = compare(held, {heads.index: gone}, net.checks())
    assert error <= BOUND
    assert moved > 0.01


def test_a_head_of_its_own_takes_its_projections_along() -> None:
    net = one_by_one(WIDTH, EVEN)
    held = net.traced()
    (heads,) = [each for each in held.dimensions.prunable if each.kind == "heads"]
    graph = held.model.copy().graph
    remove_units(graph, held.dimensions, {heads.index: (1,)}, held.shapes)
    graph.cleanup()
    # Three linears a head and the one behind them.
    assert sum(node.op == "MatMul" and len(node.inputs[1].shape or ()) == 2 for node in graph.nodes) == 2 * 3 + 1


def test_attentions_of_different_widths_are_no_heads_of_one() -> None:
    net = one_by_one(WIDTH, (8, 6, 4))
    held = net.traced()
    assert {each.kind for each in held.dimensions.prunable} == {"neurons", "widths"}
    error, moved = compare(held, {each.index: (0,) for each in held.dimensions.prunable}, net.checks())
    assert error <= BOUND
    assert moved > 0.01


def test_branches_without_attention_stay_neurons() -> None:
    net = Net(seed=8)
    x = net.input("x", ["b", "s", WIDTH])
    branches = [net.op("Relu", net.linear(x, WIDTH, SIZE)) for _ in range(3)]
    net.output(net.linear(net.op("Concat", *branches, axis=-1), 3 * SIZE, WIDTH))
    assert {each.kind for each in net.traced().dimensions.prunable} == {"neurons"}
