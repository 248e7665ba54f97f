"""Stored weights as matrices: every operator's weight, applied to what its moments are taken of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.errors import Declined
from onnxprune.inputs import Source, compare_inputs
from onnxprune.model import Model, load
from onnxprune.quantizing.matrices import Layout, layout_of, sources_of
from onnxprune.weights import Weight, find_weights
from tests import graphs
from tests.graphs import info, node

Array = np.ndarray[Any, Any]


def only(proto: onnx.ModelProto, folder: Path) -> tuple[Model, Weight]:
    model = load(graphs.saved(proto, folder))
    (weight,) = find_weights(model.graph, model.overridable)
    return model, weight


def convolution(channels: int, out: int, **attributes: Any) -> onnx.ModelProto:
    group, op = attributes.get("group", 1), attributes.pop("op", "Conv")
    shape = (channels, out // group, 3, 2) if op == "ConvTranspose" else (out, channels // group, 3, 2)
    return graphs.model(
        [node(op, ["x", "w"], ["y"], **attributes)],
        [info("x", ("batch", channels, 9, 10))],
        [info("y", None)],
        {"w": graphs.weights(*shape)},
    )


@pytest.mark.parametrize(
    "proto",
    [
        graphs.matmul(),
        graphs.gemm(transB=1),
        convolution(6, 8),
        convolution(6, 8, group=2),
        convolution(6, 8, op="ConvTranspose"),
        convolution(6, 8, op="ConvTranspose", group=2),
    ],
    ids=["matmul", "transposed", "conv", "grouped", "upwards", "grouped upwards"],
)
def test_a_layout_goes_there_and_back(tmp_path: Path, proto: onnx.ModelProto) -> None:
    _, weight = only(proto, tmp_path)
    layout, values = layout_of(weight), weight.constant.values
    matrices = layout.matrices(values)
    assert matrices.shape == layout.size
    assert np.array_equal(layout.stored(matrices), values)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"group": 2},
        {"group": 6, "strides": [2, 1], "dilations": [1, 2]},
        {"pads": [1, 0, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3], "group": 3},
        {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
        {"auto_pad": "VALID", "strides": [2, 2]},
    ],
    ids=str,
)
def test_moments_of_patches_give_the_energy_of_a_convolutions_output(
    tmp_path: Path, attributes: dict[str, Any]
) -> None:
    """Σ y² = Σ over groups tr(WᵀGW), since y = x @ W for the rows x that G sums up."""
    path = graphs.saved(convolution(6, 12, **attributes), tmp_path)
    model = load(path)
    (weight,) = find_weights(model.graph)
    layout = layout_of(weight)
    (source,) = sources_of(weight, layout)
    feeds = graphs.feeds_for(path)
    gram = compare_inputs(model, model, [source], [feeds])[source].gram
    gram = gram if gram.ndim == 3 else gram[None]
    matrices = layout.matrices(weight.constant.values).astype(np.float64)
    energy = float(np.einsum("gkn,gkl,gln->", matrices, gram, matrices))
    (output,) = graphs.outputs_of(path, feeds).values()
    assert energy == pytest.approx(float(np.square(output, dtype=np.float64).sum()), rel=1e-5)


def test_neighbours_of_a_kernels_position_are_its_channels(tmp_path: Path) -> None:
    _, weight = only(convolution(6, 8), tmp_path)
    # 6 channels of 3 x 2 positions: those of the first position are 6 apart.
    assert layout_of(weight).by_channel()[:7].tolist() == [0, 6, 12, 18, 24, 30, 1]


def test_weights_of_a_recurrence_are_seen_and_those_of_its_states_are_not(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.recurrent("LSTM"), tmp_path))
    first, second = find_weights(model.graph)
    assert sources_of(first, layout_of(first)) == (Source(first.uses[0].node.inputs[0].name),)
    with pytest.raises(Declined, match=r"^its inputs are states inside the recurrence$"):
        sources_of(second, layout_of(second))


@pytest.mark.parametrize(
    ("proto", "why"),
    [
        (
            graphs.model(
                [node("MatMul", ["w", "x"], ["y"])],
                [info("x", (64, "batch"))],
                [info("y", (64, "batch"))],
                {"w": graphs.weights(64, 64)},
            ),
            "the weight is the left operand of the product",
        ),
        (
            graphs.model(
                [node("Gemm", ["x", "w"], ["y"], transA=1)],
                [info("x", (64, "batch"))],
                [info("y", ("batch", 64))],
                {"w": graphs.weights(64, 64)},
            ),
            "the activations are transposed by the product",
        ),
        (
            graphs.model(
                [node("MatMul", ["x", "w"], ["y"])],
                [info("x", (3, 5, 64))],
                [info("y", (3, 5, 64))],
                {"w": graphs.weights(3, 64, 64)},
            ),
            "a stack of matrices",
        ),
        (
            graphs.model(
                [node("MatMul", ["x", "w"], ["y"]), node("MatMul", ["y", "t"], ["z"]),
                 node("Transpose", ["w"], ["t"], perm=[1, 0])][::-1],
                [info("x", ("batch", 64))],
                [info("z", ("batch", 64))],
                {"w": graphs.weights(64, 64)},
            ),
            "its readers multiply by it and by its transpose",
        ),
    ],
    ids=["left", "transA", "stack", "both ways"],
)  # fmt: skip
def test_what_cannot_be_seen_says_why(tmp_path: Path, proto: onnx.ModelProto, why: str) -> None:
    if why.startswith("its readers"):
        # Transpose, then both products, in the order of the data.
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([nodes[0], nodes[2], nodes[1]])
    _, weight = only(proto, tmp_path)
    with pytest.raises(Declined) as reason:
        sources_of(weight, layout_of(weight))
    assert str(reason.value) == why


def test_moments_that_no_memory_holds_are_declined(tmp_path: Path) -> None:
    _, weight = only(graphs.matmul(), tmp_path)
    # Two matrices of 8192² float64 are the 2³⁰ bytes allowed.
    wide = Layout((8193, 1), (1, 8193, 1), (0, 1, 2))
    with pytest.raises(Declined, match=r"^second moments of 8193 inputs take more than 1073741824 bytes$"):
        sources_of(weight, wide)
