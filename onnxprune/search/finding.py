"""Choices for a goal: the limit of the tables is moved until the clock and the file say what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnxprune.progress import Turn
from onnxprune.search.choosing import Levels, Limits
from onnxprune.search.goal import Goal
from onnxprune.search.searcher import Candidate, Searcher
from onnxprune.search.steering import Steering

# Choices that are measured on the way to one goal.
ROUNDS = 9
# A choice at most this much better than what is aimed at is near enough.
CLOSE = 1.03
# What is aimed at, beyond what was asked: finished models are measured again, and clocks differ.
MARGIN = 1.01
# Halvings of the range between the fastest levels and those that change nothing.
_HALVINGS = 6
# Steps by which a limit above the floors is made stricter again with whole models as the judge.
_STRICTER = 0.94


@dataclass(frozen=True)
class Found:
    """What a search for a goal came to.

    Attributes:
        best: the choice of least loss among those that keep the goal, else the one that comes closest.
        reachable: whether more could be tried by the tables.
    """

    best: Candidate
    tried: tuple[Candidate, ...]
    reachable: bool


def reach(searcher: Searcher, goal: Goal, *, margin: float = MARGIN) -> Found:
    """A choice for a speed, a size, or both.

    The limits are settled with the choices of least error by the tables; coefficients are searched for once they are.

    Args:
        searcher: of the model.
        goal: of speed or size.
        margin: how much more than was asked is aimed at, so that the finished model still keeps it.
    """
    original_ms, ends = searcher.latency.original_ms, searcher.ends
    ms = Steering(goal.most_ms(original_ms) / margin, ends.fastest_ms, CLOSE)
    size = Steering(goal.most_bytes(searcher.original_bytes) / margin, ends.smallest_bytes, CLOSE)
    tried: list[Candidate] = []
    settled, reachable = False, True
    for turn in range(ROUNDS):
        # How many rounds it takes, nobody knows before.
        searcher.progress(f"search within {_words(ms, size)}, round {turn + 1}")
        limits = Limits(ms.limit, size.limit)
        numbers = searcher.within(limits) if settled else searcher.plain(limits)
        if numbers is None:
            numbers = searcher.chooser.cheapest(limits)
        candidate = searcher.measured(searcher.chooser.choice(numbers))
        tried.append(candidate)
        took = original_ms / candidate.measured
        misses = ms.misses(took) or size.misses(candidate.size_bytes)
        generous = _all_generous(ms, took, size, candidate.size_bytes) and bool(candidate.choice)
        if not misses and not generous:
            if settled or searcher.judge.spent():
                break
            settled = True
            continue
        moved = _move(ms, took, misses=misses) | _move(size, candidate.size_bytes, misses=misses)
        if not moved or searcher.judge.spent():
            reachable = not misses
            break
    best = max(tried, key=lambda one: _standing(one, ms, size, original_ms))
    return Found(best, tuple(tried), reachable)


def fastest(searcher: Searcher, holds: Callable[[Candidate], bool]) -> Candidate | None:
    """The fastest choice that keeps floors, by bisection over the tables' limit; None where only the original does.

    Args:
        searcher: of the model.
        holds: whether a choice keeps the floors.
    """
    low, high = searcher.ends.fastest_ms, searcher.latency.ms({})
    best: Candidate | None = None
    for turn in range(_HALVINGS):
        searcher.progress(Turn("search the fastest above the floor", turn + 1, _HALVINGS, kind="fastest"))
        middle = math.sqrt(max(low, 1e-9) * high)
        candidate = _at(searcher, searcher.plain(Limits(ms=middle)))
        if candidate is not None and holds(candidate):
            best, high = candidate, middle
        else:
            low = middle
        if searcher.judge.spent():
            return best
    limit = high
    for _ in range(_HALVINGS):
        candidate = _at(searcher, searcher.within(Limits(ms=limit)))
        if candidate is None or not holds(candidate) or searcher.judge.spent():
            return best
        best = candidate if best is None or candidate.measured > best.measured else best
        limit *= _STRICTER
    return best


def slower_than(searcher: Searcher, candidate: Candidate) -> Candidate | None:
    """The choice of least error that may take a little longer; None where nothing would be changed by it."""
    limit = searcher.latency.ms(candidate.choice) / _STRICTER
    found = _at(searcher, searcher.plain(Limits(ms=limit))) if limit < searcher.latency.ms({}) else None
    return None if found is None or found.choice == candidate.choice else found


def _at(searcher: Searcher, numbers: Levels | None) -> Candidate | None:
    return None if numbers is None else searcher.measured(searcher.chooser.choice(numbers))


def _all_generous(ms: Steering, took: float, size: Steering, held: float) -> bool:
    """Whether every limit that was asked leaves room."""
    asked = [one.generous(value) for one, value in ((ms, took), (size, held)) if one.asked]
    return bool(asked) and all(asked)


def _move(one: Steering, measured: float, *, misses: bool) -> bool:
    """Move a limit that is missed; where none is, one that leaves room."""
    if not one.asked or not (one.misses(measured) if misses else one.generous(measured)):
        return False
    return one.told(measured)


def _words(ms: Steering, size: Steering) -> str:
    words = [f"{ms.wanted:.3g} ms"] if ms.asked else []
    return " and ".join([*words, f"{size.wanted:.3g} bytes"] if size.asked else words)


def _standing(one: Candidate, ms: Steering, size: Steering, original_ms: float) -> tuple[bool, float]:
    """Sorts candidates: those that keep the limits last, among them the one of least loss."""
    excess = max(original_ms / one.measured / ms.wanted, one.size_bytes / size.wanted)
    return (True, -one.loss) if excess <= 1 else (False, -excess)
