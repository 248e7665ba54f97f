"""The latency table: pieces of the model, cut at every level, timed in alternation, and their sum held against wholes.

A piece runs with warm caches and without its neighbours, so its milliseconds say how levels compare, not what they add
to a run. What they add is fitted to whole models: as it was, all in int8, and cut half way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from scipy.optimize import nnls

from onnxprune.errors import Declined, ModelError
from onnxprune.model import FileFields, Model
from onnxprune.progress import Turn
from onnxprune.runtime import Feeds, written
from onnxprune.search.building import Builder
from onnxprune.search.grid import Grid
from onnxprune.search.levels import AS_IS, Choice, Level, choice_to_json
from onnxprune.search.memory import Memory
from onnxprune.search.pieces import Border, Cutter, Piece, border_of, observed
from onnxprune.search.places import Place
from onnxprune.search.tables import LatencyTable, monotone
from onnxprune.targets.target import Timer

# Seconds of one race between the levels of one piece, and of one whole model.
PIECE_S = 2.0
WHOLE_S = 1.0
FINISHED_S = 2.0
# Of each form so many counts are timed, the first and the last among them; what lies between is interpolated.
_TIMED_COUNTS = 9


@dataclass(eq=False)
class Stopwatch:
    """Times on one target and remembers.

    Attributes:
        original: the file that speed-ups are relative to.
        identity: of the original, e.g. its sha256.
        memory: of this target on this machine.
        races: how many were run; 0 where everything was remembered.
    """

    target: Timer
    original: Path
    identity: str
    feeds: Feeds
    memory: Memory
    races: int = 0
    _original_ms: list[float] = field(default_factory=list)

    def key(self, kind: str, *parts: str) -> str:
        """A key that names everything that a figure depends on besides the target and the machine."""
        return "/".join(("latency", kind, *parts))

    def speedups(self, choices: Sequence[Choice], build: Callable[[Choice], Model]) -> list[tuple[float, float]]:
        """(times as fast as the original, milliseconds) of whole models, the unknown ones timed in one race."""
        shape = ",".join(f"{name}={value.shape}" for name, value in sorted(self.feeds.items()))
        keys = [self.key("whole", self.identity, shape, repr(sorted(choice_to_json(one).items()))) for one in choices]
        known: dict[str, Any] = {key: self.memory.load(key) for key in keys}
        new = [at for at, key in enumerate(keys) if known[key] is None]
        if new:
            self.races += 1
            with ExitStack() as stack:
                paths = [self.original, *(stack.enter_context(written(build(choices[at]))) for at in new)]
                timed = self.target.time(paths, self.feeds, budget_s=WHOLE_S * len(paths))
            original_ms = timed[0].cost
            for at, one in zip(new, timed[1:], strict=True):
                known[keys[at]] = [one.speedup.ratio, original_ms / one.speedup.ratio]
                self.memory.save(keys[at], known[keys[at]])
        return [(float(known[key][0]), float(known[key][1])) for key in keys]

    def finished(self, specs: Sequence[str], model: Model) -> tuple[float, float]:
        """(times as fast as the original, milliseconds) of a model that passes have made."""
        shape = ",".join(f"{name}={value.shape}" for name, value in sorted(self.feeds.items()))
        key = self.key("finished", self.identity, shape, *specs)
        held = self.memory.load(key)
        if held is None:
            self.races += 1
            with written(model) as path:
                timed = self.target.time([self.original, path], self.feeds, budget_s=2 * FINISHED_S)
            held = [timed[1].speedup.ratio, timed[1].cost]
            self.memory.save(key, held)
        return float(held[0]), float(held[1])

    def race(self, pieces: Mapping[Level, Piece]) -> dict[Level, float]:
        """Milliseconds of a piece at its levels; what calling the runtime takes is left out."""
        self.races += 1
        found: dict[Level, float] = {}
        by_inputs: dict[tuple[str, ...], list[Level]] = {}
        for level, piece in pieces.items():
            by_inputs.setdefault(tuple(sorted(piece.feeds)), []).append(level)
        for levels in by_inputs.values():
            feeds = pieces[levels[0]].feeds
            with ExitStack() as stack:
                models = [pieces[levels[0]].model, _nothing(feeds), *(pieces[level].model for level in levels[1:])]
                paths = [stack.enter_context(written(model)) for model in models]
                timed = self.target.time(paths, feeds, budget_s=PIECE_S)
            # One clock for all: the first one's low percentile, and how many times as fast each is, round by round.
            base = timed[0].fastest
            call, *others = (base / one.speedup.ratio for one in timed[1:])
            found |= {level: max(ms - call, 0.0) for level, ms in zip(levels, (base, *others), strict=True)}
        return found


def latency_table(
    builder: Builder, grid: Grid, watch: Stopwatch, progress: Callable[[str], None] = lambda _: None
) -> LatencyTable:
    """What each place takes at each level.

    Args:
        builder: of the model as lossless edits have left it.
        grid: levels of every place.
        watch: times, or remembers.
        progress: told each piece that is timed.
    """
    timed = [place for place in builder.places if place.nodes]
    borders = {place.id: border_of(builder.model.graph, place.nodes) for place in timed}
    cutter = Cutter(builder.model, observed(builder.model, list(borders.values()), watch.feeds))
    rows: dict[str, dict[Level, float]] = {}
    groups = _alike(timed, borders, cutter, grid).values()
    for at, group in enumerate(groups, 1):

        def tell(stage: str, at: int = at) -> None:
            progress(Turn(stage, at, len(groups)))

        found = _row(group.places[0], group.key, borders, builder, grid, watch, tell)
        for place in group.places:
            rows[place.id] = {level: ms * place.share for level, ms in found.items()}
    for place in builder.places:
        rows.setdefault(place.id, dict.fromkeys(grid[place.id], 0.0))
    return _fitted(rows, builder, grid, watch)


@dataclass(frozen=True)
class _Group:
    key: str
    places: tuple[Place, ...]


def _alike(
    places: Iterable[Place], borders: Mapping[str, Border], cutter: Cutter, grid: Grid
) -> dict[tuple[str, str], _Group]:
    """Places whose pieces take equally long, by key."""
    found: dict[tuple[str, str], _Group] = {}
    for place in places:
        try:
            key = cutter.piece(borders[place.id]).key()
        except Declined:
            # Nothing is known of its time; it is not there for speed.
            continue
        same = (key, repr(grid[place.id]))
        held = found.get(same, _Group(key, ()))
        found[same] = _Group(key, (*held.places, place))
    return found


def _row(
    place: Place,
    key: str,
    borders: Mapping[str, Border],
    builder: Builder,
    grid: Grid,
    watch: Stopwatch,
    progress: Callable[[str], None],
) -> dict[Level, float]:
    """Milliseconds of one place's piece at every level, from memory where all are known."""
    levels = [level for level in grid[place.id] if level.units != 0 and level == _run_as(level)]
    keys = {level: watch.key("piece", key, str(level)) for level in levels}
    known: dict[Level, Any] = {level: watch.memory.load(keys[level]) for level in levels}
    if any(value is None for value in known.values()):
        progress(f"time {place.id} at {len(levels)} levels")
        known = dict(_timed_row(place, borders[place.id], levels, builder, watch))
        for level, ms in known.items():
            watch.memory.save(keys[level], ms if math.isfinite(ms) else "infinite")
    row = monotone({level: math.inf if ms == "infinite" else float(ms) for level, ms in known.items()})
    return {level: 0.0 if level.units == 0 else row[_run_as(level)] for level in grid[place.id]}


def _run_as(level: Level) -> Level:
    """The level that takes as long: the runtime multiplies zeros, too."""
    return replace(level, sparsity=None)


def _timed_row(
    place: Place, border: Border, levels: Sequence[Level], builder: Builder, watch: Stopwatch
) -> dict[Level, float]:
    pieces: dict[Level, Piece] = {}
    values = observed(builder.model, [border], watch.feeds)
    for level in _spread(levels):
        try:
            model = builder.build({place.id: level})
            # The tensors between which pieces lie have the same values in all of them, or at least the same sizes.
            pieces[level] = Cutter(model, values).piece(border)
        except (Declined, ModelError):
            # A level that cannot be built alone is never chosen.
            continue
    found = watch.race(pieces)
    return {level: found[level] if level in found else _between(level, found, place.units) for level in levels}


def _spread(levels: Sequence[Level]) -> list[Level]:
    """The first and last count of each form, and some in between."""
    kept: list[Level] = []
    for bits in dict.fromkeys(level.bits for level in levels):
        form = [level for level in levels if level.bits == bits]
        at = np.unique(np.linspace(0, len(form) - 1, min(len(form), _TIMED_COUNTS)).round().astype(int))
        kept += [form[int(one)] for one in at]
    return kept


def _between(level: Level, found: Mapping[Level, float], units: int) -> float:
    """Milliseconds between the neighbours in count that were timed; infinite where there are none."""
    form = sorted((one.units or units, ms) for one, ms in found.items() if one.bits == level.bits)
    if len(form) < 2 or level.units is None:
        return math.inf
    return float(np.interp(level.units, [count for count, _ in form], [ms for _, ms in form]))


def _nothing(feeds: Feeds) -> Model:
    """A model that only hands its smallest input through."""
    inputs = {
        name: gs.Variable(name, value.dtype, [f"{name}.{axis}" for axis in range(value.ndim)])
        for name, value in feeds.items()
    }
    smallest = min(feeds, key=lambda name: feeds[name].nbytes)
    out = gs.Variable("out", feeds[smallest].dtype)
    graph = gs.Graph(
        nodes=[gs.Node("Identity", inputs=[inputs[smallest]], outputs=[out])],
        inputs=list(inputs.values()),
        outputs=[out],
        opset=13,
    )
    graph.ir_version = 8
    return Model(graph=graph, fields=FileFields())


def anchors(grid: Grid) -> dict[str, Choice]:
    """Whole models that the sum of pieces is held against: as it was, in integers, and each cut half way."""
    integers = {name: Level(bits=8) for name, levels in grid.items() if Level(bits=8) in levels}
    found: dict[str, Choice] = {"as it was": {}}
    if integers:
        found["int8"] = integers
    half = {name: middle for name, levels in grid.items() if (middle := _middle(levels)) is not None}
    if half:
        found["half"] = half
        if integers:
            both = {name: Level(units=level.units, bits=8) for name, level in half.items()}
            found["half, int8"] = integers | {name: level for name, level in both.items() if level in grid[name]}
    return found


def _middle(levels: Sequence[Level]) -> Level | None:
    counts = [level for level in levels if level.units and level.bits is None]
    return counts[len(counts) // 2] if counts else None


def _fitted(rows: Mapping[str, Mapping[Level, float]], builder: Builder, grid: Grid, watch: Stopwatch) -> LatencyTable:
    wholes = anchors(grid)
    measured = watch.speedups(list(wholes.values()), builder.build)
    times = np.array([ms for _, ms in measured])
    sums = np.array([sum(row[one.get(name, AS_IS)] for name, row in rows.items()) for one in wholes.values()])
    # Least squares of relative errors; neither the rest nor a piece can take less than nothing.
    (rest, factor), _ = nnls(np.stack([1 / times, sums / times], axis=1), np.ones(len(times)))
    if factor == 0:
        # Only where pieces say nothing: then levels still compare, and the rest is what was not explained.
        factor, rest = 1.0, max(float(times[0] - sums[0]), 0.0)
    original_ms = float(np.median([ratio * ms for ratio, ms in measured]))
    predicted = rest + factor * sums
    return LatencyTable(
        target=watch.target.name,
        original_ms=original_ms,
        rest_ms=float(rest),
        places={
            name: {level: factor * ms for level, ms in row.items() if math.isfinite(ms)} for name, row in rows.items()
        },
        check={name: float(p / t) for name, p, t in zip(wholes, predicted, times, strict=True)}
        | {"pieces added up": float((sums[0]) / times[0])},
    )
