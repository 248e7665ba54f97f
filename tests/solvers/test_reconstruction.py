"""Refitted weights equal ridge least squares on the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.gram import centred, damped
from onnxprune.solvers.reconstruction import Against, bias_gain, output_error, refit
from tests.solvers.drawing import correlated, least_squares


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 12),
    damping=st.sampled_from([1e-6, 1e-3, 1e-1]),
    biased=st.booleans(),
    drifted=st.booleans(),
)
def test_a_refit_equals_ridge_least_squares_on_the_samples(
    seed: int, width: int, damping: float, biased: bool, drifted: bool
) -> None:
    """With a bias: on samples less their means, the gain making up for the difference of mean outputs."""
    rng = np.random.default_rng(seed)
    rows = 300
    dense = correlated(rng, rows, width, offset=2.0)
    kept = rng.permutation(width)[: rng.integers(1, width + 1)]
    weight = rng.standard_normal((width, 5))
    pruned = dense[:, kept] + (0.5 * rng.standard_normal((rows, len(kept))) if drifted else 0)
    gram, mean = dense.T @ dense / rows, dense.mean(axis=0) if biased else None
    against = None
    if drifted:
        against = Against(
            gram=pruned.T @ pruned / rows,
            cross=pruned.T @ dense / rows,
            mean=pruned.mean(axis=0) if biased else None,
        )
    found, gain = refit(weight, gram, kept, mean=mean, against=against, damping=damping)
    _, ridge = (
        damped(centred(against.gram, against.mean), damping)
        if against is not None
        else damped(centred(gram, mean), damping)
    )
    target = dense @ weight
    inputs = pruned
    if biased:
        inputs, target = inputs - inputs.mean(axis=0), target - target.mean(axis=0)
    expected = least_squares(inputs / np.sqrt(rows), target / np.sqrt(rows), ridge, weight[kept])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    if biased:
        # Means of the outputs agree to rounding.
        np.testing.assert_allclose(pruned.mean(axis=0) @ found + gain, dense.mean(axis=0) @ weight, atol=1e-10)
    else:
        assert not gain.any()


def test_where_nothing_is_cut_nothing_changes() -> None:
    """The ridge pulls towards the dense weights: shrinkage would cost accuracy for nothing."""
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 50, 8, offset=1.0)
    weight = rng.standard_normal((8, 3))
    found, gain = refit(weight, inputs.T @ inputs / 50, np.arange(8), mean=inputs.mean(axis=0), damping=0.1)
    np.testing.assert_allclose(found, weight, atol=1e-12)
    np.testing.assert_allclose(gain, 0, atol=1e-12)


def test_rows_come_in_the_order_of_what_is_kept() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 50, 6)
    weight, gram = rng.standard_normal((6, 3)), inputs.T @ inputs
    ascending, _ = refit(weight, gram, np.array([1, 4]))
    descending, _ = refit(weight, gram, np.array([4, 1]))
    np.testing.assert_allclose(ascending, descending[::-1], atol=1e-12)


def test_an_input_that_never_moves_keeps_its_weights() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 50, 6)
    inputs[:, 2], inputs[:, 3] = 0.0, 7.0
    weight = rng.standard_normal((6, 3))
    kept = np.array([0, 2, 3])
    found, gain = refit(weight, inputs.T @ inputs / 50, kept, mean=inputs.mean(axis=0))
    np.testing.assert_array_equal(found[1:], weight[[2, 3]])
    np.testing.assert_allclose(
        inputs[:, kept].mean(axis=0) @ found + gain, inputs.mean(axis=0) @ weight, atol=1e-10
    )  # fmt: skip


def test_without_inputs_only_the_mean_output_stays() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 50, 4, offset=1.0)
    weight, mean = rng.standard_normal((4, 3)), inputs.mean(axis=0)
    found, gain = refit(weight, inputs.T @ inputs / 50, np.array([], dtype=int), mean=mean)
    assert found.shape == (0, 3)
    np.testing.assert_allclose(gain, (inputs @ weight).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(bias_gain(weight, np.zeros_like(weight), mean), gain, atol=1e-12)


def test_recycled_heads_beat_dropped_heads() -> None:
    """Half of eight heads: handing their part to the others misses less of the output than leaving it out."""
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 400, 32)
    weight, gram = rng.standard_normal((32, 16)), inputs.T @ inputs / 400
    kept = np.arange(16)
    found, _ = refit(weight, gram, kept)
    recycled, dropped = np.zeros_like(weight), weight.copy()
    recycled[kept], dropped[16:] = found, 0
    assert output_error(weight, recycled, gram) < 0.5 * output_error(weight, dropped, gram)


def test_the_error_of_an_output_is_that_of_the_samples() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 80, 6, offset=1.0)
    weight, other = rng.standard_normal((2, 6, 3))
    gram, mean = inputs.T @ inputs / 80, inputs.mean(axis=0)
    missed = inputs @ (weight - other)
    assert output_error(weight, other, gram) == pytest.approx(np.sum(missed**2) / np.sum((inputs @ weight) ** 2))
    varied = inputs @ weight - (inputs @ weight).mean(axis=0)
    expected = np.sum((missed - missed.mean(axis=0)) ** 2) / np.sum(varied**2)
    assert output_error(weight, other, gram, mean=mean) == pytest.approx(expected)
    assert output_error(np.zeros((6, 3)), other, gram) == 0
