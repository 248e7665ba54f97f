"""Where recovery stands among passes: after what cuts, at once or in rounds of cutting and recovering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnxprune.errors import OptionError
from onnxprune.passes import Recover
from onnxprune.protocol import Pass

# Passes that cut to a share or count of the original; rounds take them there in steps.
_CUTS = ("remove-blocks", "remove-channels", "remove-heads", "remove-neurons", "merge-blocks")
# What training can mend and does not undo: these stand before it.
_BEFORE = (*_CUTS, "factor-embedding", "factor-linear", "remove-dead", "simplify")


def with_recovery(passes: Sequence[Pass], steps: int | None, rounds: int = 1) -> tuple[Pass, ...]:
    """The passes with `recover` after the last that cuts, or between rounds of cuts.

    Args:
        passes: in order.
        steps: of the optimizer in all; None: nothing is recovered.
        rounds: each takes every share `keep` an equal part of the way (Kurtic et al. 2023, ZipLM, section 3.3).

    Raises:
        OptionError: a count out of range, or rounds without anything to cut by shares.
    """
    if rounds < 1:
        raise OptionError(f"--gradual must be at least 1 round, got {rounds}.")
    if steps is None:
        if rounds > 1:
            raise OptionError("--gradual cuts and recovers in rounds. Give --recover STEPS, too.")
        return tuple(passes)
    if steps < rounds:
        raise OptionError(f"--recover must be at least a step a round, got {steps} for {rounds}.")
    last = max((at for at, one in enumerate(passes) if one.name in _BEFORE), default=-1)
    before, after = list(passes[: last + 1]), list(passes[last + 1 :])
    share = Recover(steps=steps // rounds)
    if rounds == 1:
        return (*before, share, *after)
    cuts = [one for one in before if _shrinks(one)]
    if not cuts:
        raise OptionError("--gradual needs passes that cut to a share, such as remove-heads:keep=0.67. Give one.")
    rest = [one for one in before if one not in cuts]
    first = rest.index(next(one for one in rest if one.name == "simplify")) + 1 if rest else 0
    turns: list[Pass] = []
    for turn in range(1, rounds + 1):
        turns += [_part(one, turn / rounds) for one in cuts]
        turns.append(share)
    return (*rest[:first], *turns, *rest[first:], *after)


def _shrinks(one: Any) -> bool:
    return one.name in _CUTS and isinstance(getattr(one, "keep", None), float) and one.keep < 1


def _part(one: Any, way: float) -> Pass:
    """The pass, this part of its way from 1 to its share."""
    part: Pass = one if way == 1 else replace(one, keep=round(1 - way * (1 - one.keep), 4))
    return part
