"""What later operators spread anyway is not spread before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto

from tests.building import Net
from tests.streamlining.rewriting import moved_by

Way = Callable[[Net, str, str], str]


def masked(spread: Way, *, met: bool = True, shape_read: bool = False) -> Net:
    """Scores [b, h, s, t] under a mask of keys [b, 1, 1, t] that is spread in some way."""
    net = Net()
    keys = net.op("Cast", net.input("m", ("b", 1, 1, "t"), TensorProto.INT64), to=TensorProto.BOOL)
    scores = net.op("Relu", net.input("x", ("b", 2, "s", "t")))
    mask = spread(net, keys, scores)
    low = net.op("Where", mask, net.constant(np.float32(0)), net.constant(np.float32(-9)))
    net.output(net.op("Add", low, scores) if met else net.op("Neg", low))
    if shape_read:
        net.output(net.op("Shape", low))
    return net


def sizes(net: Net, of: str, *axes: int) -> list[str]:
    shape = net.op("Shape", of)
    return [net.op("Gather", shape, net.constant([axis])) for axis in axes]


def expanded(net: Net, mask: str, scores: str) -> str:
    batch, queries, keys = sizes(net, scores, 0, 2, 3)
    return str(net.op("Expand", mask, net.op("Concat", batch, net.constant([1]), queries, keys, axis=0)))


def conditioned(kind: str, bound: int, *, step: int = 1) -> Way:
    """And with a condition on the queries' numbers."""

    def spread(net: Net, mask: str, scores: str) -> str:
        length = net.op("Gather", net.op("Shape", scores), net.constant(np.int64(2)))
        zero, one = (net.constant(np.int64(n)) for n in (0, step))
        end = length if step > 0 else net.op("Neg", length)
        numbered = net.reshape(net.op("Range", zero, end, one), 1, 1, -1, 1)
        return str(net.op("And", mask, net.op(kind, numbered, net.constant(np.int64(bound)))))

    return spread


@pytest.mark.parametrize(
    ("spread", "kind"),
    [(expanded, "Expand"), (conditioned("GreaterOrEqual", 0), "And"), (conditioned("Greater", -1), "And"),
     (conditioned("LessOrEqual", 0, step=-1), "")],
)  # fmt: skip
def test_what_scores_spread_anyway_is_left_to_them(spread: Way, kind: str) -> None:
    """Numbers that fall are not followed."""
    done, left = moved_by(masked(spread), "spreads", tolerance=0)
    assert (done.places, left[kind]) == ((1, 0) if kind else (0, 0))


def test_one_spread_behind_another_goes_with_it() -> None:
    fine = conditioned("GreaterOrEqual", 0)
    done, left = moved_by(masked(lambda net, mask, x: expanded(net, fine(net, mask, x), x)), "spreads", tolerance=0)
    assert (done.places, left["And"] + left["Expand"]) == (2, 0)


@pytest.mark.parametrize(
    "spread", [conditioned("GreaterOrEqual", 1), conditioned("Greater", 0), conditioned("Less", 512)]
)
def test_a_condition_that_may_fail_stays(spread: Way) -> None:
    """The last holds at every length that was seen, and fails at others."""
    assert moved_by(masked(spread), "spreads", tolerance=0)[0].places == 0


@pytest.mark.parametrize("spread", [expanded, conditioned("GreaterOrEqual", 0)])
def test_what_nobody_else_spreads_stays(spread: Way) -> None:
    assert moved_by(masked(spread, met=False), "spreads", tolerance=0)[0].places == 0


@pytest.mark.parametrize("spread", [expanded, conditioned("GreaterOrEqual", 0)])
def test_what_is_asked_for_its_shape_stays(spread: Way) -> None:
    assert moved_by(masked(spread, shape_read=True), "spreads", tolerance=0)[0].places == 0


def summed(*axes: int) -> Net:
    """The sum of what is largest along each of some axes of [b, s, t], spread over all of them."""
    net = Net()
    x = net.input("x", ("b", "s", "t"))
    whole = net.op("Shape", x)
    parts = [net.op("ReduceMax", x, net.constant([axis]), keepdims=1) for axis in axes]
    first, second = (net.op("Expand", part, whole) for part in parts)
    net.output(net.op("Add", first, second))
    return net


def test_two_that_spread_each_other_need_neither() -> None:
    """[1, s, t] and [b, 1, t]: the sum of both has all axes."""
    assert moved_by(summed(0, 1), "spreads", tolerance=0)[0].places == 2


def test_one_of_two_that_are_spread_alike_stays() -> None:
    done, left = moved_by(summed(1, 1), "spreads", tolerance=0)
    assert (done.places, left["Expand"]) == (1, 1)


def test_rows_of_one_number_stay_spread() -> None:
    """[b, s, 1] meets [b, s, t] faster as rows."""
    done, left = moved_by(summed(2, 1), "spreads", tolerance=0)
    assert (done.places, left["Expand"]) == (1, 1)


def test_a_condition_of_the_same_shape_goes_without_further_ado() -> None:
    net = Net()
    x = net.input("x", ("b", "s"), TensorProto.INT64)
    length = net.op("Gather", net.op("Shape", x), net.constant(np.int64(1)))
    zero, one = (net.constant(np.int64(n)) for n in (0, 1))
    fine = net.op("GreaterOrEqual", net.op("Range", zero, length, one), zero)
    net.output(net.op("Not", net.op("And", net.op("Cast", x, to=TensorProto.BOOL), fine)))
    assert moved_by(net, "spreads", tolerance=0)[0].places == 1
