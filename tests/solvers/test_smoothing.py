"""Outliers that move into weights, and means that stay where they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.smoothing import expected_shift, smoothing_factors


@settings(max_examples=50, deadline=None)
@given(alpha=st.floats(0, 1), seed=st.integers(0, 1000))
def test_factors_move_sizes_and_keep_products(alpha: float, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    x, w = np.exp(numbers.standard_normal(8)), np.exp(numbers.standard_normal(8))
    factors = smoothing_factors(x, w, alpha).astype(np.float64)
    np.testing.assert_allclose((x / factors) * (w * factors), x * w, rtol=1e-6)
    # Of the smoothed sizes: x/s ~ x^(1-alpha)·w^(1-alpha), so that they are the same where alpha is 1.
    if alpha == 1:
        np.testing.assert_allclose(x / factors, np.full(8, (x / factors)[0]), rtol=1e-5)


def test_a_channel_that_is_never_used_stays() -> None:
    factors = smoothing_factors(np.array([0.0, 2.0, 8.0]), np.array([1.0, 0.0, 2.0]), 0.5)
    assert factors[:2].tolist() == [1, 1]


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 3)])
def test_the_shift_is_that_of_the_mean_output(shape: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(0)
    error, rows = numbers.standard_normal(shape), numbers.standard_normal((1000, 4)) + 2
    taps = error.reshape(5, 4, -1).sum(axis=2)
    np.testing.assert_allclose(expected_shift(error, rows.mean(axis=0)), (rows @ taps.T).mean(axis=0), rtol=1e-9)
