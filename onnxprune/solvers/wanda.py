"""Which single weights are zeroed: scores by magnitude, and by magnitude times the input's norm; masks by share or N:M.

Masks are true where a weight stays. Weights are compared within an output, a column in the layout x @ weight, or within
the whole matrix; the earlier of equal scores goes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxprune.solvers.gram import Array, Matrix

Group = Literal["output", "layer"]

# Halving the bracket so often settles the share to less than one weight of any layer.
_BISECTIONS = 50


@dataclass(frozen=True)
class Blocks:
    """At least `zeros` of every `of` consecutive inputs of each output are zero: 2:4 is `Blocks(2, 4)`."""

    zeros: int
    of: int


def wanda_scores(weight: Array, norms: Array) -> Matrix:
    """[k, n] |W_ij|·‖X_i‖: what each weight contributes at most.

    Args:
        weight: [k, n], applied as x @ weight.
        norms: [k], the L2 norm of each input over all rows; any multiple.

    Unchanged where a norm's gain is multiplied and the rows that consume it are divided by the same.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, section 3.
    """
    return np.abs(np.asarray(weight, dtype=np.float64)) * np.asarray(norms, dtype=np.float64)[:, None]


def magnitude_scores(weight: Array) -> Matrix:
    """[k, n] |W_ij|."""
    return np.abs(np.asarray(weight, dtype=np.float64))


def share_mask(scores: Array, sparsity: float, *, group: Group = "output") -> Array:
    """Zero the lowest share `sparsity` in [0, 1] of each group: of each output ⌊k·sparsity⌋ weights.

    Source: Sun et al. 2023; Han et al. 2015 for whole layers.
    """
    table = scores if group == "output" else scores.reshape(-1, 1)
    count = int(np.floor(len(table) * sparsity + 1e-9))
    kept = np.ones(table.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(table, axis=0, kind="stable")[:count], values=False, axis=0)
    return kept.reshape(scores.shape)


def blocks_mask(scores: Array, blocks: Blocks) -> Array:
    """Zero the `zeros` lowest of each `of` consecutive inputs of every output.

    A rest of fewer inputs at the end keeps as many as a whole block would.
    """
    k, n = scores.shape
    count = -(-k // blocks.of)
    # What pads the last block counts as zeroed already.
    padded = np.full((count * blocks.of, n), -np.inf)
    padded[:k] = scores
    table = padded.reshape(count, blocks.of, n)
    kept = np.ones(table.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(table, axis=1, kind="stable")[:, : blocks.zeros], values=False, axis=1)
    return kept.reshape(-1, n)[:k]


def cumulative_mask(scores: Array, sparsity: float) -> Array:
    """Zero in each output what adds up to the same share of its scores, that share set so that `sparsity` go in all.

    Outputs whose scores are uneven lose more weights than others.

    Source: Sun et al. 2023, the variant of the released code.
    """
    if sparsity >= 1:
        return np.zeros(scores.shape, dtype=bool)
    order = np.argsort(scores, axis=0, kind="stable")
    summed = np.cumsum(np.take_along_axis(scores, order, axis=0), axis=0)
    whole = np.maximum(summed[-1:], np.finfo(np.float64).tiny)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if np.mean(summed <= middle * whole) > sparsity:
            high = middle
        else:
            low = middle
    kept = np.empty(scores.shape, dtype=bool)
    np.put_along_axis(kept, order, summed > low * whole, axis=0)
    return kept
