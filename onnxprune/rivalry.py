"""Forms that take the place of others: each stands only where the target's clock says that it is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from onnxprune.plan import Edit, Skip
from onnxprune.reverting import Attempt, Race, Trial
from onnxprune.targets.timing import REFUSED

# Held-out samples that judge a model which is there to be timed.
_SAMPLES = 1


def keep_faster(trial: Trial, nothing: Trial, one: Any, attempt: Attempt, race: Race) -> Trial:
    """Leave out rivals without which the model is no slower: each kind is timed as a whole, all in one race.

    Args:
        trial: sound.
        nothing: the model without its edits.
        one: the pass. It offers `rivals(edit)`: the name of a kind whose edits stand or fall together; None for edits
            that are no rivals.
        attempt: judges edits.
        race: how many times as fast as the first model each one is, timed in alternation.
    """
    kind_of: Callable[[Edit], str | None] = getattr(one, "rivals", lambda _: None)
    kinds = list(dict.fromkeys(name for edit in trial.edits if (name := kind_of(edit)) is not None))
    reverted: list[Skip] = []
    # What all others would be held against must run on every target.
    if kinds and race([nothing.model, trial.model])[1].ratio <= REFUSED:
        reverted = [
            Skip(site=edit.site, why=f"{name}: a target refuses the model with it")
            for edit in trial.edits
            if (name := kind_of(edit)) is not None
        ]
        kept = tuple(edit for edit in trial.edits if kind_of(edit) is None)
        trial, kinds = attempt(kept) if kept else nothing, []
    while kinds:
        others = {name: _without(trial.edits, name, kind_of) for name in kinds}
        trials = {name: attempt(edits, _SAMPLES) if edits else nothing for name, edits in others.items()}
        sound = [name for name in kinds if trials[name].broken is None]
        if not sound:
            break
        ratios = dict(zip(sound, race([trial.model, *(trials[name].model for name in sound)])[1:], strict=True))
        # How fast the model is without a kind, as a share of its speed with it.
        worst = max(sound, key=lambda name: ratios[name].ratio)
        if ratios[worst].high < 1:
            break
        told = f"the model is {ratios[worst].ratio:.3f} x as fast without it"
        reverted += [
            Skip(site=edit.site, why=f"{worst} is not clearly faster here: {told}")
            for edit in trial.edits
            if kind_of(edit) == worst
        ]
        kept = others[worst]
        trial = attempt(kept) if kept else nothing
        kinds.remove(worst)
    return replace(trial, report=replace(trial.report, reverted=(*trial.report.reverted, *reverted)))


def _without(edits: Sequence[Edit], name: str, kind_of: Callable[[Edit], str | None]) -> tuple[Edit, ...]:
    return tuple(edit for edit in edits if kind_of(edit) != name)
