"""Mean cosines by hand: over tokens or whole samples, without padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.cosines import Pair, mean_cosines
from onnxprune.errors import DataError
from onnxprune.model import Model, load
from tests import graphs

Array = np.ndarray[Any, Any]


def turned(shape: list[str | int], turn: Array, *, mask: bool = False) -> onnx.ModelProto:
    """`y` is `x` with its last axis multiplied by a matrix."""
    inputs = [graphs.info("x", shape)]
    nodes = [graphs.node("MatMul", ["x", "turn"], ["y"])]
    outputs = [graphs.info("y", shape)]
    if mask:
        inputs.append(graphs.info("attention_mask", ("batch", "sequence"), graphs.INT64))
        nodes.append(graphs.node("Identity", ["attention_mask"], ["seen"]))
        outputs.append(graphs.info("seen", ("batch", "sequence"), graphs.INT64))
    return graphs.model(nodes, inputs, outputs, {"turn": turn})


def opened(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Model:
    return load(graphs.saved(proto, folder, name))


SWAP = np.array([[0, 1], [1, 0]], np.float32)
TOKENS: list[str | int] = ["batch", "sequence", 2]


def test_tokens_count_alike_whatever_their_size(tmp_path: Path) -> None:
    """(1, 0) turns to (0, 1), cosine 0; (3, 3) stays, cosine 1."""
    feeds = [{"x": np.array([[[1, 0], [3, 3]]], np.float32)}]
    model = opened(turned(TOKENS, SWAP), tmp_path)
    assert mean_cosines(model, model, [Pair("x", "y")], feeds) == pytest.approx([0.5])


def test_a_whole_sample_is_one_row_where_no_axis_is_named(tmp_path: Path) -> None:
    """(1, 0, 3, 3) and (0, 1, 3, 3): 18 / 19."""
    feeds = [{"x": np.array([[[1, 0], [3, 3]]], np.float32)}]
    model = opened(turned(TOKENS, SWAP), tmp_path)
    assert mean_cosines(model, model, [Pair("x", "y", None)], feeds) == pytest.approx([18 / 19])


def test_padded_tokens_are_left_out(tmp_path: Path) -> None:
    feeds = [{"x": np.array([[[3, 3], [1, 0]]], np.float32), "attention_mask": np.array([[1, 0]])}]
    model = opened(turned(TOKENS, SWAP, mask=True), tmp_path)
    found = mean_cosines(model, model, [Pair("x", "y"), Pair("x", "y", None)], feeds)
    assert found == pytest.approx([1.0, 1.0])


def test_channels_of_images_are_the_features(tmp_path: Path) -> None:
    """At both places the channels point the other way, whatever the width does."""
    shape: list[str | int] = ["batch", 2, 1, 2]
    model = opened(turned(shape, -np.eye(2, dtype=np.float32)), tmp_path)
    feeds = [{"x": np.arange(1, 5, dtype=np.float32).reshape(1, 2, 1, 2)}]
    assert mean_cosines(model, model, [Pair("x", "y", 1)], feeds) == pytest.approx([-1.0])


def test_two_models_are_compared_on_the_same_samples(tmp_path: Path) -> None:
    """The second of two samples stays what it is: 0 and 1."""
    first = opened(turned(TOKENS, SWAP), tmp_path)
    second = opened(turned(TOKENS, np.eye(2, dtype=np.float32)), tmp_path, "second.onnx")
    feeds = [{"x": np.array([[row]], np.float32)} for row in ([1, 0], [2, 2])]
    assert mean_cosines(first, second, [Pair("y", "y", None)], feeds) == pytest.approx([0.5])


def test_no_sample_is_told(tmp_path: Path) -> None:
    model = opened(turned(TOKENS, SWAP), tmp_path)
    with pytest.raises(DataError) as told:
        mean_cosines(model, model, [Pair("x", "y")], [])
    assert str(told.value) == "calibration: at least one sample is needed, got none. Give --data."
