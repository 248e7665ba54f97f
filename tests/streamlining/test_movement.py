"""Chains of Reshapes and Transposes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.building import Net
from tests.streamlining.rewriting import moved_by

Draw = Callable[..., int]


def test_keys_that_are_turned_twice_through_a_batch_of_matrices_are_turned_once() -> None:
    """As sdpa is written by dynamo: heads to the front, heads and batch as one, the matrices turned, heads apart."""
    net = Net()
    x = net.reshape(net.input("x", ("b", "s", 12)), 0, 0, 3, 4)
    heads = net.op("Transpose", x, perm=[0, 2, 1, 3])
    flat = net.op("Reshape", heads, net.op("Concat", net.constant([-1]), net.op("Shape", heads, start=2), axis=0))
    turned = net.op("Transpose", flat, perm=[0, 2, 1])
    scaled = net.op("Mul", turned, net.constant(np.float32(2)))
    apart = net.op("Concat", net.op("Shape", heads, end=2), net.constant([4, -1]), axis=0)
    net.output(net.op("Reshape", scaled, apart))
    done, left = moved_by(net, "movement")
    # First what follows `heads`, which is asked for its shape; then, with nothing else to read it, all of it.
    assert done.places == 2
    assert left == {"Mul": 1, "Reshape": 1, "Transpose": 1}


def test_what_a_chain_undoes_goes_altogether() -> None:
    net = Net()
    x = net.op("Relu", net.op("Transpose", net.input("x", ("b", "s", 6)), perm=[2, 0, 1]))
    net.output(net.op("Neg", net.op("Transpose", x, perm=[1, 2, 0])))
    done, left = moved_by(net, "movement")
    assert (done.places, left) == (1, {"Relu": 1, "Neg": 1})


def test_a_chain_that_ends_at_an_output_keeps_its_name() -> None:
    net = Net()
    x = net.op("Transpose", net.input("x", ("b", "s")), perm=[1, 0])
    net.output(net.op("Transpose", x, perm=[1, 0]))
    done, left = moved_by(net, "movement")
    assert (done.places, left) == (1, {"Identity": 1})


def test_a_tensor_that_others_read_ends_a_chain() -> None:
    net = Net()
    turned = net.op("Transpose", net.input("x", ("b", "s", 6)), perm=[1, 0, 2])
    net.output(net.op("Relu", turned))
    net.output(net.op("Transpose", turned, perm=[1, 0, 2]))
    assert moved_by(net, "movement")[0].places == 0


def test_an_operator_that_knows_its_axes_ends_a_chain() -> None:
    net = Net()
    turned = net.op("Transpose", net.input("x", ("b", "s", 6)), perm=[0, 2, 1])
    net.output(net.op("Transpose", net.op("Softmax", turned, axis=-1), perm=[0, 2, 1]))
    assert moved_by(net, "movement")[0].places == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_chain_says_the_same_in_no_more_operators(data: st.DataObject) -> None:
    net = Net()
    x = net.input("x", ("b", "s", 12))
    # What each axis is made of: dynamic ones by name, others by size.
    axes: list[list[str | int]] = [["b"], ["s"], [12]]
    moves = data.draw(st.integers(2, 5))
    for _ in range(moves):
        kind = data.draw(st.sampled_from(["turn", "split", "merge", "bend"]))
        if kind == "bend":
            x = net.op(data.draw(st.sampled_from(["Relu", "Neg"])), x)
            continue
        if kind == "turn":
            order = data.draw(st.permutations(range(len(axes))))
            x, axes = net.op("Transpose", x, perm=order), [axes[at] for at in order]
            continue
        axes = _split(axes, data) if kind == "split" else _merged(axes, data)
        free = [at for at, axis in enumerate(axes) if any(isinstance(part, str) for part in axis)]
        if len(free) > 1:
            # Only one may be -1: the others are told by a shape that the model is given.
            sizes = [net.op("Shape", "x", start=part, end=part + 1) for part in (0, 1)]
            named = {"b": sizes[0], "s": sizes[1]}
            parts = [_size(net, axis, named) for axis in axes]
            x = net.op("Reshape", x, net.op("Concat", *parts, axis=0))
        else:
            x = net.reshape(x, *(-1 if at in free else math.prod(axis) for at, axis in enumerate(axes)))  # type: ignore[arg-type]
    net.output(net.op("Relu", x))
    before = sum(node.op_type in {"Reshape", "Transpose"} for node in net.nodes)
    done, left = moved_by(net, "movement")
    assert left["Reshape"] + left["Transpose"] <= min(before, 3) + (not done.places) * before


def _split(axes: list[list[str | int]], data: st.DataObject) -> list[list[str | int]]:
    at = data.draw(st.integers(0, len(axes) - 1))
    axis = axes[at]
    if len(axis) > 1:
        return [*axes[:at], axis[:1], axis[1:], *axes[at + 1 :]]
    if isinstance(axis[0], int) and axis[0] % 2 == 0 and axis[0] > 2:
        return [*axes[:at], [2], [axis[0] // 2], *axes[at + 1 :]]
    return [*axes[:at], [1], axis, *axes[at:][1:]]


def _merged(axes: list[list[str | int]], data: st.DataObject) -> list[list[str | int]]:
    if len(axes) < 2:
        return axes
    at = data.draw(st.integers(0, len(axes) - 2))
    return [*axes[:at], axes[at] + axes[at + 1], *axes[at + 2 :]]


def _size(net: Net, axis: list[str | int], named: dict[str, str]) -> str:
    size = net.constant([math.prod(part for part in axis if isinstance(part, int))])
    for part in axis:
        if isinstance(part, str):
            size = net.op("Mul", size, named[part])
    return size
