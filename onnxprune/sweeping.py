"""The front of speed, size and fidelity: trials that share what they measure, timed together in the end.

A trial is a pure function of plain data: `carry_out(job, trial, folder)` reads a model, writes a plan and returns
figures that need no clock. Where trials run, and in which order, does not matter; timing is a step of its own, one
model after the other on one machine, so that no trial disturbs it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from onnxprune.bench import Bench, passes_of
from onnxprune.errors import DataError, OnnxPruneError, OptionError, OutputError
from onnxprune.files import atomic
from onnxprune.front import Point, split
from onnxprune.loss import check_loss
from onnxprune.measurement import parse_targets
from onnxprune.model import save, size_on_disk
from onnxprune.plan import tensor_path, write_plan
from onnxprune.search.goal import Goal, parse_share_or_size
from onnxprune.subject import load_subject
from onnxprune.synthetic import parse_shapes
from onnxprune.targets.timing import Timed
from onnxprune.targets.together import together

# Speed-ups that are searched for where none is named.
SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
# Seconds of alternated runs a model, and how many are alive at once beside the original.
TIMING_S = 3.0
_AT_ONCE = 6

Progress = Callable[[str], None]


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


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The answer of `onnxprune sweep`.

    Attributes:
        original: the original's size in bytes and its timing.
        front: points that no other covers, the slowest first.
        covered: the others, each with the name of a point that covers it.
        failed: trials of which nothing came.
    """

    job: Job
    size_bytes: int
    original: Timed
    shape: dict[str, tuple[int, ...]]
    front: tuple[Point, ...]
    covered: tuple[tuple[Point, str], ...]
    failed: tuple[Tried, ...]

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "input": self.job.model,
            "data": self.job.data,
            "target": self.job.target,
            "shape": {name: list(size) for name, size in self.shape.items()},
            "original": {"size_bytes": self.size_bytes, "latency_ms": self.original.latency_ms.to_json()},
            "points": [point.to_json() for point in self.front],
            "covered": [{**point.to_json(), "by": by} for point, by in self.covered],
            "failed": [{"name": one.trial.name, "asked": one.trial.asked(), "why": one.why} for one in self.failed],
        }


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


def carry_out(job: Job, trial: Trial, folder: str) -> Tried:
    """Do one trial: write its model and its plan into a folder; nothing is timed beyond what the search itself needs.

    Args:
        job: what all trials have in common.
        trial: what is wanted.
        folder: where `NAME.onnx`, `NAME.plan.json` and its tensors go.

    Returns:
        Figures, or the reason why nothing came of it.
    """
    try:
        bench = _bench(job)
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


@lru_cache(maxsize=1)
def _bench(job: Job) -> Bench:
    """A process makes statistics and tables once for all of its trials."""
    sizes = parse_shapes(job.shape)
    place = together(parse_targets(job.target))
    subject = load_subject(Path(job.model), job.data, sizes, job.seed, job.loss, job.mask, allow_synthetic=False)
    return Bench(subject, place, sizes, seed=job.seed, fresh=job.fresh)


def sweep(
    model: Path | str,
    *,
    data: str,
    output: Path | str | None = None,
    speedup: Sequence[float] = (),
    size: Sequence[str] = (),
    recipe: Sequence[str] = (),
    target: str = "cpu:1",
    shape: Sequence[str] = (),
    seed: int = 0,
    loss: str | None = None,
    mask: str | None = None,
    fresh: bool = False,
    progress: Progress = lambda _: None,
) -> Sweep:
    """Try several wishes on one model and keep the results that no other covers, each as a plan.

    Args:
        model: the .onnx file.
        data: sample inputs: an .npz, a folder of .npz files, or `module:function`.
        output: the folder for the plans and `sweep.json`; `NAME.sweep` beside the model by default.
        speedup: each is searched for; a few between 1.5 and 4 where neither these nor sizes nor recipes are named.
        size: `0.2x` or `20MB`; each is searched for.
        recipe: specs of passes, separated by blanks; each is a trial.
        target: where to time.
        shape: `NAME=1x128` for the timed run; the first sample's shapes by default.
        seed: of every random choice.
        loss: what scores by loss measure.
        mask: the input that is 0 at padded tokens.
        fresh: take nothing over from earlier runs.
        progress: told each trial as its turn comes.

    Raises:
        OnnxPruneError: the input is at fault, or nothing came of any trial; no file has been written.
    """
    path = Path(model)
    folder = Path(output) if output is not None else path.with_name(f"{path.stem}.sweep")
    trials = trials_of(speedup, size, recipe)
    check_loss(loss)
    _check_folder(folder)
    job = Job(
        model=str(path), data=data, target=target, shape=tuple(shape), seed=seed, loss=loss, mask=mask, fresh=fresh
    )
    progress("load and run the original")
    try:
        bench = _bench(job)
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
            tried = []
            for at, trial in enumerate(trials, 1):
                progress(f"{trial.name} ({at} of {len(trials)})")
                tried.append(carry_out(job, trial, scratch))
            made = [one for one in tried if not one.why]
            if not made:
                raise DataError(f"{path}: nothing came of any trial; of {tried[0].trial.name}: {tried[0].why}")
            progress(f"time {len(made)} results on {target}")
            original, timings = time_apart(job, [one.model for one in made])
            points = [_point(one, timed) for one, timed in zip(made, timings, strict=True)]
            front, covered = split(points)
            result = Sweep(
                job=job,
                size_bytes=size_on_disk(path),
                original=original,
                shape={name: value.shape for name, value in bench.subject.timed.items()},
                front=tuple(replace(point, plan=str(folder / f"{point.name}.plan.json")) for point in front),
                covered=covered,
                failed=tuple(one for one in tried if one.why),
            )
            _publish(result, Path(scratch), folder)
    finally:
        _bench.cache_clear()
    return result


def time_apart(job: Job, models: Sequence[str]) -> tuple[Timed, tuple[Timed, ...]]:
    """The original's figures, and those of each model against it; one after the other, so that none disturbs another.

    Args:
        job: what all trials have in common.
        models: files that trials have made.
    """
    bench = _bench(job)
    found: list[Timed] = []
    original: Timed | None = None
    for start in range(0, len(models), _AT_ONCE):
        paths = [bench.subject.path, *map(Path, models[start : start + _AT_ONCE])]
        first, *others = bench.place.time(paths, bench.subject.timed, budget_s=TIMING_S * len(paths))
        original = original or first
        found += others
    if original is None:
        (original,) = bench.place.time([bench.subject.path], bench.subject.timed, budget_s=TIMING_S)
    return original, tuple(found)


def _point(one: Tried, timed: Timed) -> Point:
    return Point(
        name=one.trial.name,
        asked=one.trial.asked(),
        plan=None,
        timed=timed,
        size_bytes=one.size_bytes,
        fidelity=one.fidelity,
        low=one.low,
        high=one.high,
        samples=one.samples,
        predicted=one.predicted,
    )


def _check_folder(folder: Path) -> None:
    if not folder.parent.is_dir():
        raise OutputError(f"{folder.parent}: no such folder. Make it or choose another place with --output.")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file. Name a folder with --output.")


def _publish(result: Sweep, scratch: Path, folder: Path) -> None:
    """Put the plans of the front and `sweep.json` in their places, the latter last."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}. Choose another place.") from error
    for point in result.front:
        plan = scratch / f"{point.name}.plan.json"
        for source in (tensor_path(plan), plan):
            with atomic(folder / source.name) as file, source.open("rb") as content:
                shutil.copyfileobj(content, file)
    with atomic(folder / "sweep.json") as file:
        file.write((json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n").encode())
