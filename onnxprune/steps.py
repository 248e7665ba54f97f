"""One pass, taken with proof: proposed, applied, judged, and taken back where it broke something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxprune import spec
from onnxprune.acceptance import accepted
from onnxprune.closeness import keep_close, lossy
from onnxprune.errors import Declined
from onnxprune.fidelity import Fidelity
from onnxprune.judge import Broken, Evidence, judge, refuse_moved, refuse_other_bits
from onnxprune.mixing import mix_by_clock
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Report, Skip
from onnxprune.protocol import Context, Pass
from onnxprune.reverting import Race, Trial, finer_of, largest_that_stands, milder_of, no_slower, no_slower_at_all
from onnxprune.rivalry import keep_faster
from onnxprune.sites import GRAPH, Site
from onnxprune.suiting import suit_integers
from onnxprune.targets.timing import SLOWER

# A run that is this much slower is so by more than chance and by more than a smaller file is worth.
_CLEARLY_SLOWER = 0.85


@dataclass(frozen=True)
class Step:
    """A pass that was taken.

    Attributes:
        model: with the edits that stand.
        fidelity: of that model against the original; None where no edit stands.
    """

    model: Model
    edits: tuple[Edit, ...]
    report: Report
    fidelity: Fidelity | None


def take(
    one: Pass,
    model: Model,
    sites: Sequence[Site],
    context: Context,
    evidence: Evidence,
    floor: float | None,
    race: Race | None = None,
    slower: float | None = None,
) -> Step:
    """Run one pass; edits that break a check or sink the fidelity under `floor` are reverted and named.

    Args:
        one: the pass.
        model: as earlier passes left it.
        sites: of that model.
        context: what the pass may look at.
        evidence: what the original does.
        floor: least fidelity, or None for no floor.
        race: times models in alternation on the target; None: forms that are there for speed are taken on trust.
        slower: what is as fast as this or less is taken back whatever it is for; None: only what changes no run is held
            to the clock besides forms that are there for speed.
    """
    try:
        proposal = one.propose(model, sites, context)
    except Declined as reason:
        return Step(model, (), Report(pass_spec=spec.format(one), skips=(Skip(site=GRAPH, why=str(reason)),)), None)
    blank = Report(pass_spec=spec.format(one), skips=proposal.skips)
    if not proposal.edits:
        return Step(model, (), blank, None)

    workshop = _Workshop(one, model, evidence, blank)
    attempt = workshop.attempt

    trial = attempt(proposal.edits)
    if race is not None and trial.broken is None:
        nothing = Trial(model, (), blank)
        if slower is not None:
            # What others are held against must run everywhere.
            trial = accepted(trial, nothing, attempt, milder_of(one), race)
        trial = suit_integers(trial, one, context.signs, attempt, race)
        trial = mix_by_clock(trial, attempt, milder_of(one), race)
        trial = keep_faster(trial, nothing, one, attempt, race)
    trial = keep_close(trial, one, attempt, race)
    if not trial.stands(floor):
        slow, nothing = trial.report.reverted, Trial(model, (), blank)
        trial = largest_that_stands(trial, nothing, trial.edits, attempt, floor, finer_of(one, model), race)
        trial = replace(trial, report=replace(trial.report, reverted=(*slow, *trial.report.reverted)))
    if race is not None:
        trial = no_slower(trial, model, attempt, floor, milder_of(one), race)
    limit = _limit(one, trial.edits, slower)
    if race is not None and trial.edits and limit is not None:
        trial = no_slower_at_all(trial, Trial(model, (), blank), race, slower=limit)
    return Step(trial.model, trial.edits, trial.report, trial.fidelity)


def _limit(one: Pass, edits: Sequence[Edit], slower: float | None) -> float | None:
    """What speed of a run, as a share of the one before, takes edits back."""
    if getattr(one, "exact", False):
        return SLOWER
    if getattr(one, "relative", False):
        return 1.0
    kinds: tuple[str, ...] = getattr(one, "timed", ())
    return _CLEARLY_SLOWER if any(edit.site.startswith(kinds) for edit in edits if kinds) else slower


# Models that are held beside the one that stands, of those whose edits are tried in several combinations.
_HELD = 3


class _Workshop:
    """Carries edits out and judges what comes of them.

    The same edits are asked for again and again where some stand against others; the last few models are kept then.
    """

    def __init__(self, one: Pass, model: Model, evidence: Evidence, blank: Report) -> None:
        self._one, self._model, self._evidence, self._blank = one, model, evidence, blank
        self._exact = getattr(one, "exact", False)
        # The model before says more than the original, from which lossy edits may have led away before.
        self._relative = getattr(one, "relative", False)
        self._held: dict[tuple[int, ...], tuple[tuple[Edit, ...], Model, tuple[Change, ...]]] = {}

    def attempt(self, edits: Sequence[Edit], samples: int | None = None) -> Trial:
        """The model with these edits, judged by so many held-out samples, all where none is said."""
        edits, lossless = tuple(edits), self._one.lossless and not (self._exact or self._relative)
        try:
            edited, changes = self._proved(edits)
            fidelity = judge(edited, self._evidence, lossless=lossless, samples=samples)
        except (Broken, Declined) as reason:
            return Trial(self._model, edits, self._blank, broken=str(reason))
        return Trial(edited, edits, replace(self._blank, changes=changes), fidelity)

    def _proved(self, edits: tuple[Edit, ...]) -> tuple[Model, tuple[Change, ...]]:
        """The edited model, where it does what it says, less what may move outputs by more than rounding."""
        key = tuple(id(edit) for edit in edits)
        if key in self._held:
            return self._held[key][1:]
        edited, changes = self._one.apply(self._model, edits)
        if self._exact:
            refuse_other_bits(self._model, edited, self._evidence.probes)
        if self._relative:
            exact = tuple(edit for edit in edits if not lossy(self._one, edit))
            if exact == edits:
                refuse_moved(self._model, edited, self._evidence.probes)
            elif exact:
                self._proved(exact)
            # The edits are held, too, so that no other gets the number of one that is gone.
            self._held = dict([*self._held.items(), (key, (edits, edited, changes))][-_HELD:])
        return edited, changes
