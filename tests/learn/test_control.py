"""Scan as torch runs it: its outputs are onnxruntime's, and gradients reach what its body reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from onnxprune.learn.module import OnnxModule
from tests import graphs
from tests.graphs import info, node
from tests.learn.cases import r
from tests.learn.test_module import BOUND, deviation, model_of


def body() -> onnx.GraphProto:
    """(state, x, u) -> (state·w + x, its double, x·u): `w` comes from outside."""
    nodes = [
        node("Mul", ["state", "w"], ["decayed"]),
        node("Add", ["decayed", "x_t"], ["next"]),
        node("Add", ["next", "next"], ["double"]),
        node("Mul", ["x_t", "u_t"], ["both"]),
    ]
    given = [info(name, (3,)) for name in ("state", "x_t", "u_t")]
    return helper.make_graph(nodes, "body", given, [info(name, (3,)) for name in ("next", "double", "both")])


def scan(x: tuple[int, ...], u: tuple[int, ...], **attrs: Any) -> onnx.ModelProto:
    """One Scan over x and u; the state starts as s."""
    made = node("Scan", ["s", "x", "u"], ["last", "doubles", "boths"], body=body(), num_scan_inputs=2, **attrs)
    ports = [info("s", (3,)), info("x", x), info("u", u)]
    outputs = [info("last", (3,)), info("doubles", None), info("boths", None)]
    return graphs.model([made], ports, outputs, {"w": np.array([0.5, -0.5, 2], np.float32)})


def batched(lengths: list[int] | None, **attrs: Any) -> onnx.ModelProto:
    """Scan as opset 8 had it: a batch of two, five steps at most."""
    given = ["" if lengths is None else "lengths", "s", "x", "u"]
    made = node("Scan", given, ["last", "doubles", "boths"], body=body(), num_scan_inputs=2, **attrs)
    ports = [info("s", (2, 3)), info("x", (2, 5, 3)), info("u", (2, 5, 3))]
    outputs = [info("last", (2, 3)), info("doubles", (2, 5, 3)), info("boths", (2, 5, 3))]
    stored = {"w": np.array([0.5, -0.5, 2], np.float32)}
    if lengths is not None:
        stored["lengths"] = np.array(lengths, np.int64)
    return graphs.model([made], ports, outputs, stored, opset=8)


@pytest.mark.parametrize(
    ("x", "u", "attrs"),
    [
        ((4, 3), (4, 3), {}),
        ((4, 3), (4, 3), {"scan_input_directions": [1, 0]}),
        ((4, 3), (3, 4), {"scan_input_axes": [0, 1]}),
        ((4, 3), (3, 4), {"scan_input_axes": [-2, -1], "scan_input_directions": [0, 1]}),
        ((4, 3), (4, 3), {"scan_output_axes": [1, -1], "scan_output_directions": [1, 0]}),
        ((1, 3), (1, 3), {}),
    ],
)
def test_a_scan_gives_what_onnxruntime_gives(x: tuple[int, ...], u: tuple[int, ...], attrs: dict[str, Any]) -> None:
    given = {"s": r(3), "x": r(*x), "u": r(*u, seed=1)}
    assert deviation(model_of(scan(x, u, **attrs)), given) <= BOUND


@pytest.mark.parametrize("lengths", [None, [5, 5], [2, 5], [3, 1]])
@pytest.mark.parametrize("directions", [[0, 0], [0, 1]])
def test_a_scan_of_opset_8_gives_what_onnxruntime_gives(lengths: list[int] | None, directions: list[int]) -> None:
    given = {"s": r(2, 3), "x": r(2, 5, 3), "u": r(2, 5, 3, seed=1)}
    assert deviation(model_of(batched(lengths, directions=directions)), given) <= BOUND


def test_a_gradient_reaches_the_weight_that_the_body_reads() -> None:
    module = OnnxModule(model_of(scan((2, 3), (2, 3))), floating=torch.float64)
    assert module.names == ("w",)
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    module({"s": np.zeros(3, np.float32), "x": x, "u": x})["last"].sum().backward()
    # last = x0·w + x1: its derivative by w is x0.
    gradient = module.parameter("w").grad
    assert gradient is not None
    assert gradient.tolist() == [1, 2, 3]


def test_a_scan_in_a_domain_of_its_own_is_unknown() -> None:
    proto = scan((4, 3), (4, 3))
    proto.graph.node[0].domain = "acme"
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(Exception, match=r"^The torch module has no operators acme\.Scan\. "):
        OnnxModule(model_of(proto))
