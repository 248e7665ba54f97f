"""Networks of one attention, in forms that exporters of models with heads of their own write."""

from __future__ import annotations

from collections.abc import Sequence

from tests.building import Net


def one_by_one(width: int, sizes: Sequence[int], *, einsum: bool = False) -> Net:
    """An input [b, s, width] through an attention whose heads are modules of their own, each of one of these sizes."""
    net = Net(seed=7)
    x = net.input("x", ["b", "s", width])
    contexts = []
    for size in sizes:
        q, k, v = (net.linear(x, width, size) for _ in range(3))
        if einsum:
            shares = net.op("Softmax", net.op("Einsum", q, k, equation="bqk,bsk->bqs"), axis=-1)
            contexts.append(net.op("Einsum", shares, v, equation="bqs,bsk->bqk"))
        else:
            shares = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
            contexts.append(net.op("MatMul", shares, v))
    net.output(net.linear(net.op("Concat", *contexts, axis=-1), sum(sizes), width))
    return net
