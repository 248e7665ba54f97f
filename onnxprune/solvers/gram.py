"""Second moments of inputs: centred, damped, inverted. Everywhere x @ weight, weight [k, n], gram [k, k]."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cholesky, lapack

from onnxprune.errors import Declined

Array = np.ndarray[Any, Any]
Matrix = np.ndarray[Any, np.dtype[np.float64]]

# Share of the mean diagonal that is added to it, as ZipLM's users found it: enough for a stable inverse of a few
# thousand rows, and small beside the error that removing any unit makes.
DAMPING = 1e-3
# A variance below this share of the mean square is rounding: the input never moves.
_DEAD_SHARE = 1e-12


def centred(gram: Array, mean: Array | None) -> Matrix:
    """Covariance [k, k] of inputs with second moment `gram` E[xᵀx] and mean [k]; `gram` itself without a mean."""
    if mean is None:
        return np.asarray(gram, dtype=np.float64)
    wide = np.asarray(mean, dtype=np.float64)
    return np.asarray(gram, dtype=np.float64) - np.outer(wide, wide)


def dead_inputs(gram: Array, covariance: Array | None = None) -> Array:
    """[k] true where an input is zero, or constant where its covariance is given too."""
    diagonal = np.diagonal(gram)
    moving = diagonal if covariance is None else np.diagonal(covariance)
    return np.asarray(moving <= _DEAD_SHARE * diagonal)


def damped(gram: Array, damping: float) -> tuple[Matrix, float]:
    """A positive definite copy of `gram` [k, k], and what was added to its diagonal: `damping` times its mean.

    Where that does not suffice, since rounding or too few samples left it indefinite, ten times as much is tried. A
    matrix of zeros, or of the rounding of inputs that never move, has no scale and becomes like the identity.

    Raises:
        Declined: it is not finite.
    """
    if not np.isfinite(gram).all():
        raise Declined("its inputs are not finite on the samples")
    level, share = float(np.trace(gram)) / max(len(gram), 1), damping
    if level <= 0:
        level, share = 1 + float(np.abs(gram).max(initial=0)), 1.0
    while True:
        added = share * level
        matrix = np.array(gram, dtype=np.float64, order="F")
        matrix[np.diag_indices_from(matrix)] += added
        try:
            cholesky(matrix, lower=True, check_finite=False)
        except LinAlgError:
            share = max(10 * share, 1e-10)
        else:
            return matrix, added


def inverse(matrix: Array) -> Matrix:
    """Inverse of a symmetric positive definite matrix, lower triangle only, Fortran order; the rest is undefined."""
    factor = cholesky(matrix, lower=True, check_finite=False)
    found, info = lapack.dpotri(np.asfortranarray(factor), lower=1, overwrite_c=1)
    if info:
        raise LinAlgError(f"dpotri: {info}")
    return np.asarray(found)
