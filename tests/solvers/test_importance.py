"""Importances equal what they stand for, computed from the samples."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.solvers.importance import (
    block_influence,
    minitron_norms,
    unit_minitron,
    unit_output_norm,
    unit_wanda,
)
from tests.solvers.drawing import correlated

# Units of three inputs each, scattered.
GROUPS = np.random.default_rng(1).permutation(12).reshape(4, 3)


def test_an_output_norm_is_that_of_what_the_unit_adds() -> None:
    rng = np.random.default_rng(0)
    inputs, weight = correlated(rng, 50, 12), rng.standard_normal((12, 5))
    expected = [np.linalg.norm(inputs[:, unit] @ weight[unit]) for unit in GROUPS]
    np.testing.assert_allclose(unit_output_norm(weight, inputs.T @ inputs, GROUPS), expected)


def test_minitron_is_the_mean_over_tokens_and_the_norm_over_samples() -> None:
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((7, 11, 12))
    aggregated = np.sqrt((np.abs(activations).mean(axis=1) ** 2).sum(axis=0))
    norms = minitron_norms(np.abs(activations).mean(axis=1))
    np.testing.assert_allclose(norms, aggregated)
    expected = [np.sqrt((aggregated[unit] ** 2).sum()) for unit in GROUPS]
    np.testing.assert_allclose(unit_minitron(norms, GROUPS), expected)


def test_wanda_of_a_unit_adds_up_its_weights() -> None:
    rng = np.random.default_rng(0)
    inputs, weight = correlated(rng, 50, 12), rng.standard_normal((12, 5))
    norms = np.linalg.norm(inputs, axis=0)
    expected = [sum(abs(weight[i, j]) * norms[i] for i in unit for j in range(5)) for unit in GROUPS]
    np.testing.assert_allclose(unit_wanda(weight, norms, GROUPS), expected)


def test_a_block_that_turns_nothing_has_no_influence() -> None:
    rows = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    after = np.array([[6.0, 8.0], [0.0, 2.0], [0.0, 0.0], [1.0, 0.0]])
    # Rescaled, turned by a right angle, still zero, raised from nothing.
    assert block_influence(rows, after) == pytest.approx([0, 1, 0, 1])
    assert block_influence(rows[:1], -rows[:1]) == pytest.approx([2])
