"""Which edits may stand: those that break a model, sink its fidelity or slow it down give way, as few as it takes.

An edit gives way to its pass's milder form where there is one, and is reverted where there is none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.fidelity import Fidelity
from onnxprune.model import Model
from onnxprune.plan import Edit, Report, Skip, with_dependencies, without
from onnxprune.targets.timing import REFUSED, SLOWER, Ratio

# Held-out samples that rank edits by the harm that each does alone.
RANKING_SAMPLES = 8
# A form must beat another by this much to be preferred: less is noise.
_CLEARLY = 1.02
_RACES = 3
# What share of the edits may go altogether so that the others keep their form.
_SPARED = 0.25

Race = Callable[[Sequence[Model]], Sequence[Ratio]]
Milder = Callable[[Edit], tuple[str, Edit] | None]


@dataclass(frozen=True)
class Trial:
    """Edits, the model that they make, and what became of it."""

    model: Model
    edits: tuple[Edit, ...]
    report: Report
    fidelity: Fidelity | None = None
    broken: str | None = None

    def stands(self, floor: float | None) -> bool:
        """Whether the model is sound and reaches the floor."""
        return self.broken is None and (floor is None or self.fidelity is None or self.fidelity.score >= floor)


Attempt = Callable[..., Trial]


def milder_of(one: Any) -> Milder:
    """The milder form that a pass offers for an edit; none by default."""
    found: Milder = getattr(one, "milder", lambda _: None)
    return found


def finer_of(one: Any, model: Model) -> Milder:
    """The form nearer to the original that a pass offers for an edit of `model`; its milder one by default."""
    found: Callable[[Edit, Model], tuple[str, Edit] | None] | None = getattr(one, "finer", None)
    return milder_of(one) if found is None else lambda edit: found(edit, model)


def largest_that_stands(
    whole: Trial,
    nothing: Trial,
    edits: tuple[Edit, ...],
    attempt: Attempt,
    floor: float | None,
    finer: Milder,
    race: Race | None = None,
) -> Trial:
    """Let the edits give way that do most harm alone, as few as bring the rest over the floor.

    Each edit is first judged alone on a few samples; those that break the model go at once. How many more give way,
    worst first, is found by bisection: to finer forms, where all of these do not do to the forms that are finer still,
    and only at last altogether. Where many give way so, a few that go altogether may spare the others their form: the
    clock decides.
    """
    contest = _Contest(whole, nothing, edits, attempt, floor, finer)
    gentle = contest.softened()
    given_way = {edit.id for edit in edits} - {edit.id for edit in gentle.edits if edit in edits}
    blunt = contest.thinned() if race is not None and len(given_way) > len(edits) * _SPARED else None
    if race is None or blunt is None:
        return gentle
    slow, fast = race([nothing.model, gentle.model, blunt.model])[1:]
    return blunt if fast.ratio > _CLEARLY * slow.ratio else gentle


class _Contest:
    """Edits that together sink a model's fidelity, ranked by what each costs alone."""

    def __init__(
        self,
        whole: Trial,
        nothing: Trial,
        edits: tuple[Edit, ...],
        attempt: Attempt,
        floor: float | None,
        finer: Milder,
    ) -> None:
        self._whole, self._nothing, self._edits = whole, nothing, edits
        self._attempt, self._floor, self._finer = attempt, floor, finer
        self._broken: dict[str, str] = {}
        self._harm: dict[str, float] = {}
        for edit in edits:
            alone = attempt(with_dependencies(edit, edits), RANKING_SAMPLES)
            if alone.broken is not None:
                self._broken[edit.id] = alone.broken
            elif alone.fidelity is not None:
                self._harm[edit.id] = 1 - alone.fidelity.score
        self._worst = sorted(self._harm, key=lambda name: (-self._harm[name], name))

    def softened(self) -> Trial:
        """The worst in finer forms, then all of them in finer ones still, and at last the worst gone."""
        forms = {edit.id: edit for edit in self._edits}
        given_way: set[str] = set()
        while softer := {name: mild[1] for name, edit in forms.items() if (mild := self._finer(edit)) is not None}:
            order = [name for name in self._worst if name in softer]
            found = _fewest(self._first_softened(forms, softer, order, given_way), len(softer), self._floor)
            if found is not None:
                return found
            forms |= softer
            given_way |= softer.keys()
        return self._first_gone(forms, given_way, len(self._worst)) or self._nothing

    def thinned(self) -> Trial | None:
        """The worst gone, at most as many as may be spared, the others as they were; None where that does not do."""
        return self._first_gone({edit.id: edit for edit in self._edits}, set(), int(len(self._worst) * _SPARED))

    def _first_softened(
        self, forms: Mapping[str, Edit], softer: Mapping[str, Edit], order: Sequence[str], given_way: set[str]
    ) -> Callable[[int], Trial]:
        def rest(count: int) -> Trial:
            chosen = {name: softer[name] for name in order[:count]}
            return self._trial({**forms, **chosen}, given_way | chosen.keys(), set())

        return rest

    def _first_gone(self, forms: Mapping[str, Edit], given_way: set[str], most: int) -> Trial | None:
        return _fewest(lambda count: self._trial(forms, given_way, set(self._worst[:count])), most, self._floor)

    def _trial(self, forms: Mapping[str, Edit], given_way: set[str], gone: set[str]) -> Trial:
        kept = given_way & self._harm.keys() - gone
        why = self._broken | {
            name: _sinks(self._harm[name], self._floor, self._whole, kept=name in kept) for name in kept | gone
        }
        edits = [forms[edit.id] for edit in self._edits]
        return _rest(edits, gone | {*self._broken}, why, self._attempt, self._nothing)


def _fewest(rest: Callable[[int], Trial], most: int, floor: float | None) -> Trial | None:
    """The trial with the smallest count that stands, by bisection; None where not even the largest does."""
    first = rest(0)
    if first.stands(floor):
        return first
    low, high, best = 0, most, rest(most)
    if not best.stands(floor):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        trial = rest(middle)
        if trial.stands(floor):
            high, best = middle, trial
        else:
            low = middle
    return best


def _rest(edits: Sequence[Edit], gone: set[str], why: Mapping[str, str], attempt: Attempt, nothing: Trial) -> Trial:
    """What stays when some edits go, with the reasons in its report."""
    kept, dropped = without(edits, gone)
    kept = without_idle(kept)
    named = dict(why) | dict.fromkeys(dropped - why.keys(), "an edit that it depends on was reverted")
    trial = attempt(kept) if kept else nothing
    reverted = tuple(Skip(site=edit.site, why=named[edit.id]) for edit in edits if edit.id in named)
    return replace(trial, report=replace(trial.report, reverted=reverted))


def no_slower(trial: Trial, before: Model, attempt: Attempt, floor: float | None, milder: Milder, race: Race) -> Trial:
    """Keep the forms that are there for speed only where the clock agrees.

    Args:
        trial: that stands.
        before: the model without its edits.
        attempt: judges edits.
        floor: of the fidelity.
        milder: gives up a form.
        race: how many times as fast as the first model each one is, timed in alternation.
    """
    softer = {edit.id: mild for edit in trial.edits if (mild := milder(edit)) is not None}
    forms = sorted({words for words, _ in softer.values()})
    if not forms:
        return trial
    ratio = race([before, trial.model])[1]
    if ratio.low > 1 and len(forms) == 1:
        return trial
    choices = [trial]
    given_up: list[tuple[str, ...]] = [()]
    for count in range(1, len(forms) + 1):
        for some in itertools.combinations(forms, count):
            taken = {name: mild for name, (words, mild) in softer.items() if words in some}
            other = attempt(without_idle([taken.get(edit.id, edit) for edit in trial.edits]))
            if other.stands(floor):
                choices.append(other)
                given_up.append(some)
    ratios = race([before, *(choice.model for choice in choices)])[1:]
    best = max(range(len(choices)), key=lambda at: ratios[at].ratio)
    # A draw goes to what multiplies in float: it is closer to the original.
    mildest = len(choices) - 1
    if ratios[best].ratio <= _CLEARLY * ratios[mildest].ratio:
        best = mildest
    elif ratios[best].ratio <= _CLEARLY * ratios[0].ratio:
        best = 0
    if best == 0:
        return trial
    text = f"{_told(ratios[0])} with it, {ratios[best].ratio:.2f} x with weights decoded at load"
    skips = tuple(
        Skip(site=edit.site, why=f"{softer[edit.id][0]} are no faster here: {text}")
        for edit in trial.edits
        if edit.id in softer and softer[edit.id][0] in given_up[best]
    )
    chosen = choices[best]
    return replace(chosen, report=replace(chosen.report, reverted=(*trial.report.reverted, *skips)))


def _told(ratio: Ratio) -> str:
    return f"{ratio.ratio:.2f} x the speed" if ratio.ratio > REFUSED else "a target takes none of it"


def no_slower_at_all(trial: Trial, nothing: Trial, race: Race, *, slower: float = SLOWER) -> Trial:
    """Keep edits unless the clock says otherwise each time: a slow spell proves nothing.

    Args:
        trial: that stands.
        nothing: the model without its edits.
        race: how many times as fast as the first model each one is, timed in alternation.
        slower: as fast as before or less is too slow, in (0, 1).
    """
    ratio = race([nothing.model, trial.model])[1]
    # Races that ran before are not run again, so that more of them are races of more.
    for more in range(1, _RACES):
        if not ratio.high < slower:
            return trial
        ratio = max(race([nothing.model, trial.model, *[trial.model] * more])[1:], key=lambda other: other.high)
    if not ratio.high < slower:
        return trial
    told = f"a run takes {1 / ratio.ratio:.2f} x as long with it"
    why = told if ratio.ratio > REFUSED else "a target refuses the model with it"
    reverted = tuple(Skip(site=edit.site, why=why) for edit in trial.edits)
    return replace(nothing, report=replace(trial.report, changes=(), reverted=(*trial.report.reverted, *reverted)))


def without_idle(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Edits less a raised opset that none of them asked for."""
    wanted = {name for edit in edits for name in edit.depends_on}
    return tuple(edit for edit in edits if edit.kind != "raise-opset" or edit.id in wanted)


def _sinks(harm: float, floor: float | None, whole: Trial, *, kept: bool) -> str:
    instead = ", so its milder form is kept" if kept else ""
    if whole.broken is not None:
        return f"with all edits: {whole.broken}{instead}; alone it costs {harm:.4f} of the fidelity"
    score = whole.fidelity.score if whole.fidelity is not None else float("nan")
    if math.isnan(score):
        return f"no output can be compared, so that the floor {floor} is not shown to hold{instead}"
    return f"fidelity {score:.4f} was under the floor {floor}{instead}; alone it costs {harm:.4f}"
