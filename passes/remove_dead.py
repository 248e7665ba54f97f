"""Cut units that carry nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnxprune.calibration import Needs
from onnxprune.dead import Dead, DeadUnits, Folds
from onnxprune.errors import Declined
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.removal import apply_removals, dimension_of, removal_edit, shapes_edit
from onnxprune.sites import Site

# Kernels want whole blocks of channels: a convolution of 479 may take half as long again as one of 480, and more once
# it is of integers, so that the clock of a float run does not tell.
_BLOCK = 8


@dataclass(frozen=True, kw_only=True)
class RemoveDead:
    """Cut units that training already zeroed or gated off; what a bias leaves of them is folded into the next one."""

    name: ClassVar[str] = "remove-dead"
    lossless: ClassVar[bool] = True
    structural: ClassVar[bool] = True
    timed: ClassVar[tuple[str, ...]] = ("channels",)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: zero weights say it, and one run of any input gives the constants."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a site with dead units; every other site of units with the reason."""
        structure = context.structure
        if structure is None or context.observe is None:
            raise Declined("the model's shapes were not observed")
        finder = DeadUnits(model, structure, context.observe)
        first = shapes_edit(self.name, structure)
        edits: list[Edit] = []
        skips: list[Skip] = []
        for site in sites:
            if site.dimension is None:
                continue
            if site.pinned:
                skips.append(Skip(site=site.id, why=site.pinned))
                continue
            dead = finder.of(dimension_of(site, structure), block=_BLOCK if site.kind == "channels" else 1)
            if dead.units:
                edits.append(_with_folds(removal_edit(self.name, site, dead.units, first), dead.folds))
            skips += [Skip(site=site.id, why=why) for why in _reasons(dead)]
        return Proposal((first, *edits) if edits else (), tuple(skips))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model less its dead units."""
        return apply_removals(model, edits)


def _reasons(dead: Dead) -> list[str]:
    """Why units stay."""
    if not dead.units and not dead.left and not dead.all:
        return ["none of its units is dead"]
    counts = Counter(dead.left.values())
    reasons = [f"{why}; {count} units stay" for why, count in sorted(counts.items())]
    return reasons + ["every unit is dead, and one must stay"] * dead.all


def _with_folds(edit: Edit, folds: Folds) -> Edit:
    if not folds:
        return edit
    tensors = {f"bias.{at}": bias for at, bias in enumerate(folds.values())}
    return replace(edit, args={**edit.args, "folds": [list(names) for names in folds]}, tensors=tensors)
