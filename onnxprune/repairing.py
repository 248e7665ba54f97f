"""Back over the floor: of all passes' edits, those give way that regain most fidelity for the time they gained."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxprune.attribution import Attribution, Part
from onnxprune.errors import Declined
from onnxprune.fidelity import Fidelity, compare
from onnxprune.judge import Broken, judge
from onnxprune.latency import Clock
from onnxprune.memory import short_of_memory
from onnxprune.model import Model
from onnxprune.mutants import Mutants
from onnxprune.plan import Change, Edit, Skip
from onnxprune.progress import Progress, Turn
from onnxprune.protocol import Pass
from onnxprune.resuming import Trail
from onnxprune.reverting import milder_of
from onnxprune.runtime import open_session
from onnxprune.sites import find_sites
from onnxprune.stages import Outcome
from onnxprune.subject import RACE_S, Subject, context_for, race_on
from onnxprune.targets.target import Timer

# Held-out samples that rank groups of edits; whether the rest stands is judged on all.
RANKING_SAMPLES = 32
# Models that are timed beside the whole at once.
_AT_ONCE = 6
# A share of a run's time that no clock tells from none.
_NO_TIME = 0.005


@dataclass(frozen=True)
class _Move:
    """A group of edits that gives way.

    Attributes:
        milder: forms that take their places, by id; the edits without one go altogether.
        why: for the report.
    """

    part: Part
    why: str
    milder: Mapping[str, Edit] = field(default_factory=dict)


def reach(
    floor: float,
    outcome: Outcome,
    chosen: Sequence[Pass],
    subject: Subject,
    place: Timer,
    trail: Trail,
    *,
    seed: int,
    progress: Progress = lambda _: None,
) -> Outcome:
    """Let as few edits give way as bring the rest over the floor, whichever passes they come from.

    Each group of edits is judged by what leaving it out regains, and timed by how much slower that is; those with most
    fidelity to the millisecond give way first: to their milder forms, then altogether. How many is found by bisection
    on all held-out samples. Edits that rested on a reverted one go too; they are proposed anew where the floor allows.

    Args:
        floor: least fidelity.
        outcome: of the passes.
        chosen: the passes, of which `outcome` holds a report each.
        subject: the original and its inputs.
        place: where to time.
        trail: keeps what the clock says.
        seed: of random choices.
        progress: told each group as its turn comes.

    Returns:
        The outcome itself where it stands; the best that was found where nothing does.
    """
    if outcome.fidelity.score >= floor or not outcome.edits:
        return outcome
    repair = _Repair(floor, outcome, chosen, subject, place, trail, seed)
    moves = repair.moves(progress)
    tried: dict[int, Outcome] = {0: outcome}

    # Halving takes so many trials, and one of all before.
    most = 1 + math.ceil(math.log2(max(len(moves), 1)))

    def stands(count: int) -> bool:
        if count not in tried:
            said = f"{count} of {len(moves)} groups of edits give way"
            progress(Turn(said, len(tried), max(most, len(tried)), kind="repair"))
            tried[count] = repair.without(moves[:count], anew=False)
        return tried[count].fidelity.score >= floor

    low, high = 0, len(moves)
    if not stands(high):
        return max(tried.values(), key=lambda one: one.fidelity.score)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if stands(middle) else (middle, high)
    progress("propose anew what rested on them")
    again = repair.without(moves[:high], anew=True)
    return again if again.fidelity.score >= floor else tried[high]


class _Repair:
    """What one repair works on."""

    def __init__(
        self,
        floor: float,
        outcome: Outcome,
        chosen: Sequence[Pass],
        subject: Subject,
        place: Timer,
        trail: Trail,
        seed: int,
    ) -> None:
        timings = trail.timings()
        self._floor = floor
        self._outcome = outcome
        self._chosen = chosen
        self._subject = subject
        self._seed = seed
        self._race = None if short_of_memory() else race_on(place, subject.timed, timings)
        self._clock = Clock(place, tables=timings)
        self._mutants = Mutants(subject.model, outcome.edits, subject.evidence.probes)

    def moves(self, progress: Progress) -> list[_Move]:
        """In the order in which groups give way; those that gave way to milder forms go altogether in the end."""
        parts = Attribution(self._mutants, self._quick, alone=False).parts(progress=progress)
        races = len(parts) + math.ceil(len(parts) / _AT_ONCE)
        seconds = 0.0 if self._race is None else RACE_S * races
        progress(Turn("time the model without each of them", seconds=seconds))
        slower = self._slower([part.mutant.model for part in parts])
        ranked = sorted(zip(parts, slower, strict=True), key=lambda pair: _worth(*pair), reverse=True)
        first: list[_Move] = []
        last: list[_Move] = []
        passes = {one.name: one for one in self._chosen}
        for part, share in ranked:
            forms = {edit.id: milder_of(passes[edit.pass_name])(edit) for edit in part.edits}
            milder = {name: form[1] for name, form in forms.items() if form is not None}
            reverted = _Move(part, self._why(part, share, kept=False))
            if milder:
                first.append(_Move(part, self._why(part, share, kept=True), milder))
                last.append(reverted)
            else:
                first.append(reverted)
        return [*first, *last]

    def without(self, moves: Sequence[_Move], *, anew: bool) -> Outcome:
        """What stays when groups give way; `anew`: what rested on them is proposed again."""
        gone = {edit.id for move in moves for edit in move.part.edits if edit.id not in move.milder}
        milder = {name: form for move in moves for name, form in move.milder.items() if name not in gone}
        why = {edit.id: move.why for move in moves for edit in move.part.edits}
        dropped = self._mutants.upon(gone)
        left = self._mutants.of([edit.id for edit in self._mutants.edits if edit.id not in dropped], milder)
        kept = {edit.id for edit in left.edits}
        model = baseline = self._subject.model
        edits: tuple[Edit, ...] = ()
        reports = []
        for one, stage, report in zip(self._chosen, self._stages(), self._outcome.reports, strict=True):
            ids = {edit.id for edit in stage}
            untouched = baseline is model
            some = tuple(edit for edit in left.edits if edit.id in ids)
            again: tuple[Edit, ...] = ()
            lost = [edit for edit in stage if edit.id not in kept | gone | self._mutants.support]
            if anew and lost:
                again = self._proposed(one, model, baseline, lost, kept)
            changes: tuple[Change, ...] = ()
            if some or again:
                model, changes = one.apply(model, (*some, *again))
                edits += (*some, *again)
            baseline = model if one.lossless and untouched else baseline
            named = why | dict.fromkeys(ids - kept - why.keys(), "an edit that it rests on was reverted")
            skips = tuple(
                Skip(site=edit.site, why=named[edit.id])
                for edit in stage
                if edit.id in named and edit.id not in self._mutants.support and edit.site not in _sites(again)
            )
            reports.append(replace(report, changes=changes, reverted=(*report.reverted, *skips)))
        return Outcome(model, edits, tuple(reports), self._judged(model))

    def _stages(self) -> list[tuple[Edit, ...]]:
        """Edits of each chosen pass."""
        turns: dict[str, int] = {}
        found = []
        for one in self._chosen:
            own = [edit for edit in self._mutants.edits if edit.pass_name == one.name]
            numbers = sorted({edit.turn for edit in own})
            at = turns.get(one.name, 0)
            found.append(tuple(edit for edit in own if numbers[at:] and edit.turn == numbers[at]))
            turns[one.name] = at + 1
        return found

    def _proposed(
        self, one: Pass, model: Model, baseline: Model, lost: Sequence[Edit], kept: Collection[str]
    ) -> tuple[Edit, ...]:
        """What a pass proposes in place of lost edits on the model that it meets, less what it has there already."""
        context = context_for(one, model, baseline, self._subject, self._clock, seed=self._seed)
        sites = [site for site in find_sites(model, context.structure) if site.id in _sites(lost)]
        milder = milder_of(one)
        # Where the clock had chosen the milder form, it is chosen again.
        settled = {edit.site for edit in lost if milder(edit) is None}
        try:
            proposed = one.propose(model, sites, context).edits
            edits = [form[1] if edit.site in settled and (form := milder(edit)) else edit for edit in proposed]
            one.apply(model, edits)
        except Declined:
            return ()
        turn = lost[0].turn
        names = {edit.id: edit.id if turn == 1 else f"{edit.id}~{turn}" for edit in edits}
        renamed = (
            replace(edit, id=names[edit.id], turn=turn, depends_on=tuple(names[name] for name in edit.depends_on))
            for edit in edits
        )
        # What tells of the model that the pass meets may be there already, for the edits that stay.
        return tuple(edit for edit in renamed if edit.id not in kept)

    def _quick(self, model: Model) -> Fidelity:
        evidence = self._subject.evidence
        count = min(RANKING_SAMPLES, len(evidence.held_out))
        ports = evidence.session
        samples = evidence.held_out[:count]
        candidate = open_session(model)
        return compare(evidence.references(count), candidate, samples, inputs=ports.inputs, outputs=ports.outputs)

    def _judged(self, model: Model) -> Fidelity:
        try:
            return judge(model, self._subject.evidence, lossless=False)
        except Broken as reason:
            nothing = float("-inf")
            return Fidelity(score=nothing, low=nothing, high=nothing, samples=0, outputs={}, why=str(reason))

    def _slower(self, models: Sequence[Model]) -> list[float]:
        """By what share of its time the whole gets slower without each group."""
        if self._race is None:
            # Nothing can be timed: fidelity alone counts.
            return [0.0] * len(models)
        found: list[float] = []
        for start in range(0, len(models), _AT_ONCE):
            ratios = self._race([self._mutants.whole, *models[start : start + _AT_ONCE]])[1:]
            found += [1 / one.ratio - 1 for one in ratios]
        return found

    def _why(self, part: Part, slower: float, *, kept: bool) -> str:
        score = self._outcome.fidelity.score
        instead = ", so its milder form is kept" if kept else ""
        return (
            f"fidelity {score:.4f} of all passes together was under the floor {self._floor}{instead}; "
            f"without it {part.regained.amount:+.4f}, and {slower:+.1%} of the time"
        )


def _worth(part: Part, slower: float) -> float:
    """Fidelity regained for each share of the time; a group that nobody could judge goes last."""
    amount = part.regained.amount
    return amount / max(slower, _NO_TIME) if amount == amount else float("-inf")  # noqa: PLR0124 - NaN


def _sites(edits: Sequence[Edit]) -> set[str]:
    return {edit.site for edit in edits}
