"""From a goal to a finished model: search, carry out, measure what came of it, and search again where it fell short."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from onnxprune import spec
from onnxprune.fidelity import Fidelity
from onnxprune.model import Model, size_on_disk
from onnxprune.passes import known
from onnxprune.protocol import Pass
from onnxprune.runtime import written
from onnxprune.search.finding import MARGIN, fastest, reach, slower_than
from onnxprune.search.floors import Floors
from onnxprune.search.goal import Goal
from onnxprune.search.reaching import Finish, excess_of
from onnxprune.search.searcher import Candidate, Searcher

# Models that are finished for one goal, at most.
ATTEMPTS = 3
# Bytes and speed of a finished model may differ so much from what was foreseen before it is searched again.
_FORESEEN = 0.04
# How much further is aimed at each time that a finished model falls short.
_FURTHER = 1.01


class Done(Protocol):
    """What carrying out passes comes to."""

    @property
    def model(self) -> Model:
        """The finished model."""

    @property
    def fidelity(self) -> Fidelity:
        """Of that model."""


Result = TypeVar("Result", bound=Done)


@dataclass(frozen=True, kw_only=True)
class Aimed:
    """A plan that was carried out.

    Attributes:
        candidate: None where nothing but the lossless passes keeps the floors.
        passes: that carried it out, after the lossless ones.
        finish: what was measured of the finished model.
    """

    candidate: Candidate | None
    passes: tuple[Pass, ...]
    finish: Finish


def aim(
    searcher: Searcher, goal: Goal, floors: Floors, run: Callable[[Sequence[Pass]], Result]
) -> tuple[Aimed, Result]:
    """The finished model that keeps the goal with the highest fidelity, or else comes closest to it.

    Floors come first: where the speed or the size cannot be had above them, the fastest model above them is taken.

    Args:
        searcher: of the model as lossless edits have left it.
        goal: of speed or size, or `best`.
        floors: of the same goal.
        run: carries passes out on that model, with proof.
    """
    job = _Job(searcher, goal, floors, run)
    if not goal.only_floors:
        job.towards()
    if floors.stated and not any(job.keeps(aimed.finish) for aimed, _ in job.tried):
        job.above_floors()
    return min(job.tried, key=lambda one: job.standing(one[0].finish))


class _Job(Generic[Result]):
    def __init__(self, searcher: Searcher, goal: Goal, floors: Floors, run: Callable[[Sequence[Pass]], Result]) -> None:
        self._searcher, self._goal, self._floors, self._run = searcher, goal, floors, run
        # What other goals have taught is forgotten, so that no goal's result depends on those before it.
        searcher.unforeseen, searcher.finishing = 0, 1.0
        self.tried: list[tuple[Aimed, Result]] = []

    def towards(self) -> None:
        """Aim at the speed and the size; each finished model tells what finishing does, and corrects the next aim."""
        margin = MARGIN
        for _ in range(ATTEMPTS):
            found = reach(self._searcher, self._goal, margin=margin)
            if any(found.best.choice == (aimed.candidate and aimed.candidate.choice) for aimed, _ in self.tried):
                return
            finish = self._finish(found.best)
            short = excess_of(self._goal, finish, self._searcher.original_bytes) > 1
            surprising = self._learns(found.best, finish)
            if not (short or surprising) or not found.reachable or self._searcher.judge.spent():
                return
            if short:
                margin *= _FURTHER

    def _learns(self, candidate: Candidate, finish: Finish) -> bool:
        """Whether the model came out so much smaller or faster than foreseen that another choice is due."""
        searcher, due = self._searcher, []
        if math.isfinite(self._goal.most_bytes(1)):
            more = finish.size_bytes - candidate.size_bytes
            searcher.unforeseen += more
            due.append(abs(more) > _FORESEEN * finish.size_bytes)
        if math.isfinite(self._goal.most_ms(1)):
            gained = finish.speedup / candidate.measured
            searcher.finishing *= gained
            due.append(gained - 1 > _FORESEEN)
        return any(due)

    def above_floors(self) -> None:
        """The fastest model that keeps the floors; the refit of finished models may keep them a little further."""

        def holds(candidate: Candidate) -> bool:
            return self._floors.held(self._searcher.builder.build(candidate.choice))

        found = fastest(self._searcher, holds)
        finish = self._finish(found)
        while found is not None and not self._floors_kept(finish):
            # What the passes do with the same levels is not quite what was judged: a little slower, then.
            slower = slower_than(self._searcher, found)
            if slower is None or len(self.tried) > 2 * ATTEMPTS:
                self._finish(None)
                return
            found = slower
            finish = self._finish(found)

    def _finish(self, candidate: Candidate | None) -> Finish:
        searcher = self._searcher
        texts = () if candidate is None else searcher.specs(candidate.choice)
        passes = tuple(spec.parse(text, known()) for text in texts)
        done = self._run(passes)
        speedup, ms = searcher.watch.finished([spec.format(one) for one in passes], done.model)
        with written(done.model) as path:
            size = size_on_disk(path)
        drop = self._floors.drop(done.model) if self._goal.metric is not None else None
        finish = Finish(speedup=speedup, latency_ms=ms, size_bytes=size, fidelity=done.fidelity.score, metric_drop=drop)
        self.tried.append((Aimed(candidate=candidate, passes=passes, finish=finish), done))
        return finish

    def keeps(self, finish: Finish) -> bool:
        """Whether a model keeps everything."""
        return self._floors_kept(finish) and excess_of(self._goal, finish, self._searcher.original_bytes) <= 1

    def _floors_kept(self, finish: Finish) -> bool:
        floor, most = self._goal.fidelity, self._goal.max_drop
        faithful = floor is None or finish.fidelity >= floor
        return faithful and (most is None or finish.metric_drop is None or finish.metric_drop <= most)

    def standing(self, finish: Finish) -> tuple[bool, float, float]:
        """Sorts models: floors first, then how close they come to the goal, then how faithful they are."""
        excess = excess_of(self._goal, finish, self._searcher.original_bytes)
        if self._goal.only_floors:
            excess = 1 / finish.speedup
        score = finish.fidelity if math.isfinite(finish.fidelity) else -math.inf
        return (not self._floors_kept(finish), max(excess, 0.0 if self._goal.only_floors else 1.0), -score)
