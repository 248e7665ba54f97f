"""Edits of an otherwise exact pass that lose some fidelity: as many as lose no more than they may, and gain still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from onnxprune.plan import Edit, Skip
from onnxprune.reverting import Attempt, Race, Trial


def lossy(one: Any, edit: Edit) -> bool:
    """Whether an edit may move outputs by more than rounding."""
    return bool(_limit_of(one)(edit))


def _limit_of(one: Any) -> Callable[[Edit], float]:
    found: Callable[[Edit], float] = getattr(one, "may_lose", lambda _: 0.0)
    return found


def keep_close(trial: Trial, one: Any, attempt: Attempt, race: Race | None) -> Trial:
    """Leave out lossy edits, or places of theirs, until fidelity falls by no more than they may take.

    What is left of one is raced again: with fewer places it may gain nothing.

    Args:
        trial: whose rivals the clock has settled.
        one: the pass. It offers `may_lose(edit)` and `fewer(edit)`; a pass that does not is left as it is.
        attempt: judges edits.
        race: times models in alternation; None: nothing says that they gain, so that they go.
    """
    for edit in [edit for edit in trial.edits if lossy(one, edit)]:
        if trial.broken is None:
            trial = _settled(trial, edit, one, attempt, race)
    return trial


def _settled(trial: Trial, edit: Edit, one: Any, attempt: Attempt, race: Race | None) -> Trial:
    rest = tuple(other for other in trial.edits if other.id != edit.id)
    limit, reverted = _limit_of(one)(edit), trial.report.reverted

    def without(why: str) -> Trial:
        plain = attempt(rest)
        skip = Skip(site=edit.site, why=f"{edit.kind}: {why}")
        return replace(plain, report=replace(plain.report, reverted=(*reverted, skip)))

    if race is None:
        return without("nothing is timed, and it is there for speed alone")
    plain, chosen, current, lost = attempt(rest), trial, edit, 0.0
    if plain.fidelity is None:
        return trial
    while chosen.broken is None and chosen.fidelity is not None:
        fall = plain.fidelity.score - chosen.fidelity.score
        if fall <= limit:
            break
        lost = lost or fall
        fewer = one.fewer(current)
        if fewer is None:
            return without(f"fidelity falls by {lost:.2g} with it, it may fall by {limit:g}")
        current = fewer
        chosen = attempt(tuple(current if other.id == edit.id else other for other in trial.edits))
    if chosen.broken is not None:
        return without(chosen.broken)
    if current is not edit and not (ratio := race([plain.model, chosen.model])[1]).low > 1:
        return without(
            f"fidelity falls by {lost:.2g} with all of it, it may fall by {limit:g}; with less the model is "
            f"{ratio.ratio:.3f} x as fast"
        )
    return replace(chosen, report=replace(chosen.report, reverted=reverted))
