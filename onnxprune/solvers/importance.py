"""How much units and blocks matter, by what their inputs are like: forward runs only, no refit.

None of these compares across layers: rank within a layer.
"""

from __future__ import annotations

import numpy as np

from onnxprune.solvers.gram import Array, Matrix


def unit_wanda(weight: Array, norms: Array, groups: Array) -> Matrix:
    """[units] Σ |W_ij|·‖X_i‖ over a unit's inputs and all outputs.

    Args:
        weight: [k, n], applied as x @ weight.
        norms: [k], the L2 norm of each input over all rows.
        groups: [units, g], the inputs of each unit.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, summed over units.
    """
    rows = np.abs(np.asarray(weight, dtype=np.float64)).sum(axis=1) * norms
    return np.asarray(rows[groups].sum(axis=1))


def unit_minitron(sequence_norms: Array, groups: Array) -> Matrix:
    """[units] L2 norm over a unit's inputs of `sequence_norms` [k], see `minitron_norms`.

    Source: Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation, section 2.2.
    """
    return np.asarray(np.linalg.norm(np.asarray(sequence_norms, dtype=np.float64)[groups], axis=1))


def minitron_norms(sequence_means: Array) -> Matrix:
    """[k] L2 norm over samples of the mean magnitude over each sample's tokens, given as [samples, k]."""
    return np.asarray(np.linalg.norm(np.asarray(sequence_means, dtype=np.float64), axis=0))


def unit_output_norm(weight: Array, gram: Array, groups: Array) -> Matrix:
    """[units] ‖X_u·W_u‖, the size of what a unit adds to the outputs: sqrt(tr(W_uᵀ·G_uu·W_u)).

    Args:
        weight: [k, n].
        gram: [k, k], Σ xᵀx or any multiple.
        groups: [units, g].
    """
    wide = np.asarray(weight, dtype=np.float64)[groups]
    blocks = np.asarray(gram, dtype=np.float64)[groups[:, :, None], groups[:, None, :]]
    return np.asarray(np.sqrt(np.maximum(np.sum(wide * (blocks @ wide), axis=(1, 2)), 0)))


def block_influence(before: Array, after: Array) -> Matrix:
    """[rows] 1 - cosine of what a block takes in and gives out, each [rows, width]: 0 where it only rescales.

    Its mean over all tokens is the block's score. Rows of zeros count as unchanged where both are.

    Source: Men et al. 2024, ShortGPT, section 3.1.
    """
    x, y = (np.asarray(rows, dtype=np.float64) for rows in (before, after))
    product = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    same = (product == 0) & np.all(x == y, axis=-1)
    cosine = np.sum(x * y, axis=-1) / np.where(product > 0, product, 1)
    return np.asarray(1 - np.where(same, 1.0, cosine))
