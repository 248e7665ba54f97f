"""Forms that take the place of others: each stands only where the target's clock says that it is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from onnxprune.plan import Edit, Skip
from onnxprune.reverting import Attempt, Race, Trial
from onnxprune.targets.timing import REFUSED

# Held-out samples that judge a model which is there to be timed.
_SAMPLES = 1


Kinds = Callable[[Edit], str | None]


def keep_faster(trial: Trial, nothing: Trial, one: Any, attempt: Attempt, race: Race) -> Trial:
    """Leave out rivals without which the model is no slower, each kind timed as a whole; then what slows it all down.

    Args:
        trial: sound.
        nothing: the model without its edits.
        one: the pass. It offers `rivals(edit)`: the name of a kind whose edits stand or fall together; None for edits
            that are no rivals. A pass that does not is left as it is.
        attempt: judges edits.
        race: how many times as fast as the first model each one is, timed in alternation.
    """
    kind_of: Kinds | None = getattr(one, "rivals", None)
    if kind_of is None:
        return trial
    contest = _Contest(nothing, attempt, race)
    trial = contest.settled(contest.accepted(trial, kind_of), kind_of, strict=True)
    whole = race([nothing.model, trial.model])[1] if trial.edits else None
    # What a target refuses altogether is not raced again: it goes as a whole.
    if whole is not None and whole.high < 1 and whole.ratio > REFUSED:
        trial = contest.settled(trial, lambda edit: edit.kind, strict=False)
    return replace(trial, report=replace(trial.report, reverted=(*trial.report.reverted, *contest.reverted)))


class _Contest:
    """Models with and without each kind, in races."""

    def __init__(self, nothing: Trial, attempt: Attempt, race: Race) -> None:
        self._nothing, self._attempt, self._race = nothing, attempt, race
        self.reverted: list[Skip] = []

    def accepted(self, trial: Trial, kind_of: Kinds) -> Trial:
        """The trial less all rivals, where a target refuses it: what others are held against must run everywhere."""
        rivals = [edit for edit in trial.edits if kind_of(edit) is not None]
        if not rivals or self._race([self._nothing.model, trial.model])[1].ratio > REFUSED:
            return trial
        self.reverted += [
            Skip(site=edit.site, why=f"{kind_of(edit)}: a target refuses the model with it") for edit in rivals
        ]
        return self._kept(trial, kind_of, None)

    def settled(self, trial: Trial, kind_of: Kinds, *, strict: bool) -> Trial:
        """Drop kinds, the worst first: `strict`, those that do not clearly gain; else those that clearly lose."""
        kinds = list(dict.fromkeys(name for edit in trial.edits if (name := kind_of(edit)) is not None))
        while kinds:
            others = {name: self._without(trial, name, kind_of) for name in kinds}
            sound = {name: other for name, other in others.items() if other.broken is None}
            if not sound:
                break
            models = [other.model for other in sound.values()]
            ratios = dict(zip(sound, self._race([trial.model, *models])[1:], strict=True))
            # How fast the model is without a kind, as a share of its speed with it.
            worst = max(ratios, key=lambda name: ratios[name].ratio)
            if ratios[worst].high < 1 if strict else not ratios[worst].low > 1:
                break
            why = f"{worst} is not clearly faster here: the model is {ratios[worst].ratio:.3f} x as fast without it"
            self.reverted += [Skip(site=edit.site, why=why) for edit in trial.edits if kind_of(edit) == worst]
            trial = self._kept(trial, kind_of, worst)
            kinds.remove(worst)
        return trial

    def _without(self, trial: Trial, name: str, kind_of: Kinds) -> Trial:
        kept = tuple(edit for edit in trial.edits if kind_of(edit) != name)
        return self._attempt(kept, _SAMPLES) if kept else self._nothing

    def _kept(self, trial: Trial, kind_of: Kinds, gone: str | None) -> Trial:
        """The trial without a kind, or without all of them."""
        kept = tuple(edit for edit in trial.edits if (kind_of(edit) is None if gone is None else kind_of(edit) != gone))
        return self._attempt(kept) if kept else self._nothing
