"""Whether a finished model keeps a goal, and what would have to give where it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxprune.search.goal import Goal


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What was measured of a finished model.

    Attributes:
        speedup: times as fast as the original.
        fidelity: the held-out score.
        metric_drop: by how much the user's metric is below the original's; None where there is no metric.
    """

    speedup: float
    latency_ms: float
    size_bytes: int
    fidelity: float
    metric_drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How far a search could go: what is left when all that can be cut is gone.

    Attributes:
        original_ms: of the original.
        fastest_ms: by the latency table.
        smallest_bytes: by the error table.
    """

    original_ms: float
    fastest_ms: float
    smallest_bytes: int


def excess_of(goal: Goal, finish: Finish, original_bytes: int) -> float:
    """By how much speed and size miss a goal, as a ratio; at most 1 where both are kept."""
    found = [0.0]
    if goal.speedup is not None:
        found.append(goal.speedup / finish.speedup)
    if goal.latency_ms is not None:
        found.append(finish.latency_ms / goal.latency_ms)
    most = goal.most_bytes(original_bytes)
    if math.isfinite(most):
        found.append(finish.size_bytes / most)
    return max(found)


def missed(goal: Goal, finish: Finish, original_bytes: int, ends: Ends | None) -> str:
    """What is not kept and what would have to give, in one line; empty where all is kept.

    Args:
        goal: what was asked, its floor among it.
        finish: what came.
        original_bytes: of the original file.
        ends: of the search; None where none was made.
    """
    found = []
    if goal.speedup is not None and finish.speedup < goal.speedup:
        most_ms = None if ends is None else ends.original_ms / goal.speedup
        found.append(
            f"reached {finish.speedup:.2f} x the speed; {goal.speedup:g} x would need "
            f"{_give(most_ms, None if ends is None else ends.fastest_ms, 'ms', goal)}"
        )
    if goal.latency_ms is not None and finish.latency_ms > goal.latency_ms:
        fastest = None if ends is None else ends.fastest_ms
        found.append(
            f"reached {finish.latency_ms:.3g} ms; {goal.latency_ms:g} ms would need "
            f"{_give(goal.latency_ms, fastest, 'ms', goal)}"
        )
    most = goal.most_bytes(original_bytes)
    if finish.size_bytes > most:
        smallest = None if ends is None else ends.smallest_bytes
        found.append(
            f"reached {finish.size_bytes} bytes; {most:.0f} bytes would need {_give(most, smallest, 'bytes', goal)}"
        )
    if goal.fidelity is not None and math.isnan(finish.fidelity):
        found.append(f"no output could be compared, so nothing shows that the floor {goal.fidelity:g} holds")
    elif goal.fidelity is not None and not finish.fidelity >= goal.fidelity:
        found.append(f"fidelity {finish.fidelity:.4f} is under the floor {goal.fidelity:g}")
    if goal.max_drop is not None and finish.metric_drop is not None and finish.metric_drop > goal.max_drop:
        found.append(f"metric {goal.metric} fell by {finish.metric_drop:.4g}, more than {goal.max_drop:g}")
    return "; ".join(found)


def _give(asked: float | None, least: float | None, unit: str, goal: Goal) -> str:
    if asked is None or least is None:
        return "sample inputs, since without them nothing is cut: give --data"
    if least > asked:
        return f"{asked:.4g} {unit}, but with all that can be cut gone {least:.4g} {unit} are left"
    if goal.fidelity is not None:
        return f"a floor under {goal.fidelity:g}"
    return "a longer search, or levels between those that were found"
