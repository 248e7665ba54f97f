"""Weights that give the same answer on processors that cut sums of products to 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxprune.graph import constants
from onnxprune.model import load
from onnxprune.passes import SparseInt8
from onnxprune.solvers.saturation import columns_at_risk, saturating_product
from tests import graphs
from tests.passes.test_sparse_int8 import proposal_for, quantized, worst_error


def heavy(proto: Any, columns: slice) -> Any:
    """The weight `w` with equal large neighbours in some output channels, and numbers of all sizes in the others."""
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == "w":
            array = numpy_helper.to_array(tensor).copy()
            array[:4, ..., columns] = 3.0 if array.ndim == 2 else array[:4, ..., columns]
            if array.ndim == 4:
                array[columns] = 0.5
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(array, "w"))
    return proto


def alternating(proto: Any) -> Any:
    """Neighbours of opposite signs: no pair can overflow."""
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == "w":
            array = np.abs(numpy_helper.to_array(tensor)).copy()
            array[1::2] *= -1
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(array, "w"))
    return proto


def stored(path: Path) -> Any:
    return next(t.values for t in constants(load(path).graph) if t.name == "w.int8")


def test_columns_at_risk_lose_a_bit_and_the_others_none(tmp_path: Path) -> None:
    proto = heavy(graphs.matmul(), slice(0, 8))
    before, after, _ = quantized(proto, tmp_path, SparseInt8(portable=True))
    (tmp_path / "plain").mkdir()
    _, plain, _ = quantized(proto, tmp_path / "plain", SparseInt8())
    at_risk = columns_at_risk(stored(plain))
    assert at_risk[:8].all()
    assert np.abs(stored(after))[:, at_risk].max() == 63
    np.testing.assert_array_equal(stored(after)[:, ~at_risk], stored(plain)[:, ~at_risk])
    assert not columns_at_risk(stored(after)).any()
    assert 0 < worst_error(before, after) < 0.05


def test_the_saturating_product_of_a_portable_weight_is_exact(tmp_path: Path) -> None:
    _, after, _ = quantized(heavy(graphs.matmul(), slice(None)), tmp_path, SparseInt8(portable=True))
    x = np.random.default_rng(0).integers(0, 256, (16, 64)).astype(np.uint8)
    x[0] = 255
    exact = x.astype(np.int32) @ stored(after).astype(np.int32)
    np.testing.assert_array_equal(saturating_product(x, stored(after)), exact)


def test_weights_that_cannot_overflow_keep_all_bits(tmp_path: Path) -> None:
    _, after, _ = quantized(alternating(graphs.matmul()), tmp_path, SparseInt8(portable=True))
    assert np.abs(stored(after)).max() == 127


@pytest.mark.parametrize(("group", "largest"), [(1, 63), (16, 127)])
def test_convolutions_but_not_depthwise_ones(tmp_path: Path, group: int, largest: int) -> None:
    proto = heavy(graphs.convolution(group=group), slice(0, 4))
    # One channel in and one out of each group is depthwise; two out of each are not.
    depthwise = {"w": np.full((16, 1, 3, 3), 0.5), "b": np.zeros(16), "v": graphs.weights(32, 16, 3, 3)}
    for at, tensor in enumerate(proto.graph.initializer):
        if group == 16:
            values = depthwise[tensor.name].astype(np.float32)
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(values, tensor.name))
    before, after, _ = quantized(proto, tmp_path, SparseInt8(portable=True), calibrate=True)
    assert np.abs(stored(after)[:4]).max() == largest
    assert 0 < worst_error(before, after) < 0.1


@pytest.mark.parametrize("signs", ["s8s8", "u8u8"])
def test_other_types_do_not_saturate(tmp_path: Path, signs: Any) -> None:
    path = graphs.saved(heavy(graphs.convolution(), slice(0, 4)), tmp_path)
    one = SparseInt8(portable=True, signs=signs)
    edits = proposal_for(load(path), one, [graphs.feeds_for(path)]).edits
    assert np.abs(edits[0].tensors["weight"]).max() == 127


def test_zeros_and_integers_together_leave_a_bit_of_room(tmp_path: Path) -> None:
    one = SparseInt8(portable=True, sparsity=0.5, solver="round", score="magnitude")
    _, after, _ = quantized(heavy(graphs.matmul(), slice(0, 8)), tmp_path, one)
    assert not columns_at_risk(stored(after)).any()
    assert np.mean(stored(after) == 0) >= 0.5


def test_the_report_says_how_many(tmp_path: Path) -> None:
    path = graphs.saved(heavy(graphs.matmul(), slice(None)), tmp_path)
    one, model = SparseInt8(portable=True), load(path)
    _, changes = one.apply(model, proposal_for(model, one).edits)
    assert [change.what for change in changes] == ["integer product: 64x64 as int8, 64 outputs in 7 bits"]
