"""Cheaper activations, within a stated distance of the exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from onnxprune.calibration import Needs
from onnxprune.errors import Declined
from onnxprune.graph import storage
from onnxprune.inference import drop_shapes, refresh_shapes
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import check_ranges
from onnxprune.sites import GRAPH, Site
from onnxprune.streamlining.activations import BOUNDS, Form, approximate


@dataclass(frozen=True, kw_only=True)
class ApproximateActivations:
    """Put cheaper functions in place of exact Gelus, where the clock says that they are faster; only on request.

    Attributes:
        gelu: `tanh`, within 4.8e-4 of the exact one everywhere, or `sigmoid`, x · sigmoid(1.702 x), within 2.1e-2.
    """

    name: ClassVar[str] = "approximate-activations"
    lossless: ClassVar[bool] = False
    gelu: Form = "tanh"

    def __post_init__(self) -> None:
        """Reject forms whose distance is not known."""
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: the graph says it all."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit for all Gelus; none where there are none."""
        del sites, context
        if not _approximated(model, self.gelu)[1]:
            return Proposal((), (Skip(site=GRAPH, why="no exact Gelu is in the graph"),))
        edit = Edit(
            id=f"{self.name}.gelu", pass_name=self.name, site=GRAPH, kind="approximate", args={"gelu": self.gelu}
        )
        return Proposal((edit,))

    def rivals(self, edit: Edit) -> str | None:
        """All of them stand or fall by the clock."""
        return f"gelu by {edit.args['gelu']}"

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with cheaper activations; the change says how far each may be from the exact one."""
        changes = []
        for edit in edits:
            asked = edit.args.get("gelu")
            form = next((known for known in BOUNDS if known == asked), None)
            if form is None:
                raise Declined(f"{edit.id}: no form of a Gelu is named {asked!r}")
            (params, size), (model, count) = storage(model.graph), _approximated(model, form)
            params_after, size_after = storage(model.graph)
            what = f"{count} Gelu{'s' * (count != 1)} by {form}, each within {BOUNDS[form]:g} of the exact one"
            changes.append(
                Change(
                    site=edit.site,
                    what=what,
                    params_before=params,
                    params_after=params_after,
                    bytes_before=size,
                    bytes_after=size_after,
                )
            )
        return model, tuple(changes)


def _approximated(model: Model, form: Form) -> tuple[Model, int]:
    copy = model.copy()
    refresh_shapes(copy)
    count = approximate(copy, form)
    drop_shapes(copy.graph)
    return copy, count
