"""One pass, taken with proof: proposed, applied, judged, and taken back where it broke something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnxprune import spec
from onnxprune.errors import Declined
from onnxprune.fidelity import Fidelity
from onnxprune.judge import Broken, Evidence, judge
from onnxprune.model import Model
from onnxprune.plan import Edit, Report, Skip, without
from onnxprune.protocol import Context, Pass
from onnxprune.sites import GRAPH, Site

# Held-out samples that rank edits by the harm that each does alone.
_RANKING_SAMPLES = 8


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


@dataclass(frozen=True)
class _Trial:
    model: Model
    edits: tuple[Edit, ...]
    report: Report
    fidelity: Fidelity | None = None
    broken: str | None = None

    def stands(self, floor: float | None) -> bool:
        return self.broken is None and (floor is None or self.fidelity is None or self.fidelity.score >= floor)


def take(
    one: Pass, model: Model, sites: Sequence[Site], context: Context, evidence: Evidence, floor: float | None
) -> Step:
    """Run one pass; edits that break a check or sink the fidelity under `floor` are reverted and named.

    Args:
        one: the pass.
        model: as earlier passes left it.
        sites: of that model.
        context: what the pass may look at.
        evidence: what the original does.
        floor: least fidelity, or None for no floor.
    """
    try:
        proposal = one.propose(model, sites, context)
    except Declined as reason:
        return Step(model, (), Report(pass_spec=spec.format(one), skips=(Skip(site=GRAPH, why=str(reason)),)), None)
    blank = Report(pass_spec=spec.format(one), skips=proposal.skips)
    if not proposal.edits:
        return Step(model, (), blank, None)

    def attempt(edits: Sequence[Edit], samples: int | None = None) -> _Trial:
        return _attempt(one, model, tuple(edits), evidence, blank, samples)

    trial = attempt(proposal.edits)
    if not trial.stands(floor):
        trial = _largest_that_stands(trial, _Trial(model, (), blank), proposal.edits, attempt, floor)
    return Step(trial.model, trial.edits, trial.report, trial.fidelity)


def _attempt(
    one: Pass, model: Model, edits: tuple[Edit, ...], evidence: Evidence, blank: Report, samples: int | None
) -> _Trial:
    try:
        edited, changes = one.apply(model, edits)
        fidelity = judge(edited, evidence, lossless=one.lossless, samples=samples)
    except (Broken, Declined) as reason:
        return _Trial(model, edits, blank, broken=str(reason))
    return _Trial(edited, edits, replace(blank, changes=changes), fidelity)


def _largest_that_stands(
    whole: _Trial,
    nothing: _Trial,
    edits: tuple[Edit, ...],
    attempt: Callable[..., _Trial],
    floor: float | None,
) -> _Trial:
    """Take back the edits that do most harm alone, as few as bring the rest over the floor.

    Each edit is first judged alone on a few samples; those that break the model go at once. The number of further
    reverts, worst first, is found by bisection.
    """
    reasons: dict[str, str] = {}
    harm: dict[str, float] = {}
    for edit in edits:
        needed = _with_dependencies(edit, edits)
        alone = attempt(needed, _RANKING_SAMPLES)
        if alone.broken is not None:
            reasons[edit.id] = alone.broken
        elif alone.fidelity is not None:
            harm[edit.id] = 1 - alone.fidelity.score

    def rest(count: int) -> tuple[_Trial, dict[str, str]]:
        worst = sorted(harm, key=lambda name: (-harm[name], name))[:count]
        why = reasons | {name: _sinks(harm[name], floor, whole) for name in worst}
        kept, dropped = without(edits, why.keys())
        kept = _without_idle(kept)
        why |= dict.fromkeys(dropped - why.keys(), "an edit that it depends on was reverted")
        return attempt(kept) if kept else nothing, why

    low, high = 0, len(harm)
    best, why = rest(low)
    if not best.stands(floor):
        best, why = rest(high)
        while high - low > 1:
            middle = (low + high) // 2
            trial, named = rest(middle)
            if trial.stands(floor):
                high, best, why = middle, trial, named
            else:
                low = middle
    site_of = {edit.id: edit.site for edit in edits}
    reverted = tuple(Skip(site=site_of[name], why=why[name]) for name in site_of if name in why)
    return replace(best, report=replace(best.report, reverted=reverted))


def _without_idle(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Edits less a raised opset that none of them asked for."""
    wanted = {name for edit in edits for name in edit.depends_on}
    return tuple(edit for edit in edits if edit.kind != "raise-opset" or edit.id in wanted)


def _with_dependencies(edit: Edit, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    by_id = {other.id: other for other in edits}
    wanted, queue = {edit.id}, [edit]
    while queue:
        for name in queue.pop().depends_on:
            if name in by_id and name not in wanted:
                wanted.add(name)
                queue.append(by_id[name])
    return tuple(other for other in edits if other.id in wanted)


def _sinks(harm: float, floor: float | None, whole: _Trial) -> str:
    if whole.broken is not None:
        return f"with all edits: {whole.broken}; alone it costs {harm:.4f} of the fidelity"
    score = whole.fidelity.score if whole.fidelity is not None else float("nan")
    return f"fidelity {score:.4f} was under the floor {floor}; alone it costs {harm:.4f}"
