"""From a goal to a finished model: search, carry out, measure what came of it, and search again where it fell short."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from onnxprune import spec
from onnxprune.fidelity import Fidelity
from onnxprune.model import Model
from onnxprune.passes import known
from onnxprune.protocol import Pass
from onnxprune.runtime import written
from onnxprune.search.goal import Goal
from onnxprune.search.reaching import Finish, excess_of
from onnxprune.search.searcher import MARGIN, Candidate, Searcher

# How often a finished model may fall short before the best one is taken as it is.
ATTEMPTS = 3


class Done(Protocol):
    """What carrying out passes comes to."""

    @property
    def model(self) -> Model:
        """The finished model."""

    @property
    def fidelity(self) -> Fidelity | None:
        """Of that model; None where no edit stands."""


Result = TypeVar("Result", bound=Done)


@dataclass(frozen=True, kw_only=True)
class Aimed:
    """A plan that was carried out.

    Attributes:
        passes: that carried it out, after the lossless ones.
        finish: what was measured of the finished model.
    """

    candidate: Candidate
    passes: tuple[Pass, ...]
    finish: Finish


def aim(searcher: Searcher, goal: Goal, run: Callable[[Sequence[Pass]], Result]) -> tuple[Aimed, Result]:
    """The finished model that keeps the goal with the highest fidelity, or else comes closest to it.

    Args:
        searcher: of the model as lossless edits have left it.
        goal: of speed or size.
        run: carries passes out on that model, with proof.
    """
    passes = known()
    margin = MARGIN
    original_bytes = searcher.original_bytes
    tried: list[tuple[Aimed, Result]] = []
    for _ in range(ATTEMPTS):
        candidate = searcher.reach(goal, margin=margin)[-1]
        if tried and candidate.choice == tried[-1][0].candidate.choice:
            break
        chosen = tuple(spec.parse(text, passes) for text in searcher.specs(candidate.choice))
        done = run(chosen)
        finish = _finish(searcher, chosen, done)
        tried.append((Aimed(candidate=candidate, passes=chosen, finish=finish), done))
        excess = excess_of(goal, finish, original_bytes)
        if excess <= 1 or searcher.judge.spent() or searcher.exhausted(goal, margin):
            break
        margin *= excess * 1.01
    return min(tried, key=lambda one: _standing(one[0].finish, goal, original_bytes))


def _finish(searcher: Searcher, passes: Sequence[Pass], done: Done) -> Finish:
    speedup, ms = searcher.watch.finished([spec.format(one) for one in passes], done.model)
    with written(done.model) as path:
        size = sum(one.stat().st_size for one in path.parent.iterdir())
    score = 1.0 if done.fidelity is None else done.fidelity.score
    return Finish(speedup=speedup, latency_ms=ms, size_bytes=size, fidelity=score)


def _standing(finish: Finish, goal: Goal, original_bytes: int) -> tuple[bool, float]:
    """Sorts attempts: those that meet the goal first, the most faithful first; then by how close they come."""
    excess = excess_of(goal, finish, original_bytes)
    score = finish.fidelity if math.isfinite(finish.fidelity) else -math.inf
    return (excess > 1, -score if excess <= 1 else excess)
