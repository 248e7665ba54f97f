"""Int8 as training sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.learn.fake_quantization import int8_activation, int8_weight
from onnxprune.learn.matrices import Matrix

LINEAR = Matrix("w", (3, 2), (0,), "linear", ())


def test_a_weight_has_one_step_for_each_output() -> None:
    # Largest of the columns: 127 and 254, so that steps are 1 and 2; 0.4 is 0 steps, 3 is 1.5, to even 2.
    weight = torch.tensor([[127.0, -254.0], [0.4, 3.0], [-1.6, 0.0]])
    assert int8_weight(LINEAR)(weight).tolist() == [[127, -254], [0, 4], [-2, 0]]


def test_a_convolution_has_one_step_for_each_filter() -> None:
    # [outputs, inputs, kernel]: the sums run over the last two axes.
    matrix = Matrix("w", (2, 1, 2), (1, 2), "conv", ())
    weight = torch.tensor([[[127.0, 0.4]], [[1.27, 0.4]]])
    np.testing.assert_allclose(int8_weight(matrix)(weight), [[[127.0, 0.0]], [[1.27, 0.4]]], rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]))
def test_a_weight_moves_by_half_a_step_at_most_and_zeros_stay(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values: Any = rng.standard_normal((3, 2)).astype(np.float32) * np.float32(scale)
    values[rng.random((3, 2)) < 0.3] = 0
    got = int8_weight(LINEAR)(torch.from_numpy(values)).numpy()
    steps = np.maximum(np.abs(values).max(axis=0) / 127, 1e-12)
    assert (np.abs(got - values) <= steps / 2 * (1 + 1e-4)).all()
    assert (got[values == 0] == 0).all()


def test_a_column_of_zeros_stays_one_and_its_gradient_is_finite() -> None:
    weight = torch.zeros(3, 2, requires_grad=True)
    out = int8_weight(LINEAR)(weight)
    out.sum().backward()
    assert out.tolist() == [[0, 0]] * 3
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


def test_the_gradient_passes_straight_through_the_rounding() -> None:
    weight = torch.tensor([[127.0, -254.0], [0.4, 3.0], [-1.6, 0.0]], requires_grad=True)
    int8_weight(LINEAR)(weight).sum().backward()
    assert weight.grad is not None
    # Steps take no gradient; within the range each number counts once.
    assert weight.grad.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_activations_lie_on_256_levels_of_their_own_range(low: float) -> None:
    x = torch.linspace(low, 4, 1001)
    got = int8_activation(x)
    step = (4 - low) / 255
    assert float((got - x).abs().max()) <= step * 0.5001
    assert len(torch.unique(got)) <= 256
    assert float(int8_activation(torch.zeros(3)).abs().max()) == 0
