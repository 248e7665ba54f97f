"""Which types of integers a model's targets are fastest at: its edits stand in each of them against the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from onnxprune.plan import Edit, Skip
from onnxprune.reverting import Attempt, Race, Trial

# Another type must beat the first by this much to be taken: less is noise.
_CLEARLY = 1.02


def suit_integers(trial: Trial, one: Any, signs: Sequence[str], attempt: Attempt, race: Race) -> Trial:
    """The edits with the integer types that the clock finds fastest; what a target cannot take has no speed.

    Args:
        trial: sound, with the first of the types.
        one: the pass. It offers `variant(edit, signs)`: an edit of the same integers in other types; None where there
            is nothing to choose.
        signs: types that are worth a try on the targets, the likeliest first.
        attempt: judges edits.
        race: how many times as fast as the first model each one is, timed in alternation.
    """
    variant: Callable[[Edit, str], Edit | None] = getattr(one, "variant", lambda _edit, _signs: None)
    choices: dict[str, Trial] = {}
    for other in signs[1:]:
        swapped = [variant(edit, other) for edit in trial.edits]
        if any(edit is not None for edit in swapped):
            edits = tuple(new or old for new, old in zip(swapped, trial.edits, strict=True))
            found = attempt(edits)
            if found.broken is None:
                choices[other] = found
    if not choices:
        return trial
    ratios = dict(zip(choices, race([trial.model, *(found.model for found in choices.values())])[1:], strict=True))
    best = max(choices, key=lambda name: ratios[name].ratio)
    told = ", ".join(f"{name} {ratios[name].ratio:.2f} x" for name in choices)
    if ratios[best].ratio <= _CLEARLY:
        return trial
    why = f"{signs[0]} integers are slower here than {best}; as fast as {signs[0]}: {told}"
    swapped_sites = [edit.site for edit in trial.edits if variant(edit, best) is not None]
    skips = tuple(Skip(site=site, why=why) for site in swapped_sites)
    chosen = choices[best]
    return replace(chosen, report=replace(chosen.report, reverted=(*trial.report.reverted, *skips)))
