"""Low-rank factors of a linear: one decomposition serves every rank.

Whatever a method weighs errors by, its best factors project the output: with V_r the leading right singular vectors of
R·W, where RᵀR stands for the inputs, W·V_r·V_rᵀ is the best approximation of rank r. Nothing is inverted, so that
inputs which are zero, or fewer samples than inputs, do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cholesky, svd

from onnxprune.errors import Declined
from onnxprune.solvers.gram import Array, Matrix, centred


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """Factors of a weight [k, n] at full rank; fewer of them approximate it.

    Attributes:
        left: [k, full], by falling importance.
        right: [full, n]. Columns of `left` and rows of `right` have equal norms, so that both suit a coarse grid.
        values: [full] singular values of the weight as the method weighs it, falling.
    """

    left: Matrix
    right: Matrix
    values: Matrix

    def at(self, rank: int) -> tuple[Matrix, Matrix]:
        """Left [k, rank] and right [rank, n]; at rank 0 only a bias stays."""
        return self.left[:, :rank], self.right[:rank]

    def lost(self, rank: int) -> float:
        """The share of the squared singular values that is dropped at `rank`; the error the method minimises."""
        squares = np.square(self.values)
        whole = float(squares.sum())
        return float(squares[rank:].sum()) / whole if whole > 0 else 0.0

    def rank_for_energy(self, energy: float) -> int:
        """The least rank that keeps this share, in [0, 1], of the squared singular values."""
        return next(rank for rank in range(len(self.values) + 1) if 1 - self.lost(rank) >= energy - 1e-12)


def svd_factors(weight: Array) -> Factors:
    """Factors of `weight` [k, n] that are nearest to it, whatever its inputs.

    Source: Eckart and Young 1936.
    """
    return _factors(weight, np.asarray(weight, dtype=np.float64))


def asvd_factors(weight: Array, mean_abs: Array, *, alpha: float = 0.5) -> Factors:
    """Factors that spare the rows of large inputs: errors of row j weigh `mean_abs[j]` to the power `alpha`.

    Args:
        weight: [k, n].
        mean_abs: [k], E|x|.
        alpha: 0 is the plain decomposition, 1 weighs by the inputs' size.

    Source: Yuan et al. 2023, ASVD, section 3.2.
    """
    return _row_weighted(weight, np.power(np.asarray(mean_abs, dtype=np.float64), alpha))


def fisher_factors(weight: Array, fisher: Array) -> Factors:
    """Factors that spare the rows the loss is sensitive to.

    Args:
        weight: [k, n].
        fisher: [k, n], squared gradients of the loss, summed over samples.

    Source: Hsu et al. 2022, Language Model Compression with Weighted Low-Rank Factorization, section 4.
    """
    return _row_weighted(weight, np.sqrt(np.asarray(fisher, dtype=np.float64).sum(axis=1)))


def whitened_factors(weight: Array, gram: Array, *, mean: Array | None = None) -> Factors:
    """The best factors of each rank for inputs with second moment `gram`.

    Args:
        weight: [k, n], applied as x @ weight.
        gram: [k, k], E[xᵀx]; without a mean, any multiple.
        mean: [k], E[x] where a bias is refitted too (`reconstruction.bias_gain`): then only what varies counts.

    Returns:
        Factors that minimise E‖x·W - x·left·right‖² at each rank; it is the sum of the dropped `values`², exactly.

    Source: Wang et al. 2024, SVD-LLM, section 3.1.
    """
    wide = np.asarray(weight, dtype=np.float64)
    return _factors(weight, _root(centred(gram, mean)) @ wide)


def shared_factors(weights: Sequence[Array], gram: Array, *, mean: Array | None = None) -> Factors:
    """As `whitened_factors`, of several weights [k, n_i] that take in the same x: one left factor serves them all.

    `right` holds their columns side by side, in the order given.
    """
    return whitened_factors(np.concatenate([np.asarray(weight) for weight in weights], axis=1), gram, mean=mean)


def rank_for_ratio(ratio: float, k: int, n: int) -> int:
    """The largest rank whose factors hold at most this share of the k·n numbers: ⌊ratio·k·n / (k + n)⌋."""
    # Rounding must not take a whole number below itself.
    return int(np.floor(ratio * k * n / (k + n) + 1e-9))


def break_even_rank(k: int, n: int) -> int:
    """The largest rank whose factors hold fewer than k·n numbers."""
    return (k * n - 1) // (k + n)


def sharing_pays(apart: Sequence[Factors], shared: Factors, ratio: float) -> bool:
    """Whether one left factor misses less of the outputs than one each, in the same share `ratio` of the numbers."""
    missed = 0.0
    for one in apart:
        rank = rank_for_ratio(ratio, len(one.left), one.right.shape[1])
        missed += float(np.square(one.values[rank:]).sum())
    rank = rank_for_ratio(ratio, len(shared.left), shared.right.shape[1])
    return float(np.square(shared.values[rank:]).sum()) < missed


def _row_weighted(weight: Array, scale: Matrix) -> Factors:
    return _factors(weight, scale[:, None] * np.asarray(weight, dtype=np.float64))


def _factors(weight: Array, weighed: Matrix) -> Factors:
    """Factors of `weight` by the right singular vectors of `weighed`."""
    if not np.isfinite(weighed).all():
        raise Declined("its weights or inputs are not finite")
    _, values, right = svd(weighed, full_matrices=False, check_finite=False)
    left = np.asarray(weight, dtype=np.float64) @ right.T
    # Rows of `right` have norm 1: both sides get the root of the product.
    size = np.sqrt(np.linalg.norm(left, axis=0))
    size[size == 0] = 1
    return Factors(left=left / size, right=right * size[:, None], values=values)


def _root(gram: Matrix) -> Matrix:
    """[k, k] R with RᵀR = `gram`; what rounding left below zero counts as zero."""
    try:
        return np.asarray(cholesky(gram, lower=False, check_finite=False))
    except LinAlgError:
        values, vectors = np.linalg.eigh(gram)
        return np.asarray(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)
