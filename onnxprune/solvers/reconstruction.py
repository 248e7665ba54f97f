"""Refit what remains of a linear, so that its output matches the dense layer's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky

from onnxprune.solvers.gram import DAMPING, Array, Matrix, centred, damped, dead_inputs


@dataclass(frozen=True, kw_only=True)
class Against:
    """What the pruned model's inputs x' of a linear are like beside the dense model's inputs x.

    Attributes:
        gram: [k', k'], E[x'ᵀx'].
        cross: [k', k], E[x'ᵀx].
        mean: [k'], E[x']; None where the linear has no bias to refit.
    """

    gram: Array
    cross: Array
    mean: Array | None = None


def refit(
    weight: Array,
    gram: Array,
    kept: Array,
    *,
    mean: Array | None = None,
    against: Against | None = None,
    damping: float = DAMPING,
) -> tuple[Matrix, Matrix]:
    """Weights of the inputs that stay, and what the bias gains, for the dense layer's output in least squares.

    This is at once the closed-form update of ZipLM and optimal brain surgeon, the reconstruction step of channel
    pruning, and the ridge "recycling" that hands what cut heads contributed to the heads that are kept. The ridge pulls
    towards the dense weights, not towards zero: where nothing is cut, nothing changes.

    Args:
        weight: [k, n], applied as x @ weight.
        gram: [k, k], E[xᵀx] of the dense layer's inputs; without a mean, any multiple. Not read where `against` is
            given.
        kept: [k'], the inputs that stay, in the order of the rows returned.
        mean: [k], E[x]: the bias is refitted too. None: it is left alone.
        against: statistics of the inputs as the pruned model computes them, where layers before this one have changed.
            None: they are the dense model's.
        damping: share of the mean diagonal that is added to it.

    Returns:
        weight [k', n] and gain [n], minimising E‖x'·weight + gain - x·W‖² + ridge·‖weight - W[kept]‖².

    Source: Kurtic, Frantar, Alistarh 2023, ZipLM, section 3.1; He, Zhang, Sun 2017, Channel Pruning, section 3.1.
    """
    dense = np.asarray(weight, dtype=np.float64)
    places = np.asarray(kept, dtype=np.intp)
    seen: Array | None
    if against is None:
        whole = centred(gram, mean)
        # The ridge is that of all inputs, so that this equals removing them one by one.
        hessian, added = damped(whole, damping)
        hessian, cross = hessian[np.ix_(places, places)], whole[places]
        dead = dead_inputs(gram, whole)[places]
        seen = None if mean is None else np.asarray(mean, dtype=np.float64)[places]
    else:
        seen = None if mean is None or against.mean is None else np.asarray(against.mean, dtype=np.float64)
        own = centred(against.gram, seen)
        cross = np.asarray(against.cross, dtype=np.float64)
        if seen is not None and mean is not None:
            cross = cross - np.outer(seen, np.asarray(mean, dtype=np.float64))
        hessian, added = damped(own, damping)
        dead = dead_inputs(against.gram, own)
    found = _solve(hessian, cross @ dense + added * dense[places])
    # Nothing is known of an input that never moved: its weights stay what they were.
    found[dead] = dense[places[dead]]
    gain = np.zeros(dense.shape[1])
    if seen is not None and mean is not None:
        gain = np.asarray(mean, dtype=np.float64) @ dense - seen @ found
    return found, gain


def output_error(weight: Array, fitted: Array, gram: Array, *, mean: Array | None = None) -> float:
    """Share of a linear's output that `fitted` [k, n] misses: ‖X(W - Ŵ)‖² / ‖XW‖², of the variance given a mean.

    Rows of `fitted` are zero where inputs were removed. 0 is perfect; the mean output has 1 where a mean is given.
    """
    covariance = centred(gram, mean)
    dense = np.asarray(weight, dtype=np.float64)
    missed = dense - fitted
    whole = float(np.vdot(dense, covariance @ dense))
    return float(np.vdot(missed, covariance @ missed)) / whole if whole > 0 else 0.0


def bias_gain(weight: Array, fitted: Array, mean: Array) -> Matrix:
    """[n] what a bias gains, so that the mean output is the dense layer's: E[x]·(W - Ŵ).

    Args:
        weight: [k, n], applied as x @ weight.
        fitted: [k, n], what takes its place: pruned, factored, rounded; zeros where the linear goes altogether.
        mean: [k], E[x].
    """
    return np.asarray(np.asarray(mean, dtype=np.float64) @ (np.asarray(weight, dtype=np.float64) - fitted))


def _solve(hessian: Array, target: Matrix) -> Matrix:
    if not len(hessian):
        return np.zeros_like(target)
    factor = cholesky(hessian, lower=True, check_finite=False)
    return np.asarray(cho_solve((factor, True), target, check_finite=False))
