"""Products and biases as one operator over rows."""

from __future__ import annotations

import numpy as np

from onnxprune.passes import Streamline
from onnxprune.plan import Edit
from tests.building import Net
from tests.streamlining.rewriting import moved_by


def test_linears_that_read_one_tensor_read_its_rows_once() -> None:
    net = Net()
    x = net.input("x", ("b", "s", 8))
    net.output(net.op("Concat", net.linear(x, 8, 4), net.linear(x, 8, 6), axis=-1))
    done, left = moved_by(net, "gemms")
    assert done.places == 2
    # Rows once, and apart for each, by the two sizes that are asked for once.
    assert left == {"Reshape": 3, "Gemm": 2, "Shape": 1, "Concat": 3}


def test_sizes_that_are_known_are_written_down() -> None:
    net = Net()
    net.output(net.op("Relu", net.linear(net.input("x", (2, "s", 8)), 8, 4)))
    done, left = moved_by(net, "gemms")
    assert (done.places, left) == (1, {"Reshape": 2, "Gemm": 1, "Relu": 1})


def test_a_product_that_is_read_beside_its_bias_stays() -> None:
    net = Net()
    product = net.op("MatMul", net.input("x", ("b", "s", 8)), net.weight(8, 4))
    net.output(net.op("Mul", net.op("Add", product, net.weight(4)), product))
    assert moved_by(net, "gemms")[0].places == 0


def test_what_is_added_row_by_row_is_no_bias() -> None:
    net = Net()
    product = net.op("MatMul", net.input("x", ("b", 4, 8)), net.weight(8, 4))
    net.output(net.op("Add", product, net.constant(np.ones((4, 1), np.float32))))
    assert moved_by(net, "gemms")[0].places == 0


def test_it_stands_by_the_clock_alone() -> None:
    edit = Edit(id="streamline.gemms", pass_name="streamline", site="graph", kind="gemms")
    assert Streamline().rivals(edit) == "gemms"
