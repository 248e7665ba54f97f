"""Masks over matrices: which numbers stay, by score and pattern; numbers and the optimizer's moments held at zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from onnxprune.learn.matrices import Matrix
from onnxprune.runtime import Array
from onnxprune.solvers.wanda import Blocks, blocks_mask, share_mask


@dataclass(frozen=True)
class Pattern:
    """Where zeros may stand.

    Attributes:
        blocks: at most so many of each run of inputs of an output are zero, 2:4; None: anywhere.
        rows: inputs of a tile that is zero or not as a whole.
        columns: outputs of it.
    """

    blocks: Blocks | None = None
    rows: int = 1
    columns: int = 1

    def mask(self, matrix: Matrix, scores: Array, sparsity: float) -> Array:
        """True where a number stays: the share `sparsity` of lowest scores goes, no more; as the weight is stored.

        With N:M, as many of each run of M go as the share allows, up to M - N. The earlier of equal scores goes first.
        """
        table = matrix.table(np.asarray(scores, dtype=np.float64))
        if self.blocks is not None:
            zeros = min(self.blocks.zeros, int(np.floor(sparsity * self.blocks.of + 1e-9)))
            return matrix.stored(blocks_mask(table, Blocks(zeros, self.blocks.of)))
        if self.rows == self.columns == 1:
            return matrix.stored(share_mask(table, sparsity, group="layer"))
        tiles = _pooled(table, self.rows, self.columns)
        kept = share_mask(tiles, sparsity, group="layer")
        spread = kept.repeat(self.rows, axis=0).repeat(self.columns, axis=1)
        return matrix.stored(spread[: table.shape[0], : table.shape[1]])


def _pooled(table: Array, rows: int, columns: int) -> Array:
    """Means over tiles; those at the edges over what they have."""
    k, n = table.shape
    tall, wide = -(-k // rows), -(-n // columns)
    padded = np.full((tall * rows, wide * columns), np.nan)
    padded[:k, :n] = table
    return np.asarray(np.nanmean(padded.reshape(tall, rows, wide, columns), axis=(1, 3)))


@dataclass(eq=False)
class Masks:
    """Masks of parameters, held through training.

    Attributes:
        kept: True where a number stays, by parameter.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    kept: dict[str, torch.Tensor]

    def set(self, name: str, kept: Array) -> None:
        """Another mask of a parameter."""
        self.kept[name] = torch.from_numpy(np.ascontiguousarray(kept)).to(self.parameters[name].device)

    def hold(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Zeros where masks want them, in the optimizer's moments, too: momentum and decay would move them again."""
        with torch.no_grad():
            for name, kept in self.kept.items():
                parameter = self.parameters[name]
                parameter.mul_(kept)
                held = {} if optimizer is None else optimizer.state.get(parameter, {})
                for moment in ("exp_avg", "exp_avg_sq"):
                    if moment in held:
                        held[moment].mul_(kept)

    def drop_gradients(self) -> None:
        """No gradient where a number is masked."""
        for name, kept in self.kept.items():
            gradient = self.parameters[name].grad
            if gradient is not None:
                gradient.mul_(kept)

    def state(self) -> dict[str, Array]:
        """Masks by parameter, a bit a number."""
        return {f"mask/{name}": np.packbits(kept.cpu().numpy()) for name, kept in self.kept.items()}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Masks as they were."""
        for key, bits in arrays.items():
            if key.startswith("mask/"):
                name = key.removeprefix("mask/")
                shape = tuple(self.parameters[name].shape)
                self.set(name, np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape))
