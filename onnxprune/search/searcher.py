"""The search: tables once, then levels for a limit, judged as whole models and held against the clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnxprune import spec
from onnxprune.calibration import Statistics, collect
from onnxprune.inputs import Inputs, Source, compare_inputs
from onnxprune.model import Model, size_on_disk
from onnxprune.passes import FactorLinear, SparseInt8
from onnxprune.protocol import Context
from onnxprune.runtime import observe_shapes, written
from onnxprune.search.building import Builder, integer_forms, pass_of
from onnxprune.search.choosing import Chooser, Levels, Limits
from onnxprune.search.clocking import Stopwatch, latency_table
from onnxprune.search.grid import Grid, grid_of, integers_of
from onnxprune.search.judging import Budget, Judge
from onnxprune.search.levels import AS_IS, Choice
from onnxprune.search.memory import Memory
from onnxprune.search.places import Place, find_places
from onnxprune.search.ranks import Ranks, ranks_of
from onnxprune.search.reaching import Ends
from onnxprune.search.solving import CUTTERS, solve_places
from onnxprune.search.tables import ErrorTable, LatencyTable
from onnxprune.search.weighing import error_table
from onnxprune.sites import find_sites
from onnxprune.solvers.spdy import search_coefficients
from onnxprune.structure import Structure, read_structure
from onnxprune.subject import Subject
from onnxprune.targets.target import Timer

# Coefficients drawn and mutated for one limit; ZipLM's code has 10 of each, its paper 1000 mutations.
DRAWS, MUTATIONS = 10, 40

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A choice that was built and measured.

    Attributes:
        predicted: times as fast as the original, by the table and what finishing another choice has gained.
        measured: the same by the clock instead of the table.
        latency_ms: the same.
        size_bytes: of the file, as it will be packed.
        loss: beyond the original's, on calibration samples.
    """

    choice: Choice
    predicted: float
    measured: float
    latency_ms: float
    size_bytes: int
    loss: float


@dataclass(eq=False)
class Searcher:
    """Searches plans for one model on one target; tables are made once and serve every goal.

    Attributes:
        model: as lossless edits have left it.
        identity: of the original file.
        memory: what earlier runs have found of this model with these samples and options.
        unforeseen: bytes that a finished file took beyond what was foreseen.
        finishing: times as fast as its choice that a finished model was: what passes behind the search have gained.
        small: whether levels count that make the file smaller and no run faster.
        structural: whether units and blocks alone can go; no weight becomes an integer or a pair then.
        timings: what a clock has said on this target.
    """

    subject: Subject
    model: Model
    target: Timer
    identity: str
    memory: Memory
    timings: Memory
    seed: int = 0
    small: bool = False
    structural: bool = False
    budget: Budget = field(default_factory=Budget)
    progress: Progress = lambda _: None

    unforeseen: int = 0
    finishing: float = 1.0

    @cached_property
    def structure(self) -> Structure:
        """Of the model."""
        return read_structure(self.model, observe_shapes(self.model, self.subject.evidence.probes))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where there is a choice."""
        return find_places(self.model, self.structure, find_sites(self.model, self.structure))

    @cached_property
    def ranks(self) -> Ranks:
        """Of pairs that can stand for linears."""
        return {} if self.structural else ranks_of(self.model, self.places)

    @cached_property
    def builder(self) -> Builder:
        """Solves every place once."""
        samples = self.subject.samples.calibration
        structure, places = self.structure, self.places
        sites = find_sites(self.model, structure)
        self.progress(f"solve {sum(1 for place in places if place.units)} places of units")
        mask = self.subject.mask

        def compare(one: Model, other: Model, what: Collection[Source]) -> Mapping[Source, Inputs]:
            return compare_inputs(one, other, what, samples, mask=mask)

        solutions = solve_places(self.model, structure, places, compare, self.progress)
        return Builder(self.model, structure, sites, places, self.statistics, solutions, compare)

    @cached_property
    def statistics(self) -> Statistics | None:
        """Ranges for the integer forms that want them, and moments for pairs of low rank."""
        if self.structural:
            return None
        sites = find_sites(self.model)
        needs = SparseInt8().needs(self.model, sites)
        if self.ranks:
            needs |= FactorLinear(levels=tuple(f"{name}/1" for name in self.ranks)).needs(self.model, sites)
        samples = self.subject.samples.calibration
        return collect(self.model, needs, samples, mask=self.subject.mask) if needs.tensors else None

    @cached_property
    def grid(self) -> Grid:
        """Levels of every place."""
        integers: frozenset[str] = frozenset()
        if not self.structural:
            integers = integers_of(self.model, Context(statistics=self.statistics))
        return grid_of(self.builder.places, integers, self.ranks, small=self.small)

    @cached_property
    def watch(self) -> Stopwatch:
        """The clock."""
        return Stopwatch(self.target, self.subject.path, self.identity, self.subject.timed, self.timings)

    @cached_property
    def judge(self) -> Judge:
        """What whole models lose."""
        return Judge(self.builder.build, self.subject.measure, self.memory, self.budget)

    @cached_property
    def latency(self) -> LatencyTable:
        """Milliseconds by place and level."""
        return latency_table(self.builder, self.grid, self.watch, self.progress)

    @cached_property
    def errors(self) -> ErrorTable:
        """Losses by place and level."""
        return error_table(self.builder, self.grid, self.judge, self.size_of({}), self.progress)

    @cached_property
    def chooser(self) -> Chooser:
        """Levels within limits."""
        return Chooser.of(self.builder.places, self.grid, self.latency, self.errors)

    def size_of(self, choice: Choice) -> int:
        """Bytes of a choice's file."""
        with written(self.builder.build(choice)) as path:
            return size_on_disk(path)

    def measured(self, choice: Choice) -> Candidate:
        """A choice with its figures, as finishing is foreseen to change them."""
        ((ratio, ms),) = self.watch.speedups([choice], self.builder.build)
        return Candidate(
            choice=choice,
            predicted=self.latency.original_ms / self.latency.ms(choice) * self.finishing,
            measured=ratio * self.finishing,
            latency_ms=ms / self.finishing,
            size_bytes=max(1, self.size_of(choice) - self._packed_away(choice) + self.unforeseen),
            loss=self.judge.lost(choice),
        )

    def _packed_away(self, choice: Choice) -> int:
        """Bytes that packing saves on zeros, which files hold densely before."""
        dense = {name: replace(level, sparsity=None) for name, level in choice.items()}
        return int(self.errors.size(dense) - self.errors.size(choice))

    def plain(self, limits: Limits) -> Levels | None:
        """The levels of least error within the tables' limits; None where no levels keep them."""
        return self.chooser.solve(np.ones(len(self.chooser.places)), limits)

    def within(self, limits: Limits) -> Levels | None:
        """The levels that lose least as whole models within the tables' limits; None where no levels keep them."""
        chooser, plain = self.chooser, self.plain(limits)
        if plain is None:
            return None
        weights = np.array([self.errors.weights.get(place.id, 1.0) for place in chooser.places])
        found = search_coefficients(
            # The limits can be kept: only what counts as an error changes.
            lambda coefficients: chooser.solve(coefficients, limits) or plain,
            lambda numbers: self.judge.lost(chooser.choice(numbers)),
            len(chooser.places),
            starts=(np.ones(len(weights)), weights.min() / weights),
            candidates=tuple(chooser.uniform(limits)),
            draws=DRAWS,
            mutations=MUTATIONS,
            seed=self.seed,
            spent=self.judge.spent,
        )
        return found.levels

    @property
    def original_bytes(self) -> int:
        """Of the original's file."""
        return size_on_disk(self.subject.path)

    @property
    def ends(self) -> Ends:
        """How far any search could go, by the tables."""
        fastest, smallest = (self.chooser.cheapest(one) for one in (Limits(ms=0.0), Limits(size=0.0)))
        return Ends(
            original_ms=self.latency.original_ms,
            fastest_ms=self.latency.ms(self.chooser.choice(fastest)),
            smallest_bytes=int(self.errors.size(self.chooser.choice(smallest))),
        )

    def specs(self, choice: Choice) -> tuple[str, ...]:
        """The passes that carry a choice out, in order."""
        return specs_of(self.builder.places, choice, self.builder.factored(choice))


def specs_of(places: Sequence[Place], choice: Choice, model: Model) -> tuple[str, ...]:
    """The passes that carry a choice out, in order; each names the sites that it acts on.

    Args:
        places: of the uncut model.
        choice: levels by place.
        model: with the pairs of the choice.
    """
    levels = {place.id: choice.get(place.id, AS_IS) for place in places}
    gone = [place.block.id for place in places if place.block is not None and levels[place.id].units == 0]
    specs = [f"remove-blocks:sites={'+'.join(gone)}"] if gone else []
    for kind, name in CUTTERS.items():
        cuts = [
            f"{place.id}/{level.units}"
            for place in places
            if place.site.kind == kind and (level := levels[place.id]).units
        ]
        specs += [f"{name}:levels={'+'.join(cuts)}"] if cuts else []
    pairs = [f"{place.id}/{rank}" for place in places if (rank := levels[place.id].rank) is not None]
    specs += [f"factor-linear:levels={'+'.join(pairs)}"] if pairs else []
    forms = integer_forms(places, levels, model)
    every = {place.id: replace(levels[place.id], bits=8) for place in places}
    whole = {name for names in integer_forms(places, every, model).values() for name in names}
    for at, (form, names) in enumerate(forms.items()):
        if form == (8, 0.0) and whole == set(names):
            specs.append("sparse-int8")
        else:
            # Those that follow find a graph that holds integers already.
            one = pass_of(form, names)
            specs.append(spec.format(replace(one, quantized="extend") if at else one))
    return tuple(specs)
