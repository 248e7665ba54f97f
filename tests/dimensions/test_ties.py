"""Tensors that several nodes read: when the readers are cut together, and when each takes its own slice."""

from __future__ import annotations

import numpy as np

from tests.building import Net
from tests.equality import BOUND, Traced, compare, cut


def attention(net: Net, x: str, bias: str = "", merged: bool = False, weights: list[str] | None = None) -> str:
    """4 heads of width 3 on [b, s, 6]; `bias` is added to the scores, [1, 4, s, s] or, merged, [b·4, s, s]."""
    shared = weights or [net.weight(6, 12) for _ in range(3)]
    parts = [net.op("Transpose", net.reshape(net.op("MatMul", x, w), 0, 0, 4, 3), perm=[0, 2, 1, 3]) for w in shared]
    q, k, v = parts
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    if merged:
        four = net.op("Shape", scores)
        tail = net.op("Slice", four, net.constant([2]), net.constant([4]))
        three = net.op("Concat", net.constant([-1]), tail, axis=0)
        scores = net.op("Reshape", net.op("Add", net.op("Reshape", scores, three), bias), four)
    elif bias:
        scores = net.op("Add", scores, bias)
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, 12)
    return str(net.op("Add", x, net.op("MatMul", y, net.weight(12, 6))))


def normalised(net: Net, x: str) -> str:
    return str(net.op("LayerNormalization", x, net.weight(6), net.weight(6)))


def heads(held: Traced) -> list[int]:
    return [each.index for each in held.dimensions.prunable if each.kind == "heads"]


def assert_cut_apart(net: Net) -> None:
    """Head 1 of the first layer and heads 0, 2 of the second."""
    held = net.traced()
    first, second = heads(held)
    error, moved = compare(held, {first: [1], second: [0, 2]}, net.checks())
    assert error <= BOUND
    assert moved > BOUND


def test_a_shared_position_bias_leaves_each_layer_its_own_heads() -> None:
    """As in T5: a table [7, 4] read by distance once, added in both layers."""
    net = Net()
    x = net.input("x", ["b", 5, 6])
    distance = net.op("Relu", net.input("distance", [5, 5], 7))
    bias = net.op("Transpose", net.op("Gather", net.weight(7, 4), distance), perm=[2, 0, 1])
    bias = net.op("Unsqueeze", bias, net.constant([0]))
    for _ in range(2):
        x = attention(net, normalised(net, x), bias)
    net.output(net.linear(x, 6, 5))
    assert_cut_apart(net)


def test_a_bias_merged_with_the_batch_is_sliced_between_its_factors() -> None:
    """As in BLOOM: slopes [4] x positions, tiled to [b·4, 1, s]."""
    net = Net()
    x = net.input("x", ["b", "s", 6])
    batch = net.op("Shape", x, start=0, end=1)
    length = net.op("Shape", x, start=1, end=2)
    slopes = net.op("Expand", net.weight(1, 4, 1), net.op("Concat", batch, net.constant([4]), length, axis=0))
    target = net.op("Concat", net.constant([-1, 1]), length, axis=0)
    bias = net.op("Reshape", slopes, target)
    for _ in range(2):
        x = attention(net, normalised(net, x), bias, merged=True)
    net.output(net.linear(x, 6, 5))
    assert_cut_apart(net)


def test_a_shared_constant_is_sliced_for_each_reader() -> None:
    """As exporters store a zero bias: one vector for both hidden layers and for the stream."""
    net = Net()
    x, shared = net.input("x", ["b", 6]), net.weight(6)
    y = net.op("Relu", net.op("Add", net.op("MatMul", x, net.weight(6, 6)), shared))
    y = net.op("Relu", net.op("Add", net.op("MatMul", y, net.weight(6, 6)), shared))
    y = net.op("LayerNormalization", net.op("Add", net.op("MatMul", y, net.weight(6, 6)), shared), net.weight(6))
    net.output(net.linear(y, 6, 5))
    held = net.traced()
    first, second = (each.index for each in held.dimensions.prunable)
    error, _ = compare(held, {first: [0, 1], second: [5]}, net.checks())
    assert error <= BOUND
    # Weights: 6·4 + 4·5 + 5·6 stay of 3·36; the norm reads the shared vector whole, so 4 and 5 are added.
    _, removed = cut(held, {first: [0, 1], second: [5]})
    assert removed == 3 * 36 - (24 + 20 + 30) - (4 + 5)


def test_layers_on_one_weight_set_are_cut_together() -> None:
    """As in ALBERT."""
    net = Net()
    x, weights = net.input("x", ["b", "s", 6]), [net.weight(6, 12) for _ in range(3)]
    for _ in range(2):
        x = attention(net, normalised(net, x), weights=weights)
    net.output(net.linear(x, 6, 5))
    held = net.traced()
    (only,) = heads(held)
    assert len(held.dimensions.all[only].consumers) == 2
    error, moved = compare(held, {only: [0, 3]}, net.checks())
    assert error <= BOUND
    assert moved > BOUND


def test_an_embedding_that_is_the_output_layer_too_is_never_divided() -> None:
    """The hidden width would be free behind the embedding; the table ties it to the last product."""
    net = Net()
    table = net.weight(9, 6)
    y = net.op("Gather", table, net.input("tokens", ["b", "s"], 7))
    y = net.op("Tanh", net.op("MatMul", y, net.weight(6, 6)))
    net.output(net.op("MatMul", y, net.op("Transpose", table, perm=[1, 0])))
    held = net.traced()
    assert [(each.kind, each.units) for each in held.dimensions.prunable] == [("neurons", 6)]
    (only,) = held.dimensions.prunable
    assert {member.tensor for member in only.members if member.constant} == {"c0", "c1"}
    error, _ = compare(held, {only.index: [2, 3]}, net.checks())
    assert error <= BOUND


def cached() -> Net:
    """One attention whose keys and values are appended to a cache that the graph reads and gives out."""
    net = Net()
    x = net.input("x", ["b", "s", 6])
    q, k, v = (net.op("Transpose", net.reshape(net.linear(x, 6, 12), 0, 0, 4, 3), perm=[0, 2, 1, 3]) for _ in range(3))
    k, v = (
        net.op("Concat", net.input(name, ["b", 4, "t", 3]), new, axis=2) for name, new in (("past_k", k), ("past_v", v))
    )
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    net.output(net.linear(net.reshape(y, 0, 0, 12), 12, 5))
    net.output(k)
    net.output(v)
    return net


def test_the_heads_of_a_cache_are_pinned_by_the_interface() -> None:
    held = cached().traced()
    assert heads(held) == []
    reasons = {why for each in held.dimensions.all if each.kind == "heads" for why in each.pinned}
    assert "it is an axis of graph input 'past_k'" in reasons


def test_the_heads_of_a_cache_can_be_cut_on_request_and_are_reported() -> None:
    from onnxprune.cut import remove_units
    from onnxprune.runtime import open_session

    net = cached()
    held = net.traced(cut_interface=True)
    (only,) = heads(held)
    model = held.model.copy()
    report = remove_units(model.graph, held.dimensions, {only: [1]}, held.shapes)
    assert [(each.tensor, each.axis, each.before, each.after) for each in report.interface] == [
        ("past_k", 1, 4, 3),
        ("past_v", 1, 4, 3),
        (net.outputs[1], 1, 4, 3),
        (net.outputs[2], 1, 4, 3),
    ]
    (feeds, _) = net.checks()
    kept = [0, 2, 3]
    smaller = {name: value if name == "x" else value[:, kept] for name, value in feeds.items()}
    whole, part = open_session(held.model).run(feeds), open_session(model).run(smaller)
    for name in net.outputs[1:]:
        np.testing.assert_allclose(part[name], whole[name][:, kept], rtol=1e-5, atol=1e-6)
