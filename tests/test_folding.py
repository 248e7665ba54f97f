"""Arithmetic with constants moves into convolutions, and outputs stay what they were."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.folding import fold_arithmetic
from onnxprune.model import load, save
from tests import graphs
from tests.graphs import info, node, weights

CHANNELS = (1, 32, 1, 1)


def folded(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that are left, once outputs were compared at both optimization levels."""
    path = graphs.saved(proto, folder)
    model = load(path)
    fold_arithmetic(model.graph, model.overridable)
    model.graph.cleanup(remove_unused_graph_inputs=False)
    save(model, folder / "folded.onnx")
    onnx.checker.check_model(str(folder / "folded.onnx"), full_check=True)
    feeds = graphs.feeds_for(path, seed=3)
    for optimized in (True, False):
        expected = graphs.outputs_of(path, feeds, optimized=optimized)
        got = graphs.outputs_of(folder / "folded.onnx", feeds, optimized=optimized)
        for name, value in expected.items():
            # A few sums of some hundred terms, each rounded to 24 bits.
            assert np.abs(got[name] - value).max() <= 1e-5 * np.abs(value).max()
    again = load(folder / "folded.onnx")
    assert fold_arithmetic(again.graph, again.overridable) == 0
    return Counter(found.op_type for found in onnx.load(folder / "folded.onnx").graph.node)


def chain(*nodes: onnx.NodeProto, constants: dict[str, Any], size: int = 8) -> onnx.ModelProto:
    """Nodes from `x` [batch, 16, 8, 8] to `y`."""
    inputs = [info("x", ("batch", 16, size, size))]
    return graphs.model(list(nodes), inputs, [info("y", (None,) * 4)], constants, opset=17)


def arithmetic(op: str, values: Any, *, first: bool = False) -> onnx.ModelProto:
    """Conv, then one operation with a constant on either side."""
    operands = ["k", "c"] if first else ["c", "k"]
    constants = {"w": weights(32, 16, 3, 3), "b": weights(32), "k": np.asarray(values, np.float32)}
    return chain(node("Conv", ["x", "w", "b"], ["c"]), node(op, operands, ["y"]), constants=constants)


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), CHANNELS, (32, 1, 1), (1, 1, 1, 1)], ids=str)
def test_a_constant_of_each_channel_moves_into_the_convolution_before_it(
    tmp_path: Path, op: str, shape: tuple[int, ...]
) -> None:
    assert folded(arithmetic(op, 1.5 + weights(*shape, 1)[..., 0]), tmp_path) == Counter(Conv=1)


@pytest.mark.parametrize(("op", "first", "gone"), [("Sub", True, True), ("Div", True, False), ("Mul", True, True)])
def test_a_constant_may_stand_on_either_side_where_that_is_a_scale(
    tmp_path: Path, op: str, first: bool, gone: bool
) -> None:
    ops = folded(arithmetic(op, np.full(CHANNELS, 2.5), first=first), tmp_path)
    assert ops == (Counter(Conv=1) if gone else Counter({"Conv": 1, op: 1}))


@pytest.mark.parametrize("shape", [(6,), (1, 1, 6, 6), (1, 32, 6, 6)], ids=str)
def test_a_constant_that_differs_inside_a_channel_stays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert folded(arithmetic("Mul", weights(*shape)), tmp_path) == Counter(Conv=1, Mul=1)


@pytest.mark.parametrize("group", [1, 2, 16])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_norms_and_affine_layers_fold_whatever_the_groups(tmp_path: Path, op: str, group: int) -> None:
    shape = (32, 16 // group, 3, 3) if op == "Conv" else (16, 32 // group, 3, 3)
    constants = {"w": weights(*shape), "m": weights(32), "v": 1 + weights(32, seed=1) ** 2}
    constants |= {"g": 1 + weights(32, seed=2), "o": weights(32, seed=3), "k": weights(*CHANNELS, seed=4)}
    nodes = [
        node(op, ["x", "w"], ["c"], group=group),
        node("BatchNormalization", ["c", "g", "o", "m", "v"], ["n"], epsilon=1e-3),
        node("Add", ["n", "k"], ["y"]),
    ]
    assert folded(chain(*nodes, constants=constants), tmp_path) == Counter({op: 1})


def affine_between(pads: int, *, group: int = 1, op: str = "Conv", scalar: bool = False) -> onnx.ModelProto:
    """Conv, Relu, a scale and a shift of each channel, and what reads them."""
    shape = (24, 32 // group, 3, 3) if op == "Conv" else (32, 24 // group, 3, 3)
    constants = {"w": weights(32, 16, 1, 1), "v": weights(*shape, seed=1)}
    values = (1,) if scalar else CHANNELS
    constants |= {"s": 0.5 + np.abs(weights(*values, 1, seed=2)[..., 0]), "k": weights(*values, 1, seed=3)[..., 0]}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Mul", ["s", "r"], ["m"]),
        node("Add", ["m", "k"], ["a"]),
        node(op, ["a", "v"], ["y"], pads=[pads] * 4, group=group),
    ]
    return chain(*nodes, constants=constants)


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize("scalar", [False, True])
def test_scales_and_shifts_move_ahead_where_nothing_is_padded(tmp_path: Path, group: int, scalar: bool) -> None:
    ops = folded(affine_between(0, group=group, scalar=scalar), tmp_path)
    assert ops == Counter(Conv=2, Relu=1)


@pytest.mark.parametrize("group", [1, 2, 8])
def test_a_shift_stays_in_front_of_padding_but_its_scale_moves_ahead(tmp_path: Path, group: int) -> None:
    assert folded(affine_between(1, group=group), tmp_path) == Counter(Conv=2, Relu=1, Add=1)


@pytest.mark.parametrize("group", [1, 2])
def test_a_scale_moves_into_a_transposed_convolution(tmp_path: Path, group: int) -> None:
    ops = folded(affine_between(0, op="ConvTranspose", group=group), tmp_path)
    assert ops == Counter(Conv=1, Relu=1, Add=1, ConvTranspose=1)


def test_what_others_read_stays(tmp_path: Path) -> None:
    proto = affine_between(0)
    proto.graph.output.append(info("a", (None,) * 4))
    assert folded(proto, tmp_path) == Counter(Conv=2, Relu=1, Mul=1, Add=1)


def test_what_a_caller_may_override_stays(tmp_path: Path) -> None:
    proto = arithmetic("Mul", np.full(CHANNELS, 2.5))
    proto.graph.input.append(info("k", CHANNELS))
    assert folded(proto, tmp_path) == Counter(Conv=1, Mul=1)


def test_a_weight_that_two_convolutions_read_stays(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Mul", ["c", "k"], ["m"]),
        node("Conv", ["x", "w"], ["d"]),
        node("Add", ["m", "d"], ["y"]),
    ]
    constants = {"w": weights(32, 16, 3, 3), "k": np.full(CHANNELS, 2.5, np.float32)}
    assert folded(chain(*nodes, constants=constants), tmp_path)["Mul"] == 1


@pytest.mark.parametrize("padding", [(0, 0, 1, 1), (1, 2, 3, 0)])
@pytest.mark.parametrize("attribute", [False, True])
def test_padding_with_zeros_becomes_the_convolutions_own(
    tmp_path: Path, padding: tuple[int, ...], attribute: bool
) -> None:
    pads = [0, 0, *padding[:2], 0, 0, *padding[2:]]
    constants = {"w": weights(32, 16, 3, 3)}
    first = node("Pad", ["x"], ["p"], pads=pads) if attribute else node("Pad", ["x", "pads"], ["p"])
    constants |= {} if attribute else {"pads": np.array(pads)}
    nodes = [first, node("Conv", ["p", "w"], ["y"], pads=[1, 0, 0, 1])]
    proto = graphs.model(
        nodes, [info("x", ("batch", 16, 8, 8))], [info("y", (None,) * 4)], constants, opset=9 if attribute else 17
    )
    assert folded(proto, tmp_path) == Counter(Conv=1)
    (convolution,) = onnx.load(tmp_path / "folded.onnx").graph.node
    held = {entry.name: list(entry.ints) for entry in convolution.attribute}
    assert held["pads"] == [a + b for a, b in zip(padding, [1, 0, 0, 1], strict=True)]


@pytest.mark.parametrize(
    ("pads", "value", "mode"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 1.0, "constant"),
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, "edge"),
        ([0, 0, -1, 0, 0, 0, 0, 0], 0.0, "constant"),
    ],
)
def test_padding_with_anything_else_stays(tmp_path: Path, pads: list[int], value: float, mode: str) -> None:
    constants = {"w": weights(32, 16, 3, 3), "pads": np.array(pads), "value": np.array(value, np.float32)}
    nodes = [node("Pad", ["x", "pads", "value"], ["p"], mode=mode), node("Conv", ["p", "w"], ["y"])]
    assert folded(chain(*nodes, constants=constants), tmp_path)["Pad"] == 1


def gate(width: float, shift: float, divisor: float, *, product: bool) -> onnx.ModelProto:
    constants = {"a": np.array(shift, np.float32), "low": np.array(0, np.float32)}
    constants |= {"high": np.array(width, np.float32), "d": np.array(divisor, np.float32)}
    nodes = [node("Add", ["x", "a"], ["s"]), node("Clip", ["s", "low", "high"], ["c"])]
    nodes += [node("Mul", ["x", "c"], ["m"])] if product else []
    nodes.append(node("Div", ["m" if product else "c", "d"], ["q"]))
    nodes.append(node("Neg", ["q"], ["y"]))
    return chain(*nodes, constants=constants)


@settings(max_examples=12, deadline=None)
@given(width=st.floats(0.5, 20), shift=st.floats(-4, 4), product=st.booleans())
def test_a_gate_that_is_spelled_out_becomes_one(
    tmp_path_factory: pytest.TempPathFactory, width: float, shift: float, product: bool
) -> None:
    ops = folded(gate(width, shift, width, product=product), tmp_path_factory.mktemp("gate"))
    assert ops == Counter({"HardSigmoid": 1, "Neg": 1} | ({"Mul": 1} if product else {}))


def test_a_clip_of_another_width_is_no_gate(tmp_path: Path) -> None:
    assert folded(gate(6, 3, 5, product=True), tmp_path)["Clip"] == 1
