"""Models for a choice: cut for real, each place refitted to the uncut model's inputs, so quick to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnxprune.calibration import Statistics
from onnxprune.model import Model
from onnxprune.passes import RemoveBlocks, SparseInt8
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from onnxprune.removal.edits import apply_removals, shapes_edit
from onnxprune.search.levels import AS_IS, Choice, Level
from onnxprune.search.places import Place
from onnxprune.search.solving import Solution, removal_of
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Structure


@dataclass(frozen=True, eq=False)
class Builder:
    """Makes models of one original.

    Attributes:
        model: the original, as lossless edits have left it.
        sites: of that model.
        statistics: ranges, for the integer forms that want them.
        solutions: by place, of those that have units.
    """

    model: Model
    structure: Structure
    sites: Sequence[Site]
    places: Sequence[Place]
    statistics: Statistics | None
    solutions: dict[str, Solution]
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
        integers = integer_weights(self.places, levels)
        if integers:
            pass_ = SparseInt8(sites=integers)
            proposal = pass_.propose(result, find_sites(result), Context(statistics=self.statistics))
            result, _ = pass_.apply(result, proposal.edits) if proposal.edits else (result, ())
        return result

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


def integer_weights(places: Sequence[Place], levels: Choice) -> tuple[str, ...]:
    """Sites of the weights that become int8; those of blocks that go do not."""
    chosen = [place for place in places if levels.get(place.id, AS_IS).bits == 8]
    return tuple(site.id for place in chosen if levels[place.id].units != 0 for site in place.weights)
