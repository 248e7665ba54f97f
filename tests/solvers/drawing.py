"""Correlated inputs for the properties of solvers."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def correlated(rng: np.random.Generator, rows: int, width: int, *, offset: float = 0.0) -> Array:
    """Inputs [rows, width] that share most of their variance, as activations do, of unlike scales."""
    shared = rng.standard_normal((rows, max(width // 2, 1))) @ rng.standard_normal((max(width // 2, 1), width))
    own = 0.3 * rng.standard_normal((rows, width))
    return np.asarray((shared + own) * rng.uniform(0.2, 3.0, width) + offset * rng.standard_normal(width))


def least_squares(inputs: Array, target: Array, ridge: float, towards: Array) -> Array:
    """The B that minimises ‖inputs·B - target‖² + ridge·‖B - towards‖², by orthogonal factors of the samples."""
    width = inputs.shape[1]
    stacked = np.vstack([inputs, np.sqrt(ridge) * np.eye(width)])
    return np.asarray(np.linalg.lstsq(stacked, np.vstack([target, np.sqrt(ridge) * towards]), rcond=None)[0])
