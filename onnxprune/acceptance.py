"""What a target refuses: as few edits as make it so give way to their milder forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.mixing import swapped
from onnxprune.plan import Edit, Skip
from onnxprune.reverting import Attempt, Milder, Race, Trial
from onnxprune.targets.timing import REFUSED

# Stretches that are tried at once; a refused one is divided into as many.
_STRETCHES = 8
# A target that refuses more than this share of them has nothing against single edits.
_FEW = 0.5
_WHY = "a target refuses the model with it"


def accepted(trial: Trial, nothing: Trial, attempt: Attempt, milder: Milder, race: Race) -> Trial:
    """A model that all targets take: the trial itself, or without the forms that one of them refuses.

    A kernel may refuse single operators for their numbers, as one does whose rescaling is out of its range. Stretches
    of neighbouring edits are tried with all others in their milder forms, and those that are refused divided anew.

    Args:
        trial: sound on this machine.
        nothing: the model without its edits, which all targets take.
        attempt: judges edits.
        milder: gives up a form; edits that have no other are left to others to judge.
        race: how many times as fast as the first model each one is, or next to nothing where a target refuses it.
    """
    softer = {edit.id: mild for edit in trial.edits if (mild := milder(edit)) is not None}
    if not softer or _takes(race, nothing, trial):
        return trial
    forms = {name: mild for name, (_, mild) in softer.items()}
    kinds = {words: {name for name, (own, _) in softer.items() if own == words} for words, _ in softer.values()}
    for names in (
        _refused(trial, forms, nothing, attempt, race),
        *sorted(kinds.values(), key=len),
        set(softer),
    ):
        found = attempt(swapped(trial.edits, forms, names)) if names else trial
        if names and found.broken is None and _takes(race, nothing, found):
            return _told(found, trial, {name: f"{softer[name][0]} are no choice here: {_WHY}" for name in names})
    return _told(nothing, trial, {edit.id: _WHY for edit in trial.edits})


def _refused(trial: Trial, softer: Mapping[str, Edit], nothing: Trial, attempt: Attempt, race: Race) -> set[str]:
    """Edits that a target refuses each by itself; none where it refuses most of them."""
    suspects = [[edit.id for edit in trial.edits if edit.id in softer]]
    guilty: set[str] = set()
    while suspects:
        parts = [part.tolist() for one in suspects for part in np.array_split(np.array(one), _STRETCHES) if len(part)]
        alone = [attempt(swapped(trial.edits, softer, softer.keys() - set(part)), 1) for part in parts]
        sound = [at for at, one in enumerate(alone) if one.broken is None]
        ratios = race([nothing.model, *(alone[at].model for at in sound)])[1:] if sound else []
        wrong = [parts[at] for at, ratio in zip(sound, ratios, strict=True) if ratio.ratio <= REFUSED]
        if sum(map(len, wrong)) > _FEW * len(softer) and len(softer) > 1:
            return set()
        guilty |= {part[0] for part in wrong if len(part) == 1}
        suspects = [part for part in wrong if len(part) > 1]
    return guilty


def _takes(race: Race, nothing: Trial, trial: Trial) -> bool:
    return race([nothing.model, trial.model])[1].ratio > REFUSED


def _told(found: Trial, trial: Trial, why: Mapping[str, str]) -> Trial:
    skips = tuple(Skip(site=edit.site, why=why[edit.id]) for edit in trial.edits if edit.id in why)
    return replace(found, report=replace(found.report, reverted=(*trial.report.reverted, *skips)))
