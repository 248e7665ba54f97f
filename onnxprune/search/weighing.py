"""The error table: what each level loses, from the solvers' errors, weighed by what whole models lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.graph import constants, elements, stored_bytes
from onnxprune.search.building import Builder
from onnxprune.search.grid import Grid
from onnxprune.search.judging import Judge
from onnxprune.search.levels import AS_IS, Level
from onnxprune.search.places import Place
from onnxprune.search.tables import ErrorTable

# Whole models that weigh places against each other, at most; what is not measured is estimated from what was.
MEASURED = 96
# A weight is at least this share of the middle one: a place that seemed to cost nothing may still be missed.
_LEAST_WEIGHT = 0.02
_TINY = 1e-9


def error_table(
    builder: Builder, grid: Grid, judge: Judge, file_bytes: int, progress: Callable[[str], None] = lambda _: None
) -> ErrorTable:
    """What each place loses at each level.

    The solver's error of a level, a share of the place's own output, is scaled so that at a middle count it is what a
    whole model loses with this place alone cut so. Blocks that go and weights that become integers are measured alone.

    Args:
        builder: of the uncut model.
        grid: levels of every place.
        judge: what whole models lose.
        file_bytes: of the uncut model.
        progress: told once.
    """
    progress("weigh places by the loss of whole models")
    weights = _weights(builder, grid, judge)
    gone = _alone(builder.places, grid, judge, lambda levels: [level for level in levels if level.units == 0])
    integers = _integers(builder, grid, judge)
    rows: dict[str, dict[Level, float]] = {}
    for place in builder.places:
        solution, weight = builder.solutions.get(place.id), weights[place.id]
        row: dict[Level, float] = {}
        for level in grid[place.id]:
            if level.units == 0:
                lost = gone.get(place.id, weight)
            else:
                cut = solution.error(level.units) if solution is not None and level.units else 0.0
                lost = weight * cut + (integers[place.id] if level.bits == 8 else 0.0)
            if math.isfinite(lost):
                row[level] = max(lost, 0.0) / weight
        rows[place.id] = row
    sizes = {place.id: _sizes(place, builder, grid[place.id]) for place in builder.places}
    rest = max(0, file_bytes - int(sum(row[AS_IS] for row in sizes.values())))
    return ErrorTable(places=rows, weights=weights, sizes=sizes, rest_bytes=rest)


def _weights(builder: Builder, grid: Grid, judge: Judge) -> dict[str, float]:
    """What the whole model loses for each unit of a place's own error."""
    measured: dict[str, float] = {}
    cuttable = [place for place in builder.places if place.id in builder.solutions]
    for place in _some(cuttable):
        counts = [level for level in grid[place.id] if level.units and level.bits is None]
        if not counts:
            continue
        middle = counts[len(counts) // 2]
        own = builder.solutions[place.id].error(middle.units or 0)
        lost = judge.lost({place.id: middle})
        if math.isfinite(lost):
            measured[place.id] = lost / max(own, _TINY)
    usual = float(np.median(list(measured.values()))) if measured else 1.0
    least = max(_LEAST_WEIGHT * usual, _TINY)
    return {place.id: max(measured.get(place.id, usual), least) for place in builder.places}


def _alone(
    places: Sequence[Place], grid: Grid, judge: Judge, pick: Callable[[Sequence[Level]], Sequence[Level]]
) -> dict[str, float]:
    """What the whole model loses with one place alone at the level picked for it."""
    wanted = [(place, level) for place in places for level in pick(grid[place.id])]
    return {place.id: judge.lost({place.id: level}) for place, level in wanted[:MEASURED]}


def _integers(builder: Builder, grid: Grid, judge: Judge) -> Mapping[str, float]:
    """What integers lose at each place."""
    able = [place for place in builder.places if Level(bits=8) in grid[place.id]]
    if len(able) <= MEASURED:
        found = _alone(able, grid, judge, lambda levels: [Level(bits=8)] if Level(bits=8) in levels else [])
        return dict.fromkeys((place.id for place in builder.places), 0.0) | found
    together = judge.lost({place.id: Level(bits=8) for place in able})
    return dict.fromkeys((place.id for place in builder.places), together / len(able))


def _some(places: Sequence[Place]) -> Sequence[Place]:
    """At most so many, spread evenly."""
    if len(places) <= MEASURED:
        return places
    return [places[at * len(places) // MEASURED] for at in range(MEASURED)]


def _sizes(place: Place, builder: Builder, levels: Sequence[Level]) -> dict[Level, float]:
    """Bytes of a place's weights at each level."""
    held = {tensor.name: tensor for tensor in constants(builder.model.graph)}
    own = [held[site.weight] for site in place.weights if site.weight in held]
    numbers, stored = sum(map(elements, own)), sum(map(stored_bytes, own))
    width = stored / numbers if numbers else 0.0
    found = {}
    for level in levels:
        if level.units == 0:
            left = 0.0
        elif level.units:
            left = max(0.0, numbers - place.site.unit_size * (place.units - level.units))
        else:
            left = float(numbers)
        found[level] = left * (level.bits / 8 if level.bits else width)
    return found
