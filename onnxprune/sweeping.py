"""The front of speed, size and fidelity: trials that share what they measure, timed together in the end."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from onnxprune.cluster import joined, refuse_workers_alone
from onnxprune.errors import DataError, OutputError
from onnxprune.files import atomic
from onnxprune.front import Point, split
from onnxprune.loss import check_loss
from onnxprune.model import size_on_disk
from onnxprune.plan import tensor_path
from onnxprune.progress import Progress, Turn
from onnxprune.targets.target import Timer
from onnxprune.targets.timing import Timed
from onnxprune.trials import TIMING_S, Job, Trial, Tried, bench_of, carry_out, forget_bench, time_apart, trials_of


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
    scheduler: str | None = None,
    workers: int | None = None,
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
        scheduler: address of a Dask scheduler whose workers do the trials, or `local` for processes of this machine;
            trials run one after the other in this process without it.
        workers: processes of a `local` cluster that do trials; one more keeps the clock. One less than there are
            processors by default.
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
    try:
        with _crew(job, folder, scheduler, workers, progress) as crew:
            progress("load and run the original")
            bench = bench_of(crew.job, crew.place)
            tried = crew.carry_out(trials, progress)
            made = [one for one in tried if not one.why]
            if not made:
                raise DataError(f"{path}: nothing came of any trial; of {tried[0].trial.name}: {tried[0].why}")
            progress(Turn(f"time {len(made)} results on {target}", seconds=TIMING_S * len(made)))
            original, timings = time_apart(crew.job, [one.model for one in made], crew.place)
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
            _publish(result, crew.folder, folder)
    finally:
        forget_bench()
    return result


class Crew(Protocol):
    """Who does trials."""

    @property
    def job(self) -> Job:
        """What all trials have in common, as who does them must read it."""

    @property
    def folder(self) -> Path:
        """Where what they make lies meanwhile."""

    @property
    def place(self) -> Timer | None:
        """What times; None for this process."""

    def carry_out(self, trials: Sequence[Trial], progress: Progress) -> list[Tried]:
        """What came of each, in their order."""


@dataclass(frozen=True)
class _Alone:
    """This process, one trial after the other."""

    job: Job
    folder: Path
    place: None = None

    def carry_out(self, trials: Sequence[Trial], progress: Progress) -> list[Tried]:
        """What came of each."""
        tried = []
        for at, trial in enumerate(trials, 1):
            progress(Turn(trial.name, at, len(trials)))
            tried.append(carry_out(self.job, trial, str(self.folder)))
        return tried


@contextmanager
def _crew(job: Job, folder: Path, scheduler: str | None, workers: int | None, progress: Progress) -> Iterator[Crew]:
    if scheduler is None:
        refuse_workers_alone(workers)
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
            yield _Alone(job, Path(scratch))
        return
    with joined(job, scheduler, workers, folder, progress) as crew:
        yield crew


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
