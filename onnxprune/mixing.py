"""Where a network is faster with integers and where without: stretches of it give way wherever the clock says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.plan import Edit, Skip
from onnxprune.reverting import Attempt, Milder, Race, Trial, without_idle

# Stretches that are tried at once, and how often what is left is divided anew.
_STRETCHES = 8
_ROUNDS = 3
# Fewer edits are one stretch: all of them or none.
_FEWEST = 8
# What is given up only together with what flows in and out: others are judged as a whole.
_MIXED = "integer convolutions"


def mix_by_clock(trial: Trial, attempt: Attempt, milder: Milder, race: Race) -> Trial:
    """Let stretches of neighbouring edits give way to their milder forms where that makes the model faster.

    Integers pay where convolutions are large, and cost where little arithmetic stands between much that stays in float.

    Args:
        trial: sound, whether or not it reaches a floor.
        attempt: judges edits.
        milder: gives up a form.
        race: how many times as fast as the first model each one is, timed in alternation.
    """
    reverted: list[Skip] = []
    for _ in range(_ROUNDS):
        mixed = _round(trial, attempt, milder, race)
        if mixed is None:
            break
        trial, skips = mixed
        reverted += skips
    return replace(trial, report=replace(trial.report, reverted=(*trial.report.reverted, *reverted)))


def _round(trial: Trial, attempt: Attempt, milder: Milder, race: Race) -> tuple[Trial, list[Skip]] | None:
    softer = {edit.id: mild[1] for edit in trial.edits if (mild := milder(edit)) is not None and mild[0] == _MIXED}
    if len(softer) < _FEWEST:
        return None
    names = [edit.id for edit in trial.edits if edit.id in softer]
    stretches = [set(part.tolist()) for part in np.array_split(np.array(names), _STRETCHES)]
    without = [attempt(swapped(trial.edits, softer, stretch), 1) for stretch in stretches]
    sound = [at for at, other in enumerate(without) if other.broken is None]
    ratios = dict(zip(sound, race([trial.model, *(without[at].model for at in sound)])[1:], strict=True))
    slow = set[str]().union(*(stretches[at] for at, ratio in ratios.items() if ratio.low > 1))
    if not slow:
        return None
    found = attempt(swapped(trial.edits, softer, slow))
    if found.broken is not None:
        return None
    ratio = race([trial.model, found.model])[1]
    if not ratio.low > 1:
        return None
    why = (
        f"integer convolutions are no faster here: the model is {ratio.ratio:.2f} x as fast with this stretch in float"
    )
    return found, [Skip(site=edit.site, why=why) for edit in trial.edits if edit.id in slow]


def swapped(edits: Sequence[Edit], softer: Mapping[str, Edit], names: Collection[str]) -> tuple[Edit, ...]:
    """Edits with those that are named in their milder forms."""
    return without_idle([softer[edit.id] if edit.id in names else edit for edit in edits])
