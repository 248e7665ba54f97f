"""The options of passes that cut units, and the choice of what goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np

from onnxprune import spec
from onnxprune.calibration import Needs
from onnxprune.dimensions import Dimension
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.progress import Turn
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import at_least, check_ranges, share_or_count
from onnxprune.removal import ranking
from onnxprune.removal.edits import (
    Weights,
    apply_removals,
    dimension_of,
    removal_edit,
    shapes_edit,
    weight_parts,
    weights_of,
)
from onnxprune.removal.refitting import Surroundings, as_left, survey, with_means, with_refit
from onnxprune.sites import GRAPH, Kind, Site, between_weights, refuse_unknown
from onnxprune.solvers import scores
from onnxprune.solvers.taylor import Aggregate
from onnxprune.structure import Structure

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Options and steps of a pass that cuts units; subclasses say which kind.

    Attributes:
        keep: what stays: a share of the original units, in (0, 1], or a count.
        score: how units are ranked: `obs` (error after the best refit), `wanda`, `minitron`, `output-norm`,
            `magnitude` (L2 norm of their weights) or `random`; by gradients, which need torch, `michel`, `taylor`,
            `taylor2`, `taylor-mixed`, `vector`, `gradient-output`, `lrp`. All but magnitude and random need samples.
        aggregate: of the Taylor scores of the weights of a unit: sum, prod, max, or the last alone.
        refit: with sample inputs, refit what remains to the original's outputs.
        scope: `site` keeps the share in every site, `global` over all sites together.
        multiple: counts are rounded up to a multiple of this.
        sites: act on these sites only; all of them by default.
        levels: how many units stay in each of these sites, as `SITE/COUNT`, joined by `+`; all others are left alone.
        units: units to remove, as `SITE/UNIT/UNIT…`, joined by `+`; then nothing is ranked.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    structural: ClassVar[bool] = True
    keep: Annotated[int | float, share_or_count("(0, 1]", 1)] = 1.0
    score: ranking.Score = "obs"
    aggregate: Aggregate = "sum"
    refit: bool = True
    scope: scores.Scope = "site"
    multiple: Annotated[int, at_least(1)] = 1
    sites: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject counts and shares that no site could keep."""
        check_ranges(self, self.name)
        self.chosen()
        self.counts()

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
            picked[site] = tuple(sorted({*picked.get(site, ()), *map(int, numbers)}))
        return picked

    def counts(self) -> dict[str, int]:
        """The counts of option `levels`, by site."""
        return spec.by_site(f"{self.name}: levels", self.levels, "COUNT", 1)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing up front: each site is surveyed when its turn comes, on the model as it then is."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a site, after one that records the shapes they rest on."""
        structure = context.structure
        if structure is None:
            raise Declined("the model's shapes were not observed")
        self._check_data(context)
        open_sites, skips = self._open_sites(sites, structure)
        counts = [self._count(site) for site in open_sites]
        graded = self._graded(model, open_sites, structure, context)
        if self.scope == "global" and not self.units and not self.levels:
            counts = self._global_counts(model, open_sites, structure, context, graded)
        first = shapes_edit(self.name, structure)
        by_id = {site.id: site for site in open_sites}
        edits: list[Edit] = []
        current, held = model, weights_of(model.graph)
        for at, (site, count) in enumerate(zip(open_sites, counts, strict=True), 1):
            context.progress(Turn(f"{self.name}: {site.id}", at, len(open_sites), kind="sites"))
            edit = self._edit(site, count, model, current, held, by_id, context, graded, [first, *edits])
            if edit is None:
                skips.append(Skip(site=site.id, why=f"all {site.units} units stay"))
                continue
            edits.append(edit)
            if self._looks(context):
                # The next site is surveyed on what this one leaves.
                current, _ = apply_removals(model, [first, *edits])
                held = weights_of(current.graph)
        return Proposal((first, *edits) if edits else (), tuple(skips))

    def _count(self, site: Site) -> int:
        """How many units of a site go."""
        keep, multiple = (self.counts()[site.id], 1) if self.levels else (self.keep, self.multiple)
        return site.units - scores.kept_count(keep, site.original_units, site.units, multiple)

    def _looks(self, context: Context) -> bool:
        """Whether sites are surveyed on the samples."""
        return context.compare_inputs is not None and (self.refit or self.score in ranking.BY_INPUTS)

    def _check_data(self, context: Context) -> None:
        # The count 1 equals the share 1.0 for Python, and is another wish.
        all_stay = isinstance(self.keep, float) and self.keep == 1.0 and not self.levels
        if context.compare_inputs is None and self.score not in ranking.BLIND and not self.units and not all_stay:
            raise DataError(
                f"{self.name}: score={self.score} needs sample inputs. Give --data, or score=magnitude, or "
                "--allow-synthetic to calibrate on made-up ones."
            )

    def _open_sites(self, sites: Sequence[Site], structure: Structure) -> tuple[list[Site], list[Skip]]:
        own = [site for site in sites if site.kind == self.kind]
        levels = self.counts()
        refuse_unknown(self.name, {*self.sites, *levels, *self.chosen()}, own)
        skips = [Skip(site=site.id, why=site.pinned) for site in own if site.pinned]
        open_sites = [site for site in own if not site.pinned]
        if self.sites:
            skips += [Skip(site=s.id, why="not among option sites") for s in open_sites if s.id not in self.sites]
            open_sites = [site for site in open_sites if site.id in self.sites]
        if levels:
            skips += [Skip(site=s.id, why="not among option levels") for s in open_sites if s.id not in levels]
            open_sites = [site for site in open_sites if site.id in levels]
        named = {*self.sites, *levels, *self.chosen()}
        inner = [site for site in open_sites if site.grouped and site.id not in named]
        skips += [
            Skip(site=site.id, why="queries within groups: whole groups go, unless it is named") for site in inner
        ]
        open_sites = [site for site in open_sites if site not in inner]
        if self.kind != "heads":
            skips += [
                Skip(
                    site=GRAPH,
                    why=f"{each.units} {self.kind} stay: {each.pinned[0]}; made by {each.producers[0].weight}",
                )
                for each in structure.dimensions.all
                if each.kind == self.kind and each.pinned and between_weights(each)
            ]
        if not own and not skips:
            skips.append(Skip(site=GRAPH, why=f"no {self.kind} were found"))
        return open_sites, skips

    def _edit(
        self,
        site: Site,
        count: int,
        model: Model,
        current: Model,
        held: Weights,
        sites: Mapping[str, Site],
        context: Context,
        graded: Mapping[str, Array],
        before: Sequence[Edit],
    ) -> Edit | None:
        """The edit of one site; None where all its units stay.

        Args:
            site: with its units.
            count: of units that go, where none are named.
            model: uncut, on which all edits are carried out together.
            current: the same, less what edits before have cut.
            held: stored tensors of that.
            sites: by id.
            context: what may be looked at.
            graded: scores by gradients, by site.
            before: edits that come before; the first records shapes.
        """
        structure = context.structure
        picked = self._picked(site)
        if structure is None or not (picked if self.units else count > 0):
            return None
        cuts = [(dimension_of(sites[each.site], structure), each.args["units"]) for each in before[1:]]
        dimension, around, refused = dimension_of(site, structure), None, ""
        if context.compare_inputs is not None and self._looks(context):
            try:
                dimension = as_left(dimension, cuts)
            except Declined as reason:
                # Ranked in the uncut model, then.
                held, refused = weights_of(model.graph), str(reason)
            else:
                around, refused = _surveyed(current, context, dimension)
        units = picked or scores.lowest(self._scores(held, site, dimension, context, around, graded), count)
        edit = removal_edit(self.name, site, units, before[0])
        if around is not None and self.refit:
            return with_refit(edit, around, units, model, cuts)
        if refused and self.refit and context.compare_inputs is not None:
            after, _ = apply_removals(model, [*before, edit])
            whole = dimension_of(site, structure)
            edit = with_means(edit, current, after, whole, context.compare_inputs, model, cuts)
        return replace(edit, args={**edit.args, "not_refitted": refused}) if refused else edit

    def _picked(self, site: Site) -> tuple[int, ...]:
        units = self.chosen().get(site.id, ())
        beyond = [unit for unit in units if unit >= site.units]
        if beyond:
            raise OptionError(f"{self.name}: {site.id} has units 0 to {site.units - 1}, got {beyond[0]}.")
        if len(units) == site.units:
            raise OptionError(f"{self.name}: one unit of {site.id} must stay. Use remove-blocks for all.")
        return units

    def _scores(
        self,
        held: Weights,
        site: Site,
        dimension: Dimension,
        context: Context,
        around: Surroundings | None,
        graded: Mapping[str, Array],
    ) -> Array:
        if site.id in graded:
            return graded[site.id]
        if self.score == "random":
            return scores.random(site.units, context.seed, site.id)
        if self.score in ranking.BY_INPUTS and around is not None:
            return ranking.BY_INPUTS[self.score](around.layers, around.inputs)
        return scores.magnitude(weight_parts(held, dimension), dimension.units)

    def _graded(
        self, model: Model, sites: Sequence[Site], structure: Structure, context: Context
    ) -> Mapping[str, Array]:
        """Scores by gradients of the uncut model, all sites at once."""
        if self.score not in ranking.BY_GRADIENTS or self.units or not sites:
            return {}
        if context.gradients is None:
            raise Declined(f"score={self.score} needs gradients, and none are at hand")
        dimensions = [dimension_of(site, structure) for site in sites]
        found = ranking.by_gradients(
            self.score, context.gradients(f"score={self.score}"), model, dimensions, self.aggregate
        )
        return {site.id: score for site, score in zip(sites, found, strict=True)}

    def _global_counts(
        self,
        model: Model,
        sites: Sequence[Site],
        structure: Structure,
        context: Context,
        graded: Mapping[str, Array],
    ) -> list[int]:
        """How many go from each site, by scores of the uncut model; each site's own order is found in its turn."""
        stay = sum(scores.kept_count(self.keep, s.original_units, s.original_units, self.multiple) for s in sites)
        removals = max(0, sum(site.units for site in sites) - stay)
        if not removals:
            return [0] * len(sites)
        ranked, held = [], weights_of(model.graph)
        for site in sites:
            around = None
            if context.compare_inputs is not None and self.score in ranking.BY_INPUTS:
                try:
                    around = survey(model, model, dimension_of(site, structure), context.compare_inputs)
                except Declined:
                    # Ranked by magnitude then, as in its turn.
                    around = None
            ranked.append(self._scores(held, site, dimension_of(site, structure), context, around, graded))
        gone = scores.lowest_over_sites(ranked, removals, multiple=self.multiple, level=self.score != "obs")
        return [len(units) for units in gone]

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model less the units of all edits, cut in one go."""
        return apply_removals(model, edits)


def _surveyed(current: Model, context: Context, dimension: Dimension) -> tuple[Surroundings | None, str]:
    """What is around a dimension, or why nothing can be refitted there."""
    if context.compare_inputs is None:
        return None, ""
    try:
        return survey(current, context.original or current, dimension, context.compare_inputs), ""
    except Declined as reason:
        return None, str(reason)
