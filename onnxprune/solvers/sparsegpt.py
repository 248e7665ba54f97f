"""Zeros and integers chosen in one sweep over the inputs, each error made up for by the inputs that are yet to come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, lapack

from onnxprune.solvers.gram import Array, Matrix, damped, dead_inputs
from onnxprune.solvers.kmeans import nearest
from onnxprune.solvers.quantize import INT8_MAX
from onnxprune.solvers.wanda import Blocks, blocks_mask

# What the released code adds to the diagonal, as a share of its mean.
_DAMPING = 0.01
# Inputs swept before the rest of the matrix is brought up to date.
_SWEPT = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """A weight [k, n] made sparse, whole, or both.

    Attributes:
        values: [k, n]; zeros exact, `integers * scale` where there is a scale.
        integers: [k, n] int8 in [-largest, largest]; None without a scale.
        loss: ‖X(W - Ŵ)‖² / ‖XW‖², the ridge counted on both sides.
    """

    values: Matrix
    integers: Array | None
    loss: float


def solve(
    weight: Array,
    gram: Array,
    *,
    sparsity: float | Blocks = 0.0,
    kept: Array | None = None,
    scale: Array | None = None,
    largest: int = INT8_MAX,
    codebook: Array | None = None,
    descending: bool = False,
    swept: int = _SWEPT,
    damping: float = _DAMPING,
) -> Solved:
    """SparseGPT with the quantizer inside; GPTQ where sparsity is 0.

    Args:
        weight: [k, n], applied as x @ weight.
        gram: [k, k], Σ xᵀx or any multiple; the covariance (`gram.centred`) where a bias takes over means.
        sparsity: share of zeros in [0, 1], chosen over all outputs at once in each sweep, or zeros in every few
            consecutive inputs.
        kept: [k, n], true where weights stay; then `sparsity` is not read.
        scale: steps that broadcast against `weight`, from the dense weight: [n] or [1, n] for one an output, [k, n] for
            one a block of inputs. None: values stay real.
        largest: largest integer of the grid.
        codebook: sorted; values become the nearest of its numbers. Not with a scale.
        descending: sweep the inputs of the largest second moment first, which leaves their errors the most inputs to
            be made up by. Not with zeros in consecutive inputs.
        swept: inputs per sweep.
        damping: share of the mean diagonal that is added to it. An input that is never on goes
            first where zeros are wanted, and is rounded to the nearest otherwise.

    Source: Frantar and Alistarh 2023, SparseGPT, sections 3.2 to 3.4; Frantar et al. 2022, GPTQ, algorithm 1.
    """
    dense = np.array(weight, dtype=np.float64)
    hessian, _ = damped(gram, damping)
    energy = float(np.vdot(dense, hessian @ dense))
    steps = None if scale is None else np.broadcast_to(np.asarray(scale, dtype=np.float64), dense.shape)
    order = np.arange(len(dense))
    if descending and not isinstance(sparsity, Blocks):
        order = np.argsort(-np.diagonal(hessian), kind="stable")
        hessian = hessian[np.ix_(order, order)]
    sweep = _Sweep(
        dead=dead_inputs(gram)[order],
        weight=dense[order],
        root=_inverse_root(hessian),
        steps=None if steps is None else steps[order],
        kept=None if kept is None else np.asarray(kept, dtype=bool)[order],
        sparsity=sparsity,
        largest=largest,
        codebook=codebook,
    )
    if isinstance(sparsity, Blocks):
        swept = max(swept - swept % sparsity.of, sparsity.of)
    for start in range(0, len(dense), swept):
        sweep.over(start, min(start + swept, len(dense)))
    back = np.argsort(order)
    values = sweep.weight[back]
    integers = None if steps is None else np.rint(values / steps).astype(np.int8)
    return Solved(values=values, integers=integers, loss=sweep.lost / energy if energy > 0 else 0.0)


def obs_scores(weight: Array, gram: Array, *, damping: float = _DAMPING) -> Matrix:
    """[k, n] the error that zeroing each weight alone makes, all others making up for it: w² / [H⁻¹]ⱼⱼ.

    Source: Hassibi and Stork 1992, Second Order Derivatives for Network Pruning.
    """
    hessian, _ = damped(gram, damping)
    spread = np.square(_inverse_root(hessian)).sum(axis=0)
    score = np.square(np.asarray(weight, dtype=np.float64)) / spread[:, None]
    score[dead_inputs(gram)] = 0
    return np.asarray(score)


@dataclass(kw_only=True, eq=False)
class _Sweep:
    """The weight on its way: rows before the current one are settled, those after it make up for them."""

    weight: Matrix
    root: Matrix
    steps: Matrix | None
    kept: Array | None
    dead: Array
    sparsity: float | Blocks
    largest: int
    codebook: Array | None = None
    lost: float = 0.0

    def over(self, start: int, stop: int) -> None:
        """Settle rows `start` to `stop`, then pass their errors on to all later rows."""
        errors = np.empty((stop - start, self.weight.shape[1]))
        kept = self._kept(start, stop)
        for row in range(start, stop):
            if isinstance(self.sparsity, Blocks) and self.kept is None and row % self.sparsity.of == 0:
                # From the weights as they now are: earlier zeros have changed them.
                score = self._score(slice(row, min(row + self.sparsity.of, stop)))
                kept[row - start : row - start + len(score)] = blocks_mask(score, self.sparsity)
            settled = np.where(kept[row - start], self._rounded(row), 0.0)
            error = (self.weight[row] - settled) / self.root[row, row]
            self.weight[row] = settled
            self.weight[row + 1 : stop] -= np.multiply.outer(self.root[row, row + 1 : stop], error)
            errors[row - start] = error
        self.weight[stop:] -= self.root[start:stop, stop:].T @ errors
        self.lost += float(np.vdot(errors, errors))

    def _kept(self, start: int, stop: int) -> Array:
        """[rows, n] what stays of the rows of a sweep, where that is known in advance."""
        if self.kept is not None:
            return self.kept[start:stop]
        mask = np.ones((stop - start, self.weight.shape[1]), dtype=bool)
        if not isinstance(self.sparsity, Blocks):
            # Counted from the top, so that sweeps add up to the share of the whole.
            share = self.sparsity * mask.shape[1]
            count = int(np.floor(stop * share + 1e-9)) - int(np.floor(start * share + 1e-9))
            mask.ravel()[np.argsort(self._score(slice(start, stop)), axis=None, kind="stable")[:count]] = False
        return mask

    def _score(self, rows: slice) -> Matrix:
        """[rows, n] the error that zeroing each weight makes, the later rows making up for it."""
        score = np.square(self.weight[rows] / np.diagonal(self.root)[rows, None])
        score[self.dead[rows]] = 0
        return np.asarray(score)

    def _rounded(self, row: int) -> Matrix:
        if self.codebook is not None:
            return np.asarray(self.codebook[nearest(self.weight[row], self.codebook)])
        if self.steps is None:
            return np.asarray(self.weight[row])
        step = self.steps[row]
        return np.asarray(np.clip(np.rint(self.weight[row] / step), -self.largest, self.largest) * step)


def _inverse_root(hessian: Matrix) -> Matrix:
    """Upper U with UᵀU = H⁻¹, from H = R·Rᵀ with R upper: U = R⁻¹, and H itself is never inverted."""
    upper = cholesky(hessian[::-1, ::-1], lower=True, check_finite=False)[::-1, ::-1]
    root, info = lapack.dtrtri(np.asfortranarray(upper), lower=0, overwrite_c=1)
    if info:
        raise np.linalg.LinAlgError(f"dtrtri: {info}")
    return np.ascontiguousarray(np.triu(root))
