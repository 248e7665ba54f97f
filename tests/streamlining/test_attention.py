"""Attention as one operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxprune.inference import refresh_shapes
from onnxprune.streamlining import BY_NAME, Done, Wish
from tests.building import Net
from tests.streamlining.rewriting import moved_by

LOWEST = float(np.finfo(np.float32).min)
HEADS, SIZE = 3, 8
WIDTH = HEADS * SIZE


def attention(
    *,
    mask: str = "none",
    scaled: str = "scores",
    key: str = "once",
    reshape: tuple[int, ...] = (0, 0, HEADS, SIZE),
    guard: bool = False,
    divided: bool = False,
    value: float = SIZE**-0.5,
    shown: bool = False,
    axis: int = -1,
    opset: int = 18,
    keys: int = HEADS,
    asked: bool = False,
) -> Net:
    """Self-attention between two linears, in one of the forms that exporters write."""
    net = Net(opset=opset)
    x = net.op("LayerNormalization", net.input("x", ("b", "s", WIDTH)), net.weight(WIDTH), net.weight(WIDTH), axis=-1)
    q = net.op("Transpose", net.reshape(net.linear(x, WIDTH, WIDTH), *reshape), perm=[0, 2, 1, 3])
    ks = net.reshape(net.linear(x, WIDTH, keys * SIZE), 0, 0, keys, SIZE)
    if key == "once":
        k = net.op("Transpose", ks, perm=[0, 2, 3, 1])
    else:
        k = net.op("Transpose", net.op("Transpose", ks, perm=[0, 2, 1, 3]), perm=[0, 1, 3, 2])
    v = net.op("Transpose", net.reshape(net.linear(x, WIDTH, keys * SIZE), 0, 0, keys, SIZE), perm=[0, 2, 1, 3])
    if scaled == "both":
        root = net.constant(np.float32(value**0.5))
        q, k = net.op("Mul", q, root), net.op("Mul", k, root)
    scores = net.op("MatMul", q, k)
    if scaled == "scores":
        number = net.constant(np.float32(1 / value if divided else value))
        scores = net.op("Div" if divided else "Mul", scores, number)
    if mask != "none":
        rows = 1 if mask.endswith("keys") else "s"
        keep = net.op("Cast", net.input("m", ("b", 1, rows, "s"), TensorProto.INT64), to=TensorProto.BOOL)
        fill = net.constant(np.float32(-np.inf if mask.startswith("inf") else LOWEST))
        scores = net.op("Add", scores, net.op("Where", keep, net.constant(np.float32(0)), fill))
    shares = net.op("Softmax", scores, axis=axis)
    if shown:
        net.output(shares)
    if guard:
        shares = net.op("Where", net.op("IsNaN", shares), net.constant(np.float32(0)), shares)
    out = net.op("MatMul", shares, v)
    if asked:
        # Reshaped to its own sizes, which are asked of itself.
        sizes = net.op("Shape", out)
        length = net.op("Gather", sizes, net.constant([2]))
        target = net.op("Concat", net.constant([0]), net.constant([-1]), length, net.constant([SIZE]), axis=0)
        out = net.op("Reshape", out, target)
        net.output(net.op("Gather", sizes, net.constant([0, 1, 2, 3])))
    out = net.op("Transpose", out, perm=[0, 2, 1, 3])
    net.output(net.linear(net.reshape(out, 0, 0, WIDTH), WIDTH, WIDTH))
    return with_blank_rows(net) if mask != "none" else net


def with_blank_rows(net: Net) -> Net:
    """The checks, with one sample that attends to nothing and one that attends to the first entry alone."""
    feeds = net.checks()
    for one in feeds:
        one["m"][0] = 0
        one["m"][-1] = 0
        one["m"][-1, ..., :1] = 1
    net.checks = lambda: feeds  # type: ignore[method-assign]
    return net


def reason(net: Net) -> Done:
    model = net.model()
    refresh_shapes(model)
    return BY_NAME["fused-attention"].carry_out(model, Wish())


@settings(max_examples=12, deadline=None)
@given(
    mask=st.sampled_from(["none", "lowest", "lowest keys", "inf", "inf keys"]),
    scaled=st.sampled_from(["scores", "both", "not"]),
    key=st.sampled_from(["once", "twice"]),
    reshape=st.sampled_from([(0, 0, HEADS, SIZE), (0, 0, -1, SIZE), (0, -1, HEADS, SIZE)]),
    divided=st.booleans(),
    keys=st.sampled_from([1, HEADS]),
)
def test_attention_is_the_same_as_one_operator(**form: Any) -> None:
    """Rows that a mask blanks whole share equally, and are zero behind a guard; without one infinities give NaN."""
    done, left = moved_by(attention(**form, guard=form["mask"].startswith("inf"), opset=23), "fused-attention")
    assert (done.places, left["Attention"], left["Softmax"]) == (1, 1, 0)
    # Heads are read where they lie.
    assert left["Transpose"] == 0


def test_sizes_that_were_asked_of_the_product_are_told_still() -> None:
    done, left = moved_by(attention(asked=True, opset=23), "fused-attention")
    assert (done.places, left["Attention"], left["Transpose"]) == (1, 1, 0)


def test_heads_are_handed_over_apart_where_they_come_so() -> None:
    net = Net(opset=23)
    q, k, v = (net.input(name, ("b", HEADS, "s", SIZE)) for name in "qkv")
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    net.output(net.op("MatMul", net.op("Softmax", scores, axis=-1), v))
    done, left = moved_by(net, "fused-attention")
    assert (done.places, left["Attention"], left["Transpose"], left["Reshape"]) == (1, 1, 0, 0)


def test_a_mask_that_is_spread_over_the_keys_stays() -> None:
    net = attention(scaled="not")
    (softmax,) = (node for node in net.nodes if node.op_type == "Softmax")
    shift = net.op("Add", softmax.input[0], net.constant(np.zeros((1, 1, 1, 1), np.float32)))
    softmax.input[0] = shift
    net.nodes.insert(net.nodes.index(softmax), net.nodes.pop())
    done = reason(net)
    assert [text for _, text in done.kept] == ["attention stays as it is: its mask is spread over the keys"]


def test_a_mask_of_keys_is_spread_over_the_queries_once() -> None:
    _, left = moved_by(attention(mask="lowest keys", opset=23), "fused-attention")
    assert (left["Max"], left["Expand"]) == (1, 1)


def test_a_mask_with_a_row_for_each_query_is_read_as_it_is() -> None:
    _, left = moved_by(attention(mask="inf", guard=True, opset=23), "fused-attention")
    assert (left["Max"], left["Expand"]) == (0, 0)


def test_shares_that_are_read_besides_keep_their_softmax() -> None:
    assert reason(attention(shown=True)).places == 0


def test_a_softmax_over_another_axis_is_no_attention() -> None:
    assert reason(attention(axis=2)).places == 0


def test_scores_of_a_negative_scale_stay() -> None:
    done = reason(attention(value=-0.5))
    assert [text for _, text in done.kept] == ["attention stays as it is: its scores are scaled by -0.5"]


def test_attention_without_an_axis_for_heads_stays() -> None:
    net = Net()
    q, k, v = (net.input(name, ("b", "s", 8)) for name in "qkv")
    shares = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), axis=-1)
    net.output(net.op("MatMul", shares, v))
    done = reason(net)
    assert [text for _, text in done.kept] == [
        "attention stays as it is: its tensors are not known to have one axis for heads"
    ]


def test_a_guard_over_scores_that_nothing_bounds_stays() -> None:
    net = attention(mask="inf", guard=True)
    # Without the norm in front of the products.
    net.nodes[0].op_type = "Exp"
    del net.nodes[0].input[1:], net.nodes[0].attribute[:]
    done = reason(net)
    assert [text for _, text in done.kept] == [
        "attention stays as it is: nothing says that what is guarded against NaN is finite before the mask"
    ]


def crossed() -> Net:
    """An encoder's attention and a decoder's to the encoder, both under the encoder's mask of keys."""
    net = Net(opset=23)
    x, y = (net.op("Tanh", net.input(name, ("b", length, WIDTH))) for name, length in (("x", "s"), ("y", "t")))
    keep = net.op("Cast", net.input("m", ("b", 1, 1, "s"), TensorProto.INT64), to=TensorProto.BOOL)
    mask = net.op("Where", keep, net.constant(np.float32(0)), net.constant(np.float32(LOWEST)))
    for one in (x, y, y):
        q, k, v = (net.reshape(net.linear(side, WIDTH, WIDTH), 0, 0, HEADS, SIZE) for side in (one, x, x))
        q, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        scores = net.op("Add", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1])), mask)
        out = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
        out = net.reshape(net.op("Transpose", out, perm=[0, 2, 1, 3]), 0, 0, WIDTH)
        net.output(net.linear(out, WIDTH, WIDTH))
    return with_blank_rows(net)


def test_a_mask_that_attentions_of_several_lengths_share_has_rows_for_each_length() -> None:
    """Three attentions, two lengths of queries: the floor is put in once, and the mask is spread twice."""
    done, left = moved_by(crossed(), "fused-attention")
    assert (done.places, left["Attention"], left["Max"], left["Expand"]) == (3, 3, 1, 2)


def chosen(fill: float, *, added: str = "", guard: bool = False, turned: bool = False, bounded: bool = True) -> Net:
    """Where(keep, scores, fill) under a causal mask that an input may blank besides, with a mask added or without."""
    net = Net(opset=23)
    x = net.input("x", ("b", "s", WIDTH))
    x = net.op("Tanh", x) if bounded else net.op("Exp", x)
    q, k, v = (net.reshape(net.linear(x, WIDTH, WIDTH), 0, 0, HEADS, SIZE) for _ in range(3))
    q, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 3, 1]))
    scores = net.op("Div", scores, net.constant(np.float32(SIZE**0.5)))
    keep = net.op("Cast", net.input("m", ("b", 1, "s", "s"), TensorProto.INT64), to=TensorProto.BOOL)
    padding = net.op("Cast", net.input("p", ("b", 1, 1, "s"), TensorProto.INT64), to=TensorProto.BOOL)
    mask = net.op("Where", padding, net.constant(np.float32(0)), net.constant(np.float32(LOWEST)))
    if added == "before":
        scores = net.op("Add", scores, mask)
    number = net.constant(np.float32(fill))
    scores = net.op("Where", net.op("Not", keep), number, scores) if turned else net.op("Where", keep, scores, number)
    if added == "behind":
        scores = net.op("Add", mask, scores)
    shares = net.op("Softmax", scores, axis=-1)
    if guard:
        shares = net.op("Where", net.op("IsNaN", shares), net.constant(np.float32(0)), shares)
    out = net.op("Transpose", net.op("MatMul", shares, v), perm=[0, 2, 1, 3])
    net.output(net.linear(net.reshape(out, 0, 0, WIDTH), WIDTH, WIDTH))
    feeds = net.checks()
    for one in feeds:
        # The first sample blank by the choice, the last by the mask, and in it some rows by both.
        one["m"][0] = 0
        one["m"][-1, :, :2] = 0
        one["p"][-1] = 0
    net.checks = lambda: feeds  # type: ignore[method-assign]
    return net


@settings(max_examples=12, deadline=None, derandomize=True)
@given(fill=st.sampled_from([-1e4, LOWEST, -np.inf]), turned=st.booleans())
def test_a_number_that_is_chosen_in_place_of_scores_is_a_mask(fill: float, *, turned: bool) -> None:
    """Rows of nothing but the number share equally; rows of minus infinities are zero behind a guard."""
    done, left = moved_by(chosen(fill, guard=fill == -np.inf, turned=turned), "fused-attention")
    assert (done.places, left["Attention"], left["Softmax"]) == (1, 1, 0)


@pytest.mark.parametrize("added", ["before", "behind"])
def test_a_mask_besides_the_choice_is_added_with_it(added: str) -> None:
    net = chosen(LOWEST, added=added)
    if added == "behind":
        # Rows of which nothing is left by both are no numbers: the lowest twice.
        for one in net.checks():
            one["m"][-1] = 1
    done, left = moved_by(net, "fused-attention")
    assert (done.places, left["Attention"], left["Softmax"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (chosen(-1e4, bounded=False), "nothing bounds the scores that its mask chooses from"),
        (chosen(-1.0), "its scores may be as low as -1, which stands for none"),
        (chosen(-1e4, added="before"), "its scores may be as low as -10000, which stands for none"),
        (chosen(-1e4, added="behind"), "a mask is added to what was chosen, and -10000 does not absorb it"),
    ],
)
def test_a_choice_that_is_not_known_to_be_a_mask_stays(net: Net, why: str) -> None:
    done = reason(net)
    assert [text for _, text in done.kept] == [f"attention stays as it is: {why}"]
