"""Gathers by position become views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.building import Net
from tests.streamlining.rewriting import moved_by


def number(net: Net, value: int) -> str:
    return net.constant(np.int64(value))


def size(net: Net, of: str, axis: int) -> Any:
    return net.op("Gather", net.op("Shape", of), number(net, axis))


def counted(net: Net, of: str, axis: int, *, start: int = 0, step: int = 1) -> Any:
    return net.op("Range", number(net, start), size(net, of, axis), number(net, step))


def by_both(*, start: int = 0, most: int = 0, swapped: bool = False) -> Net:
    """A mask [b, s] picked by sample and key as [b, 1, 1, s]."""
    net = Net()
    mask = net.op("Relu", net.input("m", ("b", "s")))
    sample = net.reshape(counted(net, mask, 0), -1, 1, 1, 1)
    key = net.reshape(counted(net, mask, 1, start=start), 1, 1, 1, -1)
    if most:
        key = net.op("Min", key, number(net, most))
    if swapped:
        sample, key = net.op("Transpose", sample, perm=[3, 1, 2, 0]), net.op("Transpose", key, perm=[3, 1, 2, 0])
    whole = net.op("Shape", net.op("Add", sample, key))
    parts = [net.op("Unsqueeze", net.op("Expand", part, whole), net.constant([4])) for part in (sample, key)]
    net.output(net.op("Neg", net.op("GatherND", mask, net.op("Concat", *parts, axis=-1))))
    return net


def in_the_flat(*, of: int = 1, offset: int = 0, wide: int = 1) -> Net:
    """The same picked out of all numbers in a row."""
    net = Net()
    mask = net.op("Relu", net.input("m", ("b", "s")))
    sample = net.reshape(counted(net, mask, 0), -1, 1, 1, 1)
    key = net.reshape(counted(net, mask, 1), 1, 1, 1, -1)
    length = size(net, net.op("Transpose", mask) if of == 0 else mask, of)
    where = net.op("Add", net.op("Mul", sample, length), key)
    if offset:
        where = net.op("Sub", where, number(net, offset))
    flat = net.reshape(mask, -1, 1)
    if wide > 1:
        flat = net.op("Concat", *[flat] * wide, axis=1)
    net.output(net.op("Neg", net.op("Gather", flat, where, axis=0)))
    return net


@pytest.mark.parametrize("net", [by_both(), in_the_flat()], ids=["by both numbers", "in the flat"])
def test_everything_in_its_order_is_a_view(net: Net) -> None:
    done, left = moved_by(net, "positions", tolerance=0)
    assert (done.places, left["Gather"] + left["GatherND"], left["Range"]) == (1, 0, 0)


def test_a_length_may_be_read_off_any_tensor_that_has_it() -> None:
    assert moved_by(in_the_flat(of=0), "positions", tolerance=0)[0].places == 1


@pytest.mark.parametrize(
    "net",
    [by_both(start=1), by_both(swapped=True), by_both(most=2), by_both(most=512), in_the_flat(offset=1),
     in_the_flat(wide=2)],
    ids=["from the second on", "samples last", "no further than", "no further than a length that was not seen",
         "one before", "of two rows"],
)  # fmt: skip
def test_what_is_not_everything_in_its_order_stays(net: Net) -> None:
    assert moved_by(net, "positions", tolerance=0)[0].places == 0


def test_numbers_that_depend_on_values_are_no_positions() -> None:
    """0, 1, 2 and on by chance: a sum over a mask of ones."""
    net = Net()
    mask = net.input("m", ("b", "s"))
    ones = net.op("Cast", net.op("Equal", mask, mask), to=TensorProto.INT64)
    count = net.op("Sub", net.op("CumSum", ones, number(net, 1)), number(net, 1))
    net.output(net.op("GatherElements", mask, count, axis=1))
    net.output(net.op("Gather", net.op("Flatten", mask, axis=0), count, axis=1))
    assert moved_by(net, "positions", tolerance=0)[0].places == 0
