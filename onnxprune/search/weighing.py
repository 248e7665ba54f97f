"""The error table: what each level loses, from the solvers' errors, weighed by what whole models lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import constants, elements, stored_bytes
from onnxprune.progress import Turn
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
        progress: told each part of it.
    """
    weights = _weights(builder, grid, judge, progress)
    progress("weigh places by the loss of whole models")
    gone = _alone(
        builder.places, judge, {place.id: [one for one in grid[place.id] if one.units == 0] for place in builder.places}
    )
    integers = _integers(builder, grid, judge)
    pairs = {name: [one for one in row if one.rank is not None and one.bits is None] for name, row in grid.items()}
    ranks = _alone(builder.places, judge, pairs)
    rows: dict[str, dict[Level, float]] = {}
    for place in builder.places:
        solution, weight = builder.solutions.get(place.id), weights[place.id]
        row: dict[Level, float] = {}
        for level in grid[place.id]:
            if level.units == 0:
                lost = gone.get((place.id, level), weight)
            else:
                cut = solution.error(level.units) if solution is not None and level.units else 0.0
                lost = weight * cut + ranks.get((place.id, replace(level, bits=None)), 0.0)
                lost += integers.get((place.id, _form_of(level)), 0.0)
            if math.isfinite(lost):
                row[level] = max(lost, 0.0) / weight
        rows[place.id] = row
    sizes = {place.id: _sizes(place, builder, grid[place.id]) for place in builder.places}
    rest = max(0, file_bytes - int(sum(row[AS_IS] for row in sizes.values())))
    return ErrorTable(places=rows, weights=weights, sizes=sizes, rest_bytes=rest)


def _weights(builder: Builder, grid: Grid, judge: Judge, progress: Callable[[str], None]) -> dict[str, float]:
    """What the whole model loses for each unit of a place's own error."""
    measured: dict[str, float] = {}
    some = _some([place for place in builder.places if place.id in builder.solutions])
    for at, place in enumerate(some, 1):
        progress(Turn(f"weigh {place.id} by the loss of whole models", at, len(some), kind="weigh"))
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
    places: Sequence[Place], judge: Judge, levels: Mapping[str, Sequence[Level]]
) -> dict[tuple[str, Level], float]:
    """What the whole model loses with one place alone at each of some levels."""
    wanted = [(place.id, level) for place in places for level in levels[place.id]]
    return {(name, level): judge.lost({name: level}) for name, level in wanted[: 2 * MEASURED]}


def _integers(builder: Builder, grid: Grid, judge: Judge) -> Mapping[tuple[str, Level], float]:
    """What integers lose at each place, whatever else is cut there."""
    levels = {
        name: [one for one in row if one.bits and one.units is None and one.rank is None] for name, row in grid.items()
    }
    if sum(map(len, levels.values())) <= 2 * MEASURED:
        return _alone(builder.places, judge, levels)
    # Too many places to look at each: what all lose together is shared out.
    found: dict[tuple[str, Level], float] = {}
    for level in dict.fromkeys(one for row in levels.values() for one in row):
        able = [name for name, row in levels.items() if level in row]
        together = judge.lost(dict.fromkeys(able, level))
        found |= {(name, level): together / len(able) for name in able}
    return found


def _form_of(level: Level) -> Level:
    """How the numbers are stored, whatever is cut."""
    return replace(level, units=None, rank=None)


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
            left = float(numbers if level.rank is None else level.rank * sum(_sizes_of_matrix(own[0])))
        each = level.bits / 8 if level.bits else width
        # A bitmap says where the numbers are that stay.
        found[level] = left * (each if not level.sparsity else each * (1 - level.sparsity) + 1 / 8)
    return found


def _sizes_of_matrix(tensor: gs.Constant) -> tuple[int, int]:
    """What a matrix or a 1x1 convolution sums over, and what it gives out, in either order."""
    return int(tensor.shape[0]), int(tensor.shape[1])
