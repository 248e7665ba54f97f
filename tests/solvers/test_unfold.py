"""Patches as rows: a product with them is the convolution."""

from __future__ import annotations

import numpy as np
import onnx.reference
import pytest
from onnx import TensorProto, helper

from onnxprune.solvers.unfold import unfold


@pytest.mark.parametrize(
    ("strides", "pads", "dilations"),
    [((1, 1), (0, 0, 0, 0), (1, 1)), ((2, 1), (1, 0, 2, 1), (1, 1)), ((1, 2), (2, 2, 2, 2), (2, 1))],
)
def test_rows_times_the_weight_are_the_convolution(
    strides: tuple[int, ...], pads: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    random = np.random.default_rng(0)
    images = random.standard_normal((2, 3, 7, 8)).astype(np.float32)
    weight = random.standard_normal((5, 3, 3, 2)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=strides, pads=pads, dilations=dilations)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwy"]
    model = helper.make_model(helper.make_graph([node], "conv", ports[:2], ports[2:]))
    (given,) = list(onnx.reference.ReferenceEvaluator(model).run(None, {"x": images, "w": weight}))
    wanted = np.asarray(given)
    rows = unfold(images, (3, 2), strides=strides, pads=pads, dilations=dilations)
    got = (rows @ weight.reshape(5, -1).T).reshape(2, *wanted.shape[2:], 5).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
