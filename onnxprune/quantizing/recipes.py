"""How weights are to become integers: how many bits, how many zeros, chosen and solved how."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from onnxprune.solvers.saturation import PORTABLE_MAX
from onnxprune.solvers.wanda import Blocks

Solver = Literal["joint", "prune-then-round", "round"]
Score = Literal["obs", "wanda", "magnitude"]

_BLOCKS = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What becomes of one weight.

    Attributes:
        bits: of the integers, sign included.
        sparsity: share of zeros in [0, 1), or zeros in every few consecutive inputs.
        score: which weights become zeros.
        solver: `round` rounds to the nearest and leaves it at that; the others make up for errors with what comes
            later: `joint` for zeros and rounding in one sweep, `prune-then-round` for zeros only.
        block: inputs that share a scale; None: all.
        portable: a bit less where products may saturate on x64 without VNNI.
        seven: 7 bits of 8 for all of it.
    """

    bits: int = 8
    sparsity: float | Blocks = 0.0
    score: Score = "obs"
    solver: Solver = "round"
    block: int | None = None
    portable: bool = False
    seven: bool = False

    @property
    def largest(self) -> int:
        """The largest integer of the grid; its negative is the smallest, so that zero is exact."""
        if self.bits == 8 and self.seven:
            return PORTABLE_MAX
        return int(2 ** (self.bits - 1) - 1)

    @property
    def sparse(self) -> bool:
        """Whether zeros are asked for."""
        return isinstance(self.sparsity, Blocks) or self.sparsity > 0

    @property
    def plain(self) -> bool:
        """Whether it is rounding to the nearest of 8 bits."""
        return self.bits == 8 and not self.sparse and self.solver == "round" and self.block is None

    @property
    def looks_at_inputs(self) -> bool:
        """Whether it cannot do without second moments of the inputs."""
        return self.solver != "round" or (self.sparse and self.score != "magnitude")

    def without_inputs(self) -> Recipe:
        """The same for a weight whose inputs are unknown."""
        return replace(self, solver="round", score="magnitude")


def parse_sparsity(value: float | str) -> float | Blocks | None:
    """A share in [0, 1) or `zeros:of`; None where it is neither."""
    if isinstance(value, str):
        found = _BLOCKS.fullmatch(value)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            return None
        # N:M names what stays in the literature: 2 of 4, and 4 of 8, are half either way.
        return Blocks(int(found[2]) - int(found[1]), int(found[2]))
    return float(value) if 0 <= value < 1 else None
