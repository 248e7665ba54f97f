"""What goes from each place at each level, what that loses, and the refit of what stays: one look at the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.errors import Declined
from onnxprune.inputs import Source, add_up
from onnxprune.model import Model
from onnxprune.plan import Edit
from onnxprune.progress import Progress, Turn
from onnxprune.protocol import CompareInputs
from onnxprune.removal.edits import dimension_of, removal_edit, weight_parts, weights_of
from onnxprune.removal.layers import Layer, layers_of
from onnxprune.removal.refitting import Surroundings, with_refit
from onnxprune.search.places import Place
from onnxprune.sharing import each
from onnxprune.solvers import scores
from onnxprune.solvers.obs import Consumer, Order, joint_removal_order
from onnxprune.structure import Structure

Array = np.ndarray[Any, Any]

# The pass that cuts units of each kind.
CUTTERS = {"heads": "remove-heads", "neurons": "remove-neurons", "channels": "remove-channels"}


@dataclass(frozen=True, eq=False)
class Solution:
    """Every level of one place of units.

    Attributes:
        order: in which units go, and what is lost after each.
        around: what the refit needs; None where what consumes the units cannot be refitted.
    """

    order: Order
    around: Surroundings | None

    def error(self, kept: int) -> float:
        """The share of the consumers' output that is lost with so many units."""
        gone = len(self.order.units) - kept
        return float(self.order.losses[gone - 1]) if gone > 0 else 0.0


def solve_places(
    model: Model,
    structure: Structure,
    places: Sequence[Place],
    compare: CompareInputs,
    progress: Progress = lambda _: None,
) -> dict[str, Solution]:
    """Solutions of all places that have units, by id.

    Args:
        model: uncut; its own inputs are what refits aim at.
        structure: of that model.
        places: of that model.
        compare: runs a model on the calibration samples.
        progress: told each place that is solved.
    """
    layers: dict[str, tuple[Layer, ...]] = {}
    for place in places:
        if place.units:
            try:
                layers[place.id] = layers_of(model.graph, dimension_of(place.site, structure))
            except Declined:
                layers[place.id] = ()
    sources = {source for held in layers.values() for layer in held for source in layer.sources}
    found = compare(model, model, sources) if sources else {}
    held = weights_of(model.graph)
    around = {place.id: _surroundings(layers[place.id], found) for place in places if place.units}
    open_places = [place for place in places if place.units and around[place.id] is not None]
    orders = each(joint_removal_order, (_consumers(around[place.id]) for place in open_places))
    solved = {}
    for at, (place, order) in enumerate(zip(open_places, orders, strict=True), 1):
        progress(Turn(f"solve {place.id}", at, len(open_places), kind="places"))
        solved[place.id] = Solution(order(), around[place.id])
    for place in places:
        if place.units and place.id not in solved:
            dimension = dimension_of(place.site, structure)
            solved[place.id] = Solution(_by_size(list(weight_parts(held, dimension)), place.units), None)
    return solved


def removal_of(place: Place, solution: Solution, kept: int, model: Model, first: Edit) -> Edit:
    """The edit that leaves so many units of a place, refitted where that can be."""
    units = solution.order.units[: place.units - kept]
    edit = removal_edit(CUTTERS[place.site.kind], place.site, tuple(sorted(units)), first)
    return edit if solution.around is None else with_refit(edit, solution.around, sorted(units), model)


def _surroundings(layers: Sequence[Layer], found: Mapping[Source, Any]) -> Surroundings | None:
    if not layers:
        return None
    inputs = tuple(add_up([found[source] for source in layer.sources]) for layer in layers)
    return Surroundings(tuple(layers), inputs, tuple(layer.matrix for layer in layers))


def _consumers(around: Surroundings | None) -> tuple[Consumer, ...]:
    """What the order of a place's units is found from."""
    return tuple(
        Consumer(weight=layer.matrix, gram=one.gram / one.rows, groups=layer.groups, mean=one.mean)
        for layer, one in (zip(around.layers, around.inputs, strict=True) if around is not None else ())
    )


def _by_size(parts: Sequence[tuple[Array, int, Array]], units: int) -> Order:
    """Where nothing can be refitted: the smallest weights first, and their share of all squares is lost."""
    sizes = np.square(scores.magnitude(parts, units))
    order = np.argsort(sizes, kind="stable")
    whole = float(sizes.sum()) or 1.0
    return Order(units=tuple(int(unit) for unit in order), losses=np.cumsum(sizes[order]) / whole)
