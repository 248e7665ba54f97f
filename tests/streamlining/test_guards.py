"""NaN guards behind softmaxes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.building import Net
from tests.streamlining.rewriting import moved_by

LOWEST = float(np.finfo(np.float32).min)


def guarded(fill: float, *, shared: int = 1, bounded: bool = True, opset: int = 18, axis: int = -1) -> Net:
    """Attention of one head under a mask that its input may blank altogether, with a guard behind each softmax."""
    net = Net(opset=opset)
    x = net.input("x", ("b", "s", 16))
    keep = net.op("Cast", net.input("m", ("b", 1, "s"), TensorProto.INT64), to=TensorProto.BOOL)
    mask = net.op("Where", keep, net.constant(np.float32(0)), net.constant(np.float32(fill)))
    if bounded:
        x = net.op("LayerNormalization", x, net.weight(16), net.weight(16), axis=-1)
    for _ in range(shared):
        q, k, v = (net.linear(x, 16, 16) for _ in range(3))
        if not bounded:
            q = net.op("Exp", q)
        scores = net.op("Add", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), mask)
        shares = net.op("Softmax", scores, axis=axis)
        safe = net.op("Where", net.op("IsNaN", shares), net.constant(np.float32(0)), shares)
        x = net.op("Add", x, net.op("MatMul", safe, v))
        x = net.op("LayerNormalization", x, net.weight(16), net.weight(16), axis=-1)
    net.output(x)
    return net


def with_blank_rows(net: Net) -> Net:
    """The checks, with one sample that attends to nothing and one that attends to all but one entry."""
    feeds = net.checks()
    for one in feeds:
        one["m"][0] = 0
        one["m"][-1, :, 1:] = 1 if len(one["m"]) > 1 else 0
    net.checks = lambda: feeds  # type: ignore[method-assign]
    return net


def test_a_guard_behind_a_finite_mask_goes() -> None:
    """Even a row of lowest numbers only has shares: they are equal."""
    done, left = moved_by(with_blank_rows(guarded(LOWEST)), "nan-guards")
    assert (done.places, done.kept) == (1, ())
    assert left["IsNaN"] == 0
    assert left["Where"] == 1
    assert done.note == "float inputs taken to stay within ±1e+06"


@pytest.mark.parametrize("opset", [17, 18])
def test_a_guard_behind_a_mask_that_blanks_rows_moves_to_the_mask(opset: int) -> None:
    done, left = moved_by(with_blank_rows(guarded(-np.inf, shared=3, opset=opset)), "nan-guards")
    assert (done.places, done.kept) == (3, ())
    assert left["IsNaN"] == 0
    # The mask is made finite once; each product is told which rows were blank.
    assert (left["Max"], left["ReduceMax"], left["Mul"]) == (1, 1, 3)


def test_a_guard_stays_where_scores_are_not_bounded() -> None:
    done, left = moved_by(guarded(-np.inf, bounded=False), "nan-guards")
    assert (done.places, left["IsNaN"]) == (0, 1)
    assert [why for _, why in done.kept] == [
        "a NaN guard is kept: nothing says that 'add11' is finite where the mask is"
    ]


def test_a_guard_stays_where_shares_are_not_of_the_last_axis() -> None:
    done, left = moved_by(guarded(-np.inf, axis=1), "nan-guards")
    assert (done.places, left["IsNaN"]) == (0, 1)
    assert [why for _, why in done.kept] == ["a NaN guard is kept: the shares are not of the last axis"]


def test_a_where_that_puts_in_anything_but_zero_is_no_guard() -> None:
    net = Net()
    shares = net.op("Softmax", net.input("x", ("b", "s")), axis=-1)
    net.output(net.op("Where", net.op("IsNaN", shares), net.constant(np.float32(0.5)), shares))
    done, left = moved_by(net, "nan-guards")
    assert (done.places, done.kept, left["IsNaN"]) == (0, (), 1)


@pytest.mark.parametrize("kind", ["scores", "shares"])
def test_a_guard_stays_where_the_model_gives_out_what_it_is_computed_from(kind: str) -> None:
    """Minus infinity would be a low number in the scores, and NaN an equal share."""
    net = guarded(-np.inf)
    softmax = next(node for node in net.nodes if node.op_type == "Softmax")
    net.output(softmax.input[0] if kind == "scores" else softmax.output[0])
    done, _ = moved_by(with_blank_rows(net), "nan-guards")
    assert done.places == 0
