"""Trials of a sweep: pure functions of plain data.

`carry_out(job, trial, folder)` reads a model, writes a plan and returns figures that need no clock. Where trials run,
and in which order, does not matter; timing is a step of its own, so that no trial disturbs it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.bench import Bench, passes_of
from onnxprune.errors import OnnxPruneError, OptionError
from onnxprune.measurement import parse_targets
from onnxprune.model import digest, save, size_on_disk
from onnxprune.plan import write_plan
from onnxprune.search.goal import Goal, parse_share_or_size
from onnxprune.subject import load_subject
from onnxprune.synthetic import parse_shapes
from onnxprune.targets.target import Timer
from onnxprune.targets.timing import Latency, Ratio, Timed
from onnxprune.targets.together import together

# Speed-ups that are searched for where none is named.
SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
# Seconds of alternated runs a model, and how many are alive at once beside the original.
TIMING_S = 3.0
_AT_ONCE = 6


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all trials of a sweep have in common, as plain values."""

    model: str
    data: str
    target: str = "cpu:1"
    shape: tuple[str, ...] = ()
    seed: int = 0
    loss: str | None = None
    mask: str | None = None
    fresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One wish, as plain values: passes, or a goal that is searched for.

    Attributes:
        name: tells it from the others; names its plan.
        passes: specs; the default pipeline where there are none and nothing is searched.
        speedup: times as fast as the original.
        size: of the file, `0.2x` or `20MB`.
        fidelity: the floor; None for none.
    """

    name: str
    passes: tuple[str, ...] = ()
    speedup: float | None = None
    size: str | None = None
    fidelity: float | None = None

    def goal(self) -> Goal:
        """What it asks for.

        Raises:
            OptionError: no goal that a result could meet.
        """
        share, size_bytes = parse_share_or_size(self.size) if self.size is not None else (None, None)
        return Goal(speedup=self.speedup, size_share=share, size_bytes=size_bytes, fidelity=self.fidelity)

    def asked(self) -> dict[str, Any]:
        """Its wishes by name, those that it has."""
        return {name: value for name, value in asdict(self).items() if name != "name" and value not in (None, ())}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a trial, as plain values; a clock has said nothing of it yet.

    Attributes:
        model: the file that was made, which is to be timed.
        why: the reason where nothing came of it; empty otherwise.
    """

    trial: Trial
    plan: str = ""
    model: str = ""
    size_bytes: int = 0
    fidelity: float = 0.0
    low: float = 0.0
    high: float = 0.0
    samples: int = 0
    predicted: float | None = None
    why: str = ""


def trials_of(
    speedups: Sequence[float] = (), sizes: Sequence[str] = (), recipes: Sequence[str] = ()
) -> tuple[Trial, ...]:
    """The default pipeline, and a trial for each speed-up, size and recipe.

    Args:
        speedups: to search for; a few between 1.5 and 4 where nothing else is named.
        sizes: to search for, `0.2x` or `20MB`.
        recipes: specs of passes, separated by blanks.

    Raises:
        OptionError: a wish that no trial could have.
    """
    if not (speedups or sizes or recipes):
        speedups = SPEEDUPS
    found = [Trial(name="default")]
    found += [Trial(name=f"speedup-{speedup:g}", speedup=speedup) for speedup in speedups]
    found += [Trial(name=f"size-{size}", size=size) for size in sizes]
    found += [Trial(name=f"recipe-{at}", passes=tuple(text.split())) for at, text in enumerate(recipes, 1)]
    for trial in found:
        trial.goal()
        passes_of(trial.passes)
    names = [trial.name for trial in found]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"Trial {name} is named twice. Name each speed-up and size once.")
    return tuple(found)


def carry_out(job: Job, trial: Trial, folder: str, place: Timer | None = None) -> Tried:
    """Do one trial: write its model and its plan into a folder; nothing is timed beyond what the search itself needs.

    Args:
        job: what all trials have in common.
        trial: what is wanted.
        folder: where `NAME.onnx`, `NAME.plan.json` and its tensors go.
        place: what times instead of this process.

    Returns:
        Figures, or the reason why nothing came of it.
    """
    try:
        bench = bench_of(job, place)
        carried = bench.carry_out(passes_of(trial.passes), trial.goal(), trial.fidelity)
        model, plan = Path(folder) / f"{trial.name}.onnx", Path(folder) / f"{trial.name}.plan.json"
        save(carried.outcome.model, model)
        write_plan(bench.plan(carried, trial.goal(), trial.fidelity), plan)
    except OnnxPruneError as error:
        return Tried(trial=trial, why=str(error))
    found, aimed = carried.outcome.fidelity, carried.aimed
    return Tried(
        trial=trial,
        plan=str(plan),
        model=str(model),
        size_bytes=size_on_disk(model),
        fidelity=found.score,
        low=found.low,
        high=found.high,
        samples=found.samples,
        predicted=None if aimed is None or aimed.candidate is None else aimed.candidate.predicted,
    )


# The one bench of this process, and what it was made for.
_HELD: list[tuple[Job, Timer | None, Bench]] = []


def bench_of(job: Job, place: Timer | None = None) -> Bench:
    """A process makes statistics and tables once for all of its trials; `place` times instead of this process.

    Raises:
        OnnxPruneError: the input is at fault.
    """
    for known, timer, bench in _HELD:
        if (known, timer) == (job, place):
            return bench
    forget_bench()
    sizes = parse_shapes(job.shape)
    subject = load_subject(Path(job.model), job.data, sizes, job.seed, job.loss, job.mask, allow_synthetic=False)
    made = Bench(subject, place or together(parse_targets(job.target)), sizes, seed=job.seed, fresh=job.fresh)
    _HELD.append((job, place, made))
    return made


def forget_bench() -> None:
    """Let go of models and statistics."""
    _HELD.clear()


def time_apart(job: Job, models: Sequence[str], place: Timer | None = None) -> tuple[Timed, tuple[Timed, ...]]:
    """The original's figures, and those of each model against it; one after the other, so that none disturbs another.

    What the clock has said of the same files is not asked again: a killed sweep is taken up, and the same latency table
    gives the same front.

    Args:
        job: what all trials have in common.
        models: files that trials have made.
        place: what times instead of this process.
    """
    bench = bench_of(job, place)
    paths = [bench.subject.path, *map(Path, models)]
    memory = bench.trail.timings()
    shapes = {name: [str(value.dtype), *value.shape] for name, value in sorted(bench.subject.timed.items())}
    key = json.dumps(["apart", shapes, TIMING_S, [digest(path) for path in paths]])
    known = memory.load(key)
    if known is None:
        found = _timed_apart(bench, paths)
        memory.save(
            key, [[one.load_ms, asdict(one.latency_ms), asdict(one.speedup), one.instructions] for one in found]
        )
    else:
        found = [
            Timed(name=path.name, load_ms=load, latency_ms=Latency(**ms), speedup=Ratio(**ratio), instructions=count)
            for path, (load, ms, ratio, count) in zip(paths, known, strict=True)
        ]
    return found[0], tuple(found[1:])


def _timed_apart(bench: Bench, paths: Sequence[Path]) -> list[Timed]:
    """Figures of the first model, and of the others a few at a time against it."""
    original, *others = paths
    found: list[Timed] = []
    for start in range(0, max(len(others), 1), _AT_ONCE):
        alive = [original, *others[start : start + _AT_ONCE]]
        first, *timed = bench.place.time(alive, bench.subject.timed, budget_s=TIMING_S * len(alive))
        found += timed if found else [first, *timed]
    return found
