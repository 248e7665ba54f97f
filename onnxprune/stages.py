"""Passes one after the other, each proved before the next, each kept on disk when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune import spec
from onnxprune.calibration import Needs, Statistics
from onnxprune.errors import ModelError
from onnxprune.fidelity import Fidelity
from onnxprune.judge import Broken, judge
from onnxprune.latency import Clock
from onnxprune.memory import short_of_memory
from onnxprune.model import Model
from onnxprune.plan import Edit, Report, in_turn
from onnxprune.progress import Progress, Turn
from onnxprune.protocol import Pass
from onnxprune.resuming import Trail
from onnxprune.sites import find_sites
from onnxprune.steps import Step, take
from onnxprune.subject import Subject, collected, context_for, race_on
from onnxprune.targets.target import Timer
from onnxprune.targets.together import too_slow


@dataclass(frozen=True)
class Outcome:
    """What passes made of a model, and how far it moved."""

    model: Model
    edits: tuple[Edit, ...]
    reports: tuple[Report, ...]
    fidelity: Fidelity


def run_passes(
    chosen: Sequence[Pass],
    subject: Subject,
    place: Timer,
    trail: Trail,
    floor: float | None,
    *,
    seed: int,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Take passes in order; those that an earlier run took on the same model are taken over from it.

    What is taken over is judged anew: a file on disk proves nothing. If it does not pass, all is done anew.

    Args:
        chosen: the passes.
        subject: the original and its inputs.
        place: where forms are timed that are there for speed.
        trail: what is on disk.
        floor: least fidelity, under which a pass's edits are reverted; None for no floor.
        seed: of random choices.
        progress: told each pass as its turn comes.

    Raises:
        ModelError: not even an unchanged copy of the original passes.
    """
    job = _Job(subject, place, trail, floor, seed, progress)
    try:
        return job.run(chosen)
    except Broken as reason:
        if not trail.resumed:
            raise ModelError(
                f"{subject.path}: not even an unchanged copy of it passes: {reason}. Export it anew."
            ) from reason
    trail.distrust()
    return run_passes(chosen, subject, place, trail, floor, seed=seed, progress=progress)


class _Job:
    """One way through the passes."""

    def __init__(
        self, subject: Subject, place: Timer, trail: Trail, floor: float | None, seed: int, progress: Progress
    ) -> None:
        timings = trail.timings()
        self._subject = subject
        self._trail = trail
        self._floor = floor
        self._seed = seed
        self._progress = progress
        self._clock = Clock(place, tables=timings)
        # A race opens whole models.
        self._race = None if short_of_memory() else race_on(place, subject.timed, timings)
        self._slower = too_slow(place)
        self._current = self._baseline = subject.model
        self._edits: tuple[Edit, ...] = ()

    def run(self, chosen: Sequence[Pass]) -> Outcome:
        """Take every pass.

        Raises:
            Broken: the result does not pass although nothing was edited in this run.
        """
        reports: list[Report] = []
        fidelity: Fidelity | None = None
        for at, one in enumerate(chosen, 1):
            self._progress(Turn(spec.format(one), at, len(chosen)))
            step = self._trail.step(one, self._current, self._edits, self._floor)
            if step is None:
                step = self._take(one)
                self._trail.keep(one, self._edits, self._floor, step)
                fidelity = step.fidelity or fidelity
            elif step.edits:
                fidelity = None
            # What refits aim at: the model as lossless edits have left it.
            if self._baseline is self._current and one.lossless:
                self._baseline = step.model
            self._current = step.model
            self._edits += in_turn(step.edits, self._edits)
            reports.append(step.report)
        # Less than 1 even where nothing stands, if the original answers differently each time.
        fidelity = fidelity or judge(self._current, self._subject.evidence, lossless=False)
        return Outcome(self._current, self._edits, tuple(reports), fidelity)

    def _take(self, one: Pass) -> Step:
        context = context_for(
            one,
            self._current,
            self._baseline,
            self._subject,
            self._clock,
            seed=self._seed,
            statistics_of=self._statistics,
            kept=self._trail.kept(),
            progress=self._progress,
        )
        sites = find_sites(self._current, context.structure)
        return take(one, self._current, sites, context, self._subject.evidence, self._floor, self._race, self._slower)

    def _statistics(self, model: Model, needs: Needs, subject: Subject) -> Statistics:
        found = self._trail.statistics(self._edits, needs)
        if found is None:
            found = collected(model, needs, subject, self._progress)
            self._trail.keep_statistics(self._edits, needs, found)
        return found
