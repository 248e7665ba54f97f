"""One level a place, at the least error within a budget: dynamic programming over a budget cut into buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BUCKETS = 10_000


def least_error(
    errors: Sequence[Array], costs: Sequence[Array], budget: float, *, buckets: int = BUCKETS
) -> tuple[int, ...] | None:
    """Which level to take at each place, so that errors add up to the least and costs to at most the budget.

    Costs are rounded up to whole buckets, so that the budget is kept; the rounding may cost up to one bucket a place.

    Args:
        errors: [levels] of each place, not negative.
        costs: [levels] of each place, not negative, in the budget's unit.
        budget: what all may cost together.
        buckets: of the budget.

    Returns:
        A level's number for each place; None where even the cheapest levels cost too much.

    Source: Frantar and Alistarh 2022, SPDY, section 3.1.
    """
    cheapest = sum(float(one.min()) for one in costs)
    if cheapest > budget:
        return None
    # What the cheapest levels cost is spent; only what goes beyond them is cut into buckets.
    spare = budget - cheapest
    beyond = [np.asarray(one, np.float64) - float(one.min()) for one in costs]
    steps = [_steps(one, spare, buckets) for one in beyond]
    best = np.zeros(buckets + 1)
    taken = np.zeros((len(errors), buckets + 1), np.int32)
    for place, (error, step) in enumerate(zip(errors, steps, strict=True)):
        found = np.full(buckets + 1, np.inf)
        for level in np.argsort(step, kind="stable"):
            if step[level] > buckets:
                break
            reached = np.full(buckets + 1, np.inf)
            reached[step[level] :] = best[: buckets + 1 - step[level]] + error[level]
            better = reached < found
            found[better] = reached[better]
            taken[place, better] = level
        best = found
    return _traced(taken, steps, buckets)


def _steps(beyond: Array, spare: float, buckets: int) -> Array:
    """Costs in whole buckets, rounded up; one more than there are where a cost is beyond the budget."""
    fits = beyond <= spare
    # A cost that is a whole number of buckets must not be rounded up by the division's rounding.
    steps = np.ceil(np.where(fits, beyond, 0) / (spare or 1.0) * buckets - 1e-9)
    return np.where(fits, steps, buckets + 1).astype(np.int64)


def _traced(taken: Array, steps: Sequence[Array], buckets: int) -> tuple[int, ...]:
    left = buckets
    chosen: list[int] = []
    for place in range(len(steps) - 1, -1, -1):
        level = int(taken[place, left])
        chosen.append(level)
        left -= int(steps[place][level])
    return tuple(chosen[::-1])
