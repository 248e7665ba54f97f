"""How much each place's error counts, found by trying: what a sum of errors predicts badly, whole models tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Levels = tuple[int, ...]

# Of a mutation, the chance of each coefficient to be drawn anew.
MUTATED = 0.1


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best levels, and what it took.

    Attributes:
        loss: of the whole model with these levels.
        evaluations: whole models that were judged; levels seen before are not judged again.
        losses: of each candidate in the order of judging.
    """

    levels: Levels
    loss: float
    evaluations: int
    losses: tuple[float, ...]


def search_coefficients(
    solve: Callable[[Array], Levels],
    judge: Callable[[Levels], float],
    places: int,
    *,
    starts: Sequence[Array] = (),
    candidates: Sequence[Levels] = (),
    draws: int = 10,
    mutations: int = 10,
    seed: int = 0,
    spent: Callable[[], bool] = lambda: False,
) -> Found:
    """Levels that lose least as a whole, among those that some coefficients make optimal.

    Args:
        solve: the levels of least error in all, each place's error times its coefficient [places] in [0, 1].
        judge: what the whole model loses with some levels, the lower the better.
        places: how many there are.
        starts: coefficients to try first, before all ones.
        candidates: levels to judge besides.
        draws: random coefficients.
        mutations: of the best coefficients, each with a tenth of them drawn anew.
        seed: of both.
        spent: asked before each new evaluation after the first; the search ends where it says so.

    Source: Frantar and Alistarh 2022, SPDY, section 3.2; the counts are those of ZipLM's code.
    """
    random = np.random.default_rng(seed)
    fixed = [*(np.asarray(start, np.float64) for start in starts), np.ones(places)]
    levels = solve(fixed[0])
    seen = {levels: judge(levels)}
    best, leader, leads = levels, fixed[0], seen[levels]

    def tried(levels: Levels) -> bool:
        """Judge levels unless they were; False where nothing more may be spent."""
        nonlocal best
        if levels not in seen:
            if spent():
                return False
            seen[levels] = judge(levels)
        best = min(best, levels, key=seen.__getitem__)
        return True

    for at in range(1, len(fixed) + draws + mutations):
        if at < len(fixed):
            coefficients = fixed[at]
        elif at < len(fixed) + draws:
            coefficients = random.random(places)
        else:
            fresh = random.random(places) < MUTATED
            fresh[random.integers(places)] = True
            coefficients = np.where(fresh, random.random(places), leader)
        levels = solve(coefficients)
        if not tried(levels):
            break
        if seen[levels] < leads:
            leader, leads = coefficients, seen[levels]
    for levels in candidates:
        tried(levels)
    return Found(levels=best, loss=seen[best], evaluations=len(seen), losses=tuple(seen.values()))
