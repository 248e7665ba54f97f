"""Cut units that carry nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnxprune.calibration import Needs
from onnxprune.dead import DeadUnits
from onnxprune.errors import Declined
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Tensors
from onnxprune.protocol import Context, Proposal
from onnxprune.removal import apply_removals, dimension_of, removal_edit, shapes_edit
from onnxprune.sites import Site


@dataclass(frozen=True, kw_only=True)
class RemoveDead:
    """Cut units that training already zeroed or gated off; what a bias leaves of them is folded into the next one."""

    name: ClassVar[str] = "remove-dead"
    lossless: ClassVar[bool] = True
    structural: ClassVar[bool] = True

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: zero weights say it, and one run of any input gives the constants."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a site with dead units."""
        structure = context.structure
        if structure is None or context.observe is None:
            raise Declined("the model's shapes were not observed")
        finder = DeadUnits(model.graph, context.observe)
        first = shapes_edit(self.name, structure)
        edits = []
        for site in sites:
            if site.dimension is None or site.pinned:
                continue
            dead = finder.of(dimension_of(site, structure))
            if dead.units:
                edits.append(_with_folds(removal_edit(self.name, site, dead.units, first), dead.folds))
        return Proposal((first, *edits) if edits else ())

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model less its dead units."""
        return apply_removals(model, edits)


def _with_folds(edit: Edit, folds: Tensors) -> Edit:
    if not folds:
        return edit
    names = sorted(folds)
    tensors = {f"bias.{at}": folds[name] for at, name in enumerate(names)}
    return replace(edit, args={**edit.args, "folds": [[name] for name in names]}, tensors=tensors)
