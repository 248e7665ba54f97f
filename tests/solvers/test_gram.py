"""Second moments can always be inverted after damping, or the site is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.errors import Declined
from onnxprune.solvers.gram import centred, damped, dead_inputs, inverse


def test_damping_is_a_share_of_the_mean_diagonal() -> None:
    # (1 + 3) / 2 · 0.1 = 0.2
    matrix, added = damped(np.diag([1.0, 3.0]), 0.1)
    assert added == pytest.approx(0.2)
    np.testing.assert_allclose(matrix, np.diag([1.2, 3.2]))


@pytest.mark.parametrize("level", [0.0, 1.0, 1e-9, 1e9])
def test_inputs_that_never_move_leave_something_to_invert(level: float) -> None:
    """Their covariance is the rounding of large numbers, of either sign."""
    inputs = np.full((50, 6), level) * np.linspace(1, 2, 6)
    gram, mean = inputs.T @ inputs / 50, inputs.mean(axis=0)
    covariance = centred(gram, mean)
    assert dead_inputs(gram, covariance).all()
    for noise in (covariance, -np.abs(covariance)):
        matrix, _ = damped(noise, 1e-3)
        assert np.isfinite(np.tril(inverse(matrix))).all()


def test_an_indefinite_matrix_is_damped_until_it_can_be_inverted() -> None:
    gram = np.array([[1.0, 1.0], [1.0, 1.0 - 1e-6]])
    matrix, added = damped(gram, 0)
    # The least power of ten times 1e-10 that lifts the lower eigenvalue, -5e-7, above zero.
    assert added == pytest.approx(1e-6, rel=1e-5)
    assert np.linalg.eigvalsh(matrix)[0] > 0


def test_what_is_not_finite_is_declined() -> None:
    with pytest.raises(Declined, match=r"^its inputs are not finite on the samples$"):
        damped(np.array([[np.nan]]), 1e-3)


def test_the_inverse_stands_in_the_lower_triangle() -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((8, 8))
    gram = root @ root.T + np.eye(8)
    np.testing.assert_allclose(np.tril(inverse(gram)), np.tril(np.linalg.inv(gram)), atol=1e-12)
