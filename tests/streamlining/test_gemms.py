"""Linears with a bias as Gemm over rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
import pytest

from onnxprune.model import to_bytes
from tests.building import Net
from tests.streamlining.rewriting import moved_by, rewritten


def linear(lead: Sequence[int | str] = ("b", "s"), *, bias: tuple[int, ...] = (4,), flipped: bool = False) -> Net:
    """MatMul [.., 8] x [8, 4] and Add."""
    net = Net()
    operands = [net.op("MatMul", net.input("x", (*lead, 8)), net.weight(8, 4)), net.weight(*bias)]
    net.output(net.op("Add", *(operands[::-1] if flipped else operands)))
    return net


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("bias", [(4,), (1, 4), (1, 1, 4)])
def test_a_linear_and_its_bias_become_one_gemm(bias: tuple[int, ...], *, flipped: bool) -> None:
    done, left = moved_by(linear(bias=bias, flipped=flipped), "gemms")
    assert (done.places, left["Gemm"], left["MatMul"] + left["Add"]) == (1, 1, 0)


@pytest.mark.parametrize("lead", [("b", 3), (2, "s"), (2, 3), ("b", 3, 2)])
def test_a_shape_with_one_free_axis_is_a_literal(lead: Sequence[int | str]) -> None:
    assert moved_by(linear(lead), "gemms")[1] == Counter(Reshape=2, Gemm=1)


@pytest.mark.parametrize("lead", [("b", "s"), ("b", 3, "s")])
def test_a_shape_with_several_free_axes_is_computed(lead: Sequence[int | str]) -> None:
    assert moved_by(linear(lead), "gemms")[1] == Counter(Reshape=2, Gemm=1, Shape=1, Slice=1, Concat=1)


def test_rows_and_columns_alone_are_left_to_the_runtime() -> None:
    assert moved_by(linear(("b",)), "gemms")[0].places == 0


@pytest.mark.parametrize("bias", [(1,), (1, 1, 1, 4), (3, 4)])
def test_what_is_no_row_for_each_product_is_no_bias(bias: tuple[int, ...]) -> None:
    """A bias of more axes would give the product one more; one of several rows is none."""
    assert moved_by(linear(("b", 3), bias=bias), "gemms")[0].places == 0


@pytest.mark.parametrize("reader", ["Relu", ""])
def test_a_product_that_is_read_besides_stays(reader: str) -> None:
    """By an operator, or by whoever runs the model."""
    net = linear()
    product = next(name for node in net.nodes if node.op_type == "MatMul" for name in node.output)
    net.output(net.op(reader, product) if reader else product)
    assert moved_by(net, "gemms")[0].places == 0


@pytest.mark.parametrize("given", [0, 1])
def test_a_weight_or_bias_that_a_caller_may_give_stays(given: int) -> None:
    net = linear()
    constant = net.initializers[given]
    net.input(constant.name, list(constant.dims))
    assert moved_by(net, "gemms")[0].places == 0


def test_a_second_factor_that_is_computed_stays() -> None:
    net = Net()
    x = net.input("x", ("b", "s", 8))
    net.output(net.op("Add", net.op("MatMul", x, net.op("Relu", net.weight(8, 4))), net.weight(4)))
    assert moved_by(net, "gemms")[0].places == 0


def test_what_attention_in_one_operator_reads_stays() -> None:
    """The full check wants to know how many axes that has; what reads its output may be a MatMul, too."""
    net, width, heads = Net(opset=17), 8, 2
    x = net.op("Relu", net.input("x", ("b", "s", width)))
    q, k, v = (net.reshape(net.linear(x, width, width), 0, 0, heads, width // heads) for _ in range(3))
    scores = net.op("MatMul", net.op("Transpose", q, perm=[0, 2, 1, 3]), net.op("Transpose", k, perm=[0, 2, 3, 1]))
    out = net.op("MatMul", net.op("Softmax", scores, axis=-1), net.op("Transpose", v, perm=[0, 2, 1, 3]))
    merged = net.reshape(net.op("Transpose", out, perm=[0, 2, 1, 3]), 0, 0, width)
    net.output(net.op("Relu", net.linear(net.linear(merged, width, width, bias=False), width, width)))
    fused, _ = rewritten(net, net.model(), "fused-attention")
    result, done = rewritten(net, fused, "gemms")
    assert done.places == 1
    assert {why for _, why in done.kept} == {"a linear stays MatMul and Add: Attention has to be told its shape"}
    onnx.checker.check_model(to_bytes(result), full_check=True)
