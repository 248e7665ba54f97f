"""Sizes that runs show are those of all lengths, or nothing is built upon them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxprune.runtime import observe_shapes, open_session
from onnxprune.streamlining.observed import settled_shapes
from tests.building import PROBES, Net
from tests.streamlining.rewriting import rewritten

# Longer than any probe.
MOST = 512
Cut = Callable[[Net, str], str]


def sliced(start: int, end: int) -> Cut:
    def cut(net: Net, x: str) -> str:
        return str(net.op("Slice", x, net.constant([start]), net.constant([end]), net.constant([1])))

    return cut


def up_to_the_lesser(net: Net, x: str) -> str:
    length = net.op("Min", net.op("Gather", net.op("Shape", x), net.constant([1])), net.constant([MOST]))
    return str(net.op("Slice", x, net.constant([0]), length, net.constant([1])))


def numbered_up_to_the_lesser(net: Net, x: str) -> str:
    length = net.op(
        "Clip", net.op("Gather", net.op("Shape", x), net.constant(np.int64(1))), "", net.constant(np.int64(MOST))
    )
    rows = net.op("Range", net.constant(np.int64(0)), length, net.constant(np.int64(1)))
    return str(net.op("Gather", x, rows, axis=1))


def up_to_what_is_chosen(net: Net, x: str) -> str:
    length, most = net.op("Gather", net.op("Shape", x), net.constant([1])), net.constant([MOST])
    return str(net.op("Slice", x, net.constant([0]), net.op("Where", net.op("Less", length, most), length, most),
                      net.constant([1])))  # fmt: skip


def old(net: Net, x: str) -> str:
    return str(net.op("Slice", x, starts=[0], ends=[MOST], axes=[1]))


CUTS: dict[str, Cut] = {
    "up to a place": sliced(0, MOST),
    "from a place before the end": sliced(-MOST, 2**63 - 1),
    "up to the lesser of two": up_to_the_lesser,
    "up to what is chosen": up_to_what_is_chosen,
    "numbered up to the lesser of two": numbered_up_to_the_lesser,
}


def cut(way: Cut, opset: int = 18) -> tuple[Net, str]:
    net = Net(opset=opset)
    return net, way(net, net.op("Relu", net.input("x", ("b", "s", 4))))


def settled(net: Net, name: str) -> bool:
    net.output(net.op("Neg", name))
    model = net.model()
    return name in settled_shapes(model, observe_shapes(model, [net.feeds(sizes) for sizes in PROBES]))


@pytest.mark.parametrize("way", CUTS)
def test_a_cut_that_no_run_was_long_enough_for_settles_nothing(way: str) -> None:
    assert not settled(*cut(CUTS[way]))


def test_so_it_is_with_attributes_of_old() -> None:
    assert not settled(*cut(old, opset=9))


@pytest.mark.parametrize("way", [sliced(0, 3), sliced(1, 2**63 - 1), sliced(0, 2**31 - 1), sliced(-2, 2**63 - 1)])
def test_cuts_that_all_runs_have_seen_are_settled(way: Cut) -> None:
    assert settled(*cut(way))


@pytest.mark.parametrize("way", CUTS)
def test_what_may_be_cut_is_asked_itself(way: str) -> None:
    """Held against inputs that are longer than all that was seen."""
    net, y = cut(CUTS[way])
    net.output(net.op("Gather", net.op("Shape", y), net.constant([1])))
    net.output(
        net.op("Expand", net.op("ReduceMax", y, keepdims=0), net.op("Gather", net.op("Shape", y), net.constant([1])))
    )
    model = net.model()
    result, _ = rewritten(net, model, "sizes")
    feeds = net.feeds({"b": 2, "s": MOST + 88})
    before, after = open_session(model).run(feeds), open_session(result).run(feeds)
    for name, wanted in before.items():
        np.testing.assert_array_equal(after[name], wanted)
