"""Store weights as int8, and multiply with integers where that is what the runtime is fast at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from onnxprune.calibration import Needs
from onnxprune.errors import Declined, OptionError
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.quantizing.applying import apply_edits
from onnxprune.quantizing.forms import OPSETS, form_of
from onnxprune.quantizing.leaving import left_alone, quantized_already, refuse
from onnxprune.quantizing.milder import decoded_at_load
from onnxprune.quantizing.ranges import range_needs, ranges_of
from onnxprune.quantizing.solving import solve_weight
from onnxprune.sites import GRAPH, Site
from onnxprune.weights import Weight, find_weights


@dataclass(frozen=True, kw_only=True)
class SparseInt8:
    """Int8 weights with one scale a channel, zeros exact; products of integers where activations allow.

    Attributes:
        linears: `dynamic` quantizes activations at run time and multiplies integers; `stored` keeps the product in
            float and only the file small; `float` leaves linears alone.
        convs: `static` multiplies integers between calibrated ranges (needs sample inputs), `stored` keeps the
            product in float; `auto` is static where there are sample inputs; `float` leaves convolutions alone.
        embeddings: whether embedding tables become int8 with one scale a row.
        quantized: what to do with a graph that holds integer operators already: `leave` it alone as its maker chose,
            or `extend` them to what is still in float.
        sites: act on these linears, convolutions and embeddings only; on all of them by default.
    """

    name: ClassVar[str] = "sparse-int8"
    lossless: ClassVar[bool] = False
    linears: Literal["dynamic", "stored", "float"] = "dynamic"
    convs: Literal["auto", "static", "stored", "float"] = "auto"
    embeddings: bool = True
    quantized: Literal["leave", "extend"] = "leave"
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject values that no form stands for."""
        if self.linears not in {"dynamic", "stored", "float"}:
            raise OptionError(f"{self.name}: linears must be one of dynamic, stored, float, got {self.linears!r}.")
        if self.convs not in {"auto", "static", "stored", "float"}:
            raise OptionError(f"{self.name}: convs must be one of auto, static, stored, float, got {self.convs!r}.")
        if self.quantized not in {"leave", "extend"}:
            raise OptionError(f"{self.name}: quantized must be one of leave, extend, got {self.quantized!r}.")

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Ranges around every convolution, where they may become static."""
        del sites
        return range_needs(model) if self.convs in {"auto", "static"} else Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a weight, each with all its readers; readers that cannot follow keep the weight in float."""
        edits: list[Edit] = []
        skips: list[Skip] = left_alone(model)
        held = quantized_already(model)
        if held and self.quantized == "leave":
            why = f"the graph is quantized already ({', '.join(held)}); option quantized=extend takes the rest too"
            return Proposal((), (*skips, Skip(site=GRAPH, why=why)))
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        own = [site for site in sites if site.weight in weights]
        unknown = {*self.sites} - {site.id for site in own}
        if unknown:
            known = ", ".join(site.id for site in own) or "none"
            raise OptionError(f"{self.name}: no site {min(unknown)!r}. Known: {known}.")
        for site in own:
            if self.sites and site.id not in self.sites:
                skips.append(Skip(site=site.id, why="not among option sites"))
                continue
            try:
                edits.append(self._edit(site, weights[site.weight], context, model.overridable))
            except Declined as reason:
                skips.append(Skip(site=site.id, why=str(reason)))
        return Proposal(tuple(self._with_opset(edits, model.graph.opset)), tuple(skips))

    def _with_opset(self, edits: list[Edit], opset: int) -> list[Edit]:
        wanted = {edit.id: max(OPSETS.get(form, 0) for form in edit.args["forms"].values()) for edit in edits}
        needed = max(wanted.values(), default=0)
        if needed <= opset:
            return edits
        first = Edit(id=f"{self.name}.opset", pass_name=self.name, site=GRAPH, kind="raise-opset", args={"to": needed})
        return [first, *(replace(edit, depends_on=(first.id,)) if wanted[edit.id] > opset else edit for edit in edits)]

    def _edit(self, site: Site, weight: Weight, context: Context, overridable: frozenset[str]) -> Edit:
        refuse(weight)
        forms = {use.name: form_of(use, weight, self, context, overridable) for use in weight.uses}
        tensors, layout = solve_weight(weight, dict(forms))
        args: dict[str, Any] = {"weight": weight.constant.name, "forms": forms, **layout}
        if "static" in forms.values():
            args["ranges"] = {
                use.name: ranges_of(use, context) for use in weight.uses if forms[use.name] == "static"
            }  # fmt: skip
        return Edit(
            id=f"{self.name}.{site.id}",
            pass_name=self.name,
            site=site.id,
            kind="quantize-weight",
            args=args,
            tensors=tensors,
        )

    def milder(self, edit: Edit) -> tuple[str, Edit] | None:
        """The same integers, decoded at load instead of multiplied: as small a file, products in float."""
        return decoded_at_load(edit)

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with its weights replaced; tensors of the edits are written as they are."""
        return apply_edits(model, edits)
