"""Models for a choice: cut for real, each place refitted to the uncut model's inputs, so quick to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxprune.calibration import Statistics
from onnxprune.model import Model
from onnxprune.passes import FactorLinear, RemoveBlocks, SparseInt8
from onnxprune.plan import Edit
from onnxprune.protocol import CompareInputs, Context
from onnxprune.removal.edits import apply_removals, shapes_edit
from onnxprune.search.levels import AS_IS, Choice, Level
from onnxprune.search.places import Place
from onnxprune.search.ranks import factors_among
from onnxprune.search.solving import Solution, removal_of
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Structure

# Bits and share of zeros.
Form = tuple[int, float]


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes models of one original.

    Attributes:
        model: the original, as lossless edits have left it.
        sites: of that model.
        statistics: ranges, for the integer forms that want them.
        solutions: by place, of those that have units.
        compare: what linears read, for the forms whose zeros are made up for.
    """

    model: Model
    structure: Structure
    sites: Sequence[Site]
    places: Sequence[Place]
    statistics: Statistics | None
    solutions: dict[str, Solution]
    compare: CompareInputs | None = None
    _forms: dict[Form, tuple[Edit, ...]] = field(default_factory=dict)
    _pairs: dict[tuple[str, int], tuple[Edit, ...]] = field(default_factory=dict)
    _cuts: dict[tuple[str, int], Edit] = field(default_factory=dict)

    def build(self, choice: Choice) -> Model:
        """The model with every place at its level.

        Raises:
            Declined: an edit does not fit beside the others.
        """
        result = self.model
        levels = {place.id: choice.get(place.id, AS_IS) for place in self.places}
        gone = tuple(place.block.id for place in self.places if place.block and levels[place.id].units == 0)
        if gone:
            one = RemoveBlocks(sites=gone)
            result, _ = one.apply(result, one.propose(self.model, self.sites, Context()).edits)
        result = self._cut(result, levels)
        result = self._factored(result, levels)
        edits = self._integers(result, levels)
        return SparseInt8().apply(result, edits)[0] if edits else result

    def factored(self, choice: Choice) -> Model:
        """The original with the pairs of a choice, which gives their sites the ids that they will have."""
        return self._factored(self.model, {place.id: choice.get(place.id, AS_IS) for place in self.places})

    def _factored(self, model: Model, levels: dict[str, Level]) -> Model:
        edits: list[Edit] = []
        for place in self.places:
            rank = levels[place.id].rank
            if rank is not None:
                key = (place.id, rank)
                if key not in self._pairs:
                    context = Context(statistics=self.statistics, compare_inputs=self.compare)
                    one = FactorLinear(levels=(f"{place.id}/{rank}",))
                    self._pairs[key] = one.propose(self.model, self.sites, context).edits
                edits += self._pairs[key]
        return FactorLinear().apply(model, edits)[0] if edits else model

    def _integers(self, model: Model, levels: dict[str, Level]) -> tuple[Edit, ...]:
        """Edits that make integers: of weights that nothing cuts as they were solved once, of others anew."""
        apart = all(place.share == 1 for place in self.places if 0 < (levels[place.id].units or 0) < place.units)
        held: dict[str, Edit] = {}
        cut: list[str] = []
        for form, names in integer_forms(self.places, levels, model).items():
            whole = {
                site.id
                for place in self.places
                if levels[place.id].units is None and levels[place.id].rank is None and apart
                for site in place.weights
                if site.id in names
            }
            cut += [name for name in names if name not in whole]
            held |= {edit.id: edit for edit in self._solved(form) if edit.site in whole or edit.kind == "raise-opset"}
        if cut:
            # Means are known of the uncut model's channels; what biases take back costs no time.
            one = SparseInt8(sites=tuple(cut), correct=False)
            found = one.propose(model, find_sites(model), Context(statistics=self.statistics)).edits
            held |= {edit.id: edit for edit in found}
        wanted = {name for edit in held.values() for name in edit.depends_on}
        return tuple(edit for edit in held.values() if edit.kind != "raise-opset" or edit.id in wanted)

    def _solved(self, form: Form) -> tuple[Edit, ...]:
        """Edits of all weights of the uncut model in one form."""
        if form not in self._forms:
            context = Context(statistics=self.statistics, compare_inputs=self.compare)
            self._forms[form] = pass_of(form).propose(self.model, self.sites, context).edits
        return self._forms[form]

    def _cut(self, model: Model, levels: dict[str, Level]) -> Model:
        first = shapes_edit("remove-units", self.structure)
        cuts = []
        for place in self.places:
            kept = levels[place.id].units
            if kept is None or not 0 < kept < place.units:
                continue
            key = (place.id, kept)
            if key not in self._cuts:
                self._cuts[key] = removal_of(place, self.solutions[place.id], kept, self.model, first)
            cuts.append(self._cuts[key])
        if not cuts:
            return model
        cut, _ = apply_removals(model, [first, *cuts])
        return cut


def integer_forms(places: Sequence[Place], levels: Choice, model: Model) -> dict[Form, tuple[str, ...]]:
    """Sites of the weights that become integers, by form; those of blocks that go do not.

    Args:
        places: of the uncut model.
        levels: by place.
        model: as it is when its weights become integers, or at least with the same pairs.
    """
    found: dict[Form, tuple[str, ...]] = {}
    for place in places:
        level = levels.get(place.id, AS_IS)
        if level.bits is not None and level.units != 0:
            form = (level.bits, level.sparsity or 0.0)
            sites = tuple(site.id for site in place.weights)
            found[form] = (*found.get(form, ()), *(sites if level.rank is None else factors_among(model, place.site)))
    return dict(sorted(found.items(), key=lambda one: (-one[0][0], one[0][1])))


def pass_of(form: Form, sites: tuple[str, ...] = ()) -> SparseInt8:
    """The pass that makes integers of one form: of 4 bits, tables alone.

    Without sites, of every weight on its own: what others lose is not known while levels are compared.
    """
    bits, sparsity = form
    return SparseInt8(sites=sites, sparsity=sparsity, embeddings=4 if bits == 4 else True, sequential=bool(sites))
