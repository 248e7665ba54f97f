"""Fused attention: heads are tied by the operator's attributes instead of by the data flow.

Query heads are key-value groups x heads per group. The width of queries and keys sets the default scale, so it is
pinned.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, is_one
from onnxprune.dimensions.tracer import Axes, Tracer, label


@dataclass(frozen=True)
class Heads:
    """The factors inside one attention: groups of key-value heads, query heads in each, widths."""

    groups: Factor
    queries: Factor
    width: Factor
    value_width: Factor


def _heads(t: Tracer, node: gs.Node, query_heads: int, groups: int, width: int, value_width: int) -> Heads:
    sizes = (groups, query_heads // groups, width, value_width)
    heads = Heads(*(t.forest.leaf((size,) * t.runs) for size in sizes))
    t.batches.append((_all_queries(t, heads), node.op))
    t.pin(heads.width, f"{label(node)} derives its scale from it")
    return heads


def _all_queries(t: Tracer, heads: Heads) -> Factor:
    return t.forest.product([heads.groups, heads.queries])


def _packed(t: Tracer, axes: Axes, parts: list[Factor]) -> None:
    """[batch, sequence, heads x width] or [batch, heads, sequence, width]."""
    if len(axes) == 3:
        t.unite(axes[2], t.forest.product(parts))
    elif len(axes) == 4:
        t.unite(axes[1], t.forest.product(parts[:-1]))
        t.unite(axes[3], parts[-1])


def _positions(t: Tracer, node: gs.Node, axes: Axes) -> None:
    """Pin the sequence axis of [batch, sequence, hidden] or [batch, heads, sequence, width]."""
    if len(axes) in {3, 4}:
        t.pin(axes[1 if len(axes) == 3 else 2], f"{label(node)} normalises over it")


def _score_bias(t: Tracer, node: gs.Node, index: int, heads: Heads, batch: Factor) -> None:
    """A mask or bias [batch or 1, heads or 1, queries, keys], leading axes perhaps left out."""
    axes = t.input(node, index)
    for factor in axes[-2:]:
        t.pin(factor, f"{label(node)} normalises over it")
    if len(axes) > 2 and not is_one(axes[-3].size):
        t.unite(axes[-3], _all_queries(t, heads))
    if len(axes) > 3 and not is_one(axes[-4].size):
        t.unite(axes[-4], batch)


def _cache(t: Tracer, node: gs.Node, axes: Axes, heads: Heads, width: Factor) -> None:
    """A past or present state [batch, groups, positions, width]."""
    if len(axes) == 4:
        if not is_one(axes[1].size):
            t.unite(axes[1], heads.groups)
        t.pin(axes[2], f"{label(node)} normalises over it")
        if not is_one(axes[3].size):
            t.unite(axes[3], width)


def attention(t: Tracer, node: gs.Node) -> None:
    """Attention of opset 23 on: Q, K, V, mask, past key, past value, length of the unpadded keys."""
    query, key, value, output = (*(t.input(node, index) for index in range(3)), t.output(node))
    if len(query) == 3:
        counts = int(node.attrs["q_num_heads"]), int(node.attrs["kv_num_heads"])
        widths = query[2].size[0] // counts[0], value[2].size[0] // counts[1]
    else:
        counts = query[1].size[0], key[1].size[0]
        widths = query[3].size[0], value[3].size[0]
    heads = _heads(t, node, *counts, *widths)
    for axes, parts in (
        (query, [heads.groups, heads.queries, heads.width]),
        (key, [heads.groups, heads.width]),
        (value, [heads.groups, heads.value_width]),
        (output, [heads.groups, heads.queries, heads.value_width]),
    ):
        _packed(t, axes, parts)
        _positions(t, node, axes)
        t.unite(axes[0], query[0])
    if len(query) == 3:
        t.attribute(node, "q_num_heads", _all_queries(t, heads))
        t.attribute(node, "kv_num_heads", heads.groups)
    _score_bias(t, node, 3, heads, query[0])
    for index, width in ((4, heads.width), (5, heads.value_width)):
        _cache(t, node, t.input(node, index), heads, width)
    for factor in t.input(node, 6):
        t.pin(factor, f"{label(node)} reads lengths from it")
    for index, width in ((1, heads.width), (2, heads.value_width)):
        _cache(t, node, t.output(node, index), heads, width)
    scores = t.output(node, 3)
    if scores:
        t.unite(scores[1], _all_queries(t, heads))
        for factor in scores[2:]:
            t.pin(factor, f"{label(node)} normalises over it")


def merged_attention(t: Tracer, node: gs.Node) -> None:
    """Attention of com.microsoft: one weight [hidden, q + k + v], each third heads x width."""
    data, weight, output = t.input(node, 0), t.input(node, 1), t.output(node)
    count = int(node.attrs["num_heads"])
    sizes = [int(n) for n in node.attrs.get("qkv_hidden_sizes") or [weight[1].size[0] // 3] * 3]
    heads = _heads(t, node, count, count, sizes[0] // count, sizes[2] // count)
    t.pin(heads.value_width, f"{label(node)} derives its scale from it")
    thirds = [t.forest.product([heads.groups, w]) for w in (heads.width, heads.width, heads.value_width)]
    t.unite(weight[1], t.forest.sum(thirds))
    t.unite(data[2], weight[0])
    t.consume(node, 0, 2, (1, 0))
    t.produce(node, 1, 1)
    for factor in t.input(node, 2):
        t.unite(factor, weight[1])
    t.unite(data[0], output[0])
    t.unite(output[2], thirds[2])
    for factor in (data[1], output[1], *t.input(node, 3)):
        t.pin(factor, f"{label(node)} normalises over it")
    _score_bias(t, node, 5, heads, data[0])
    for state in (t.input(node, 4), t.output(node, 1)):
        _cache(t, node, state[1:], heads, heads.width)
    t.attribute(node, "num_heads", heads.groups)
    t.attribute(node, "qkv_hidden_sizes", *thirds, many=True)


def multi_head_attention(t: Tracer, node: gs.Node) -> None:
    """MultiHeadAttention of com.microsoft: separate, or packed [.., heads, 3, width] and [.., heads, 2, width]."""
    query, key, value, output = (*(t.input(node, index) for index in range(3)), t.output(node))
    count = int(node.attrs["num_heads"])
    width = query[-1].size[0] // (1 if len(query) == 5 else count)
    value_width = output[2].size[0] // count
    heads = _heads(t, node, count, count, width, value_width)
    for axes in (query, key):
        if len(axes) == 5:
            t.unite(axes[2], heads.groups)
            t.unite(axes[4], heads.width)
            t.unite(heads.width, heads.value_width)
            for factor in (axes[1], axes[3]):
                t.pin(factor, f"{label(node)} normalises over it")
    for axes, last in (
        (query, heads.width),
        (key, heads.width),
        (value, heads.value_width),
        (output, heads.value_width),
    ):
        _packed(t, axes, [heads.groups, last])
        _positions(t, node, axes)
        if axes:
            t.unite(axes[0], query[0])
    thirds = [t.forest.product([heads.groups, w]) for w in (heads.width, heads.width, heads.value_width)]
    for factor in t.input(node, 3):
        t.unite(factor, t.forest.sum(thirds))
    for index in (4, 8, 9):
        for factor in t.input(node, index):
            t.pin(factor, f"{label(node)} reads a mask from it")
    _score_bias(t, node, 5, heads, query[0])
    for state, last in (
        (t.input(node, 6), heads.width),
        (t.input(node, 7), heads.value_width),
        (t.output(node, 1), heads.width),
        (t.output(node, 2), heads.value_width),
    ):
        _cache(t, node, state, heads, last)
    t.attribute(node, "num_heads", heads.groups)


def group_query_attention(t: Tracer, node: gs.Node) -> None:
    """GroupQueryAttention of com.microsoft: query, key, value, or all packed into the first."""
    query, key, value, output = (*(t.input(node, index) for index in range(3)), t.output(node))
    counts = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    width = output[2].size[0] // counts[0]
    heads = _heads(t, node, *counts, width, width)
    t.pin(heads.value_width, f"{label(node)} derives its scale from it")
    of_query = t.forest.product([heads.groups, heads.queries, heads.width])
    of_key = t.forest.product([heads.groups, heads.width])
    of_value = t.forest.product([heads.groups, heads.value_width])
    if key:
        for axes, whole in ((query, of_query), (key, of_key), (value, of_value)):
            t.unite(axes[2], whole)
    else:
        t.unite(query[2], t.forest.sum([of_query, of_key, of_value]))
    t.unite(output[2], t.forest.product([heads.groups, heads.queries, heads.value_width]))
    for axes in (query, key, value, output):
        if axes:
            t.unite(axes[0], query[0])
            t.pin(axes[1], f"{label(node)} normalises over it")
    for state, last in (
        (t.input(node, 3), heads.width),
        (t.input(node, 4), heads.value_width),
        (t.output(node, 1), heads.width),
        (t.output(node, 2), heads.value_width),
    ):
        _cache(t, node, state, heads, last)
    for index in (5, 6, 7, 8, 9):
        for factor in t.input(node, index):
            t.pin(factor, f"{label(node)} reads positions from it")
    _score_bias(t, node, 10, heads, query[0])
    for factor in t.input(node, 11):
        t.unite(factor, _all_queries(t, heads))
    t.attribute(node, "num_heads", _all_queries(t, heads))
    t.attribute(node, "kv_num_heads", heads.groups)


def rotary(t: Tracer, node: gs.Node) -> None:
    """RotaryEmbedding, standard and of com.microsoft: heads pass, their width is pinned."""
    axes, output = t.input(node, 0), t.output(node)
    t.unite_all(axes, output)
    why = f"{label(node)} rotates it by position"
    for index in (1, 2, 3):
        for factor in t.input(node, index):
            t.pin(factor, why)
    if len(axes) == 4:
        t.pin(axes[2], why)
        t.pin(axes[3], why)
        return
    t.pin(axes[1], why)
    count = int(node.attrs.get("num_heads", 0))
    if not count:  # com.microsoft: a full rotation takes the width from the caches
        cache = t.input(node, 2)[-1].size[0] * 2
        count = axes[2].size[0] // cache
        heads, width = t.forest.split_product(axes[2], [(count,) * t.runs, (cache,) * t.runs])
    else:
        heads, width = t.forest.split_product(axes[2], [(count,) * t.runs, tuple(n // count for n in axes[2].size)])
        t.attribute(node, "num_heads", heads)
    t.pin(width, why)
