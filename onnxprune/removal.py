"""What the passes that cut units share: their options, the choice of units, and the edit itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.biases import add_bias
from onnxprune.calibration import Needs
from onnxprune.cut import POSITIONS, remove_units
from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined, OptionError
from onnxprune.graph import constants
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.sites import GRAPH, Kind, Site, elements_of, find_sites, with_registered
from onnxprune.solvers import scores
from onnxprune.structure import Structure, pack_shapes, read_structure, unpack_shapes

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Options and steps of a pass that cuts units; subclasses say which kind.

    Attributes:
        keep: what stays: a share of the original units, in (0, 1], or a count.
        score: how units are ranked: `magnitude` (L2 norm of their weights) or `random`.
        scope: `site` keeps the share in every site, `global` over all sites together.
        multiple: counts are rounded up to a multiple of this.
        sites: act on these sites only; all of them by default.
        units: units to remove, as `SITE/UNIT/UNIT…`, joined by `+`; then nothing is ranked.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    structural: ClassVar[bool] = True
    keep: int | float = 1.0
    score: Literal["magnitude", "random"] = "magnitude"
    scope: Literal["site", "global"] = "site"
    multiple: int = 1
    sites: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject counts and shares that no site could keep."""
        whole = isinstance(self.keep, int)
        if not (self.keep >= 1 if whole else 0 < self.keep <= 1):
            raise OptionError(f"{self.name}: keep must be a share in (0, 1] or a count from 1, got {self.keep}.")
        if self.multiple < 1:
            raise OptionError(f"{self.name}: multiple must be at least 1, got {self.multiple}.")
        self.chosen()

    @property
    def lossless(self) -> bool:
        """Cut units are missed."""
        return False

    def chosen(self) -> dict[str, tuple[int, ...]]:
        """The units of option `units`, by site."""
        picked: dict[str, tuple[int, ...]] = {}
        for item in self.units:
            site, *numbers = item.split("/")
            if not numbers or not all(number.isascii() and number.isdigit() for number in numbers):
                raise OptionError(f"{self.name}: units read SITE/UNIT/UNIT…, got {item!r}.")
            picked[site] = tuple(sorted({int(number) for number in numbers}))
        return picked

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing: these scores look at weights alone."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a site, after one that records the shapes they rest on."""
        structure = context.structure
        if structure is None:
            raise Declined("the model's shapes were not observed")
        own = [site for site in sites if site.kind == self.kind]
        unknown = ({*self.sites} | {*self.chosen()}) - {site.id for site in own}
        if unknown:
            known = ", ".join(site.id for site in own) or "none"
            raise OptionError(f"{self.name}: no site {min(unknown)!r}. Known: {known}.")
        skips = [Skip(site=site.id, why=site.pinned) for site in own if site.pinned]
        open_sites = [site for site in own if not site.pinned]
        if self.sites:
            skips += [Skip(site=s.id, why="not among option sites") for s in open_sites if s.id not in self.sites]
            open_sites = [site for site in open_sites if site.id in self.sites]
        removals = self._removals(model, open_sites, structure, context)
        skips += [
            Skip(site=site.id, why=f"all {site.units} units stay")
            for site, units in zip(open_sites, removals, strict=True)
            if not units
        ]
        if not own:
            skips.append(Skip(site=GRAPH, why=f"no {self.kind} were found"))
        pairs = [(site, units) for site, units in zip(open_sites, removals, strict=True) if units]
        return Proposal(removal_edits(self.name, pairs, structure), tuple(skips))

    def _removals(
        self, model: Model, sites: Sequence[Site], structure: Structure, context: Context
    ) -> list[tuple[int, ...]]:
        picked = self.chosen()
        if picked:
            for site in sites:
                beyond = [unit for unit in picked.get(site.id, ()) if unit >= site.units]
                if beyond:
                    raise OptionError(f"{self.name}: {site.id} has units 0 to {site.units - 1}, got {beyond[0]}.")
                if len(picked.get(site.id, ())) == site.units:
                    raise OptionError(f"{self.name}: one unit of {site.id} must stay. Use remove-blocks for all.")
            return [picked.get(site.id, ()) for site in sites]
        kept = [scores.kept_count(self.keep, site.original_units, site.units, self.multiple) for site in sites]
        ranked = [self._scores(model, site, structure, context) for site in sites]
        if self.scope == "site":
            return [
                scores.lowest(score, site.units - count)
                for site, score, count in zip(sites, ranked, kept, strict=True)
            ]  # fmt: skip
        removals = sum(site.units for site in sites) - sum(kept)
        return scores.lowest_over_sites(ranked, removals, [min(self.multiple, site.units) for site in sites])

    def _scores(self, model: Model, site: Site, structure: Structure, context: Context) -> Array:
        if self.score == "random":
            return scores.random(site.units, context.seed, site.id)
        dimension = dimension_of(site, structure)
        return scores.magnitude(weight_parts(model.graph, dimension), dimension.units)

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model less the units of all edits, cut in one go."""
        return apply_removals(model, edits)


def dimension_of(site: Site, structure: Structure) -> Dimension:
    """The dimension behind a site of units."""
    if site.dimension is None:
        raise Declined(f"{site.id}: holds no units")
    return structure.dimensions.all[site.dimension]


def weight_parts(graph: gs.Graph, dimension: Dimension) -> Iterator[tuple[Array, int, Array]]:
    """(values, axis, elements [units, k]) of every weight that produces or consumes the units."""
    named = {producer.weight for producer in dimension.producers} | {end.weight for end in dimension.consumers}
    held = {tensor.name: tensor for tensor in constants(graph)}
    for member in dimension.members:
        if member.tensor in named and member.tensor in held:
            yield held[member.tensor].values, member.axis, member.elements


def removal_edits(
    name: str, removals: Sequence[tuple[Site, tuple[int, ...]]], structure: Structure
) -> tuple[Edit, ...]:
    """Edits that cut units; the first records the shapes that the others depend on."""
    if not removals:
        return ()
    first = Edit(
        id=f"{name}.shapes",
        pass_name=name,
        site=GRAPH,
        kind="observe-shapes",
        args={"shapes": pack_shapes(structure.shapes), "interface": structure.interface},
    )
    return (
        first,
        *(
            Edit(
                id=f"{name}.{site.id}",
                pass_name=name,
                site=site.id,
                kind="remove-units",
                args={
                    "units": list(units),
                    "kind": site.kind,
                    "anchor": site.anchor,
                    "original_units": site.original_units,
                },
                depends_on=(first.id,),
            )
            for site, units in removals
        ),
    )


def apply_removals(model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
    """Carry out `observe-shapes` and `remove-units` edits on a copy.

    Raises:
        Declined: the units are not those of this model, or the cut cannot be proved.
    """
    observed = [edit for edit in edits if edit.kind == "observe-shapes"]
    cuts = [edit for edit in edits if edit.kind == "remove-units"]
    if not observed or not cuts:
        return model, ()
    args = observed[-1].args
    copy = model.copy()
    shapes = dict(unpack_shapes(args["shapes"]))
    for edit in cuts:
        for at, name in enumerate(edit.args.get("folds", ())):
            raw = add_bias(copy.graph, str(name), edit.tensors[f"bias.{at}"])
            if raw is not None:
                shapes[raw.name] = shapes[str(name)]
    structure = read_structure(copy, shapes, interface=bool(args.get("interface", False)))
    by_anchor = {site.anchor: site for site in find_sites(copy, structure) if site.dimension is not None}
    sites = {site.id: site for site in by_anchor.values()}
    removals: dict[int, tuple[int, ...]] = {}
    for edit in cuts:
        site = sites.get(edit.site)
        if site is None or site.dimension is None:
            raise Declined(f"{edit.site}: the model has no such site")
        units = tuple(int(unit) for unit in edit.args["units"])
        if any(not 0 <= unit < site.units for unit in units) or len(set(units)) >= site.units:
            raise Declined(f"{edit.site}: has {site.units} units, of which at least one must stay")
        removals[site.dimension] = units
    changes = tuple(_changes(copy.graph, structure, cuts, sites, removals))
    report = remove_units(copy.graph, structure.dimensions, removals, shapes)
    copied = sum(change.params_before - change.params_after for change in changes) - report.params_removed
    if copied:
        changes += (Change(site=GRAPH, what="private copies of shared tables", params_after=copied),)
    changes += tuple(
        Change(
            site=GRAPH, what=f"the interface changed: axis {c.axis} of {c.tensor!r} from {c.before} to {c.after}"
        )
        for c in report.interface
    )  # fmt: skip
    copy.graph.cleanup(remove_unused_graph_inputs=False)
    cut = with_registered(
        copy,
        {edit.site: {"anchor": edit.args["anchor"], "units": edit.args["original_units"]} for edit in cuts},
    )
    return cut, changes


def _changes(
    graph: gs.Graph,
    structure: Structure,
    cuts: Sequence[Edit],
    sites: Mapping[str, Site],
    removals: Mapping[int, tuple[int, ...]],
) -> Iterator[Change]:
    """What each cut takes out of the weights, in order; a number that two cuts share counts for the first."""
    held = {tensor.name: tensor for tensor in constants(graph)}
    kept: dict[str, list[Array]] = {}
    for edit in cuts:
        site = sites[edit.site]
        dimension = dimension_of(site, structure)
        change = Change(
            site=site.id,
            what=f"{len(removals[dimension.index])} of {site.units} {site.kind} removed",
        )
        for member in dimension.members:
            tensor = held.get(member.tensor)
            if tensor is None or np.dtype(tensor.dtype) in POSITIONS:
                continue
            masks = kept.setdefault(member.tensor, [np.ones(size, bool) for size in tensor.shape])
            before = elements_of(tuple(int(mask.sum()) for mask in masks))
            masks[member.axis][member.elements[list(removals[dimension.index])].ravel()] = False
            after = elements_of(tuple(int(mask.sum()) for mask in masks))
            size = np.dtype(tensor.dtype).itemsize
            change = replace(
                change,
                params_before=change.params_before + before,
                params_after=change.params_after + after,
                bytes_before=change.bytes_before + before * size,
                bytes_after=change.bytes_after + after * size,
            )
        yield change
