"""Clips into quantizers, constants into tables, gains into weights."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tests.building import Net
from tests.streamlining.rewriting import moved_by


def clipped(high: float, *, kind: type = np.uint8, zero: int = 0, op: str = "Clip") -> Net:
    """A clip between 0 and 6, quantized in steps of `high` / 255."""
    net = Net()
    x = net.op("Mul", net.input("x", ("b", 8)), net.constant(np.float32(5)))
    bounds = [net.constant(np.float32(bound)) for bound in (0, 6)] if op == "Clip" else []
    step, zero_point = net.constant(np.float32(high / 255)), net.constant(kind(zero))
    integers = net.op("QuantizeLinear", net.op(op, x, *bounds), step, zero_point)
    net.output(net.op("DequantizeLinear", integers, step, zero_point))
    return net


@pytest.mark.parametrize(("high", "kind", "zero"), [(6, np.uint8, 0), (5, np.uint8, 0), (6, np.int8, -128)])
def test_a_clip_that_a_quantizer_does_as_well_goes(high: float, kind: type, zero: int) -> None:
    done, left = moved_by(clipped(high, kind=kind, zero=zero), "clips", tolerance=0)
    assert (done.places, left["Clip"]) == (1, 0)


def test_a_rectifier_goes_where_the_first_integer_is_zero() -> None:
    assert moved_by(clipped(3, op="Relu"), "clips", tolerance=0)[0].places == 1


@pytest.mark.parametrize(("high", "kind", "zero"), [(8, np.uint8, 0), (6, np.uint8, 20), (6, np.int8, 0)])
def test_a_clip_that_ends_before_the_integers_do_stays(high: float, kind: type, zero: int) -> None:
    """With steps of 8 / 255 the integers go on to 8; with a zero of 20 they begin below 0."""
    assert moved_by(clipped(high, kind=kind, zero=zero), "clips", tolerance=0)[0].places == 0


def test_a_clip_that_others_read_in_float_stays() -> None:
    net = clipped(6)
    net.output(net.op("Neg", next(name for node in net.nodes if node.op_type == "Clip" for name in node.output)))
    assert moved_by(net, "clips")[0].places == 0


def embedded(*, type_rows: int = 1, shared: bool = False) -> Net:
    """Words, positions and a type that never changes."""
    net = Net()
    ids = net.input("ids", ("b", "s"), TensorProto.INT64)
    words, places = net.weight(50, 8), net.weight(9, 8)
    x = net.op("Add", net.op("Gather", words, ids), net.op("Gather", places, net.op("Abs", ids)))
    y = net.op("Add", x, net.weight(type_rows, 8))
    net.output(net.op("Relu", y))
    if shared:
        net.output(net.op("Gather", places, net.op("Sub", ids, ids)))
        net.output(net.op("Gather", words, net.op("Sub", ids, ids)))
    return net


def test_a_type_that_never_changes_is_added_to_the_smaller_table() -> None:
    done, left = moved_by(embedded(), "tables")
    assert (done.places, left["Add"]) == (1, 1)


def test_tables_that_others_read_are_left_alone() -> None:
    assert moved_by(embedded(shared=True), "tables")[0].places == 0


def test_a_constant_that_differs_from_row_to_row_is_no_row() -> None:
    """[s, width] for s of the checks would not even fit; a table of two rows for two tokens would."""
    net = Net()
    ids = net.input("ids", ("b", 2), TensorProto.INT64)
    net.output(net.op("Relu", net.op("Add", net.op("Gather", net.weight(50, 8), ids), net.weight(2, 8))))
    assert moved_by(net, "tables")[0].places == 0


def gained(*, second_reader: str = "", size: int = 16) -> Net:
    """A gain of channels in front of two linears."""
    net = Net()
    x = net.op("Mul", net.input("x", ("s", 16)), net.weight(size))
    net.output(net.linear(x, 16, 8))
    net.output(net.op("Gemm", x, net.weight(4, 16), net.weight(4), transB=1, alpha=0.5))
    if second_reader:
        net.output(net.op(second_reader, x))
    return net


def test_a_gain_moves_into_all_linears_that_read_it() -> None:
    done, left = moved_by(gained(), "gains")
    assert (done.places, left["Mul"]) == (1, 0)


def test_a_gain_that_anything_else_reads_stays() -> None:
    done, left = moved_by(gained(second_reader="Relu"), "gains")
    assert (done.places, left["Mul"]) == (0, 1)
    assert [why for _, why in done.kept] == [
        "a gain of channels stays: not all that reads it are linears with float weights of their own"
    ]


def test_one_number_is_no_gain_of_channels() -> None:
    assert moved_by(gained(size=1), "gains")[0].places == 0
