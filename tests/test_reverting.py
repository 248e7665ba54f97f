"""What gives way so that a model reaches its floor, and what the clock says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxprune.fidelity import Fidelity
from onnxprune.model import Model
from onnxprune.plan import Edit, Report
from onnxprune.reverting import Trial, largest_that_stands
from onnxprune.targets.timing import Ratio
from tests.building import Net

FAST, SOFT = "fast", "soft"
# What an edit saves of ten milliseconds in either form.
SAVED_MS = {FAST: 0.5, SOFT: 0.0}


def milder(edit: Edit) -> tuple[str, Edit] | None:
    return ("fast forms", replace(edit, kind=SOFT)) if edit.kind == FAST else None


def settled(harm: Sequence[dict[str, float]], *, floor: float = 0.95, saved_ms: dict[str, float] = SAVED_MS) -> Trial:
    """What stands of edits that cost fidelity in either form; those cost nothing that go altogether."""
    edits = tuple(Edit(id=f"p.{at}", pass_name="p", site=str(at), kind=FAST) for at in range(len(harm)))

    def attempt(edits: Sequence[Edit], samples: int | None = None) -> Trial:
        del samples
        net = Net()
        net.output(net.op("Relu", net.input("x", ("b",))))
        ms = 10 - sum(saved_ms[edit.kind] for edit in edits)
        score = 1 - sum(harm[int(edit.site)][edit.kind] for edit in edits)
        figures = Fidelity(score=score, low=math.nan, high=math.nan, samples=1, outputs={})
        return Trial(net.model().with_metadata(ms=str(ms)), tuple(edits), Report(pass_spec="p"), figures)

    def race(models: Sequence[Model]) -> list[Ratio]:
        ratios = [float(models[0].metadata["ms"]) / float(one.metadata["ms"]) for one in models]
        return [Ratio(ratio, ratio, ratio, 11) for ratio in ratios]

    return largest_that_stands(attempt(edits), attempt(()), edits, attempt, floor, milder, race)


# One edit is harmful in either form, and with it the softer forms of all others do not reach the floor.
ONE_BAD = [{FAST: 0.004, SOFT: 0.003}] * 3 + [{FAST: 0.3, SOFT: 0.1}] + [{FAST: 0.004, SOFT: 0.003}] * 4


def test_one_edit_that_goes_altogether_spares_the_others_their_form() -> None:
    found = settled(ONE_BAD)
    assert {edit.site for edit in found.edits} == set("0124567")
    assert {edit.kind for edit in found.edits} == {FAST}
    assert [skip.site for skip in found.report.reverted] == ["3"]


def test_forms_that_are_no_faster_are_not_worth_it() -> None:
    found = settled(ONE_BAD, saved_ms={FAST: 0.0, SOFT: 0.0})
    assert {edit.kind for edit in found.edits} == {SOFT}


def test_where_a_few_softer_forms_do_no_edit_goes() -> None:
    found = settled([{FAST: 0.06, SOFT: 0.001}] + [{FAST: 0.004, SOFT: 0.003}] * 7)
    assert [edit.kind for edit in found.edits] == [SOFT] + [FAST] * 7


def test_more_than_a_quarter_does_not_go() -> None:
    """Three of eight would have to."""
    found = settled([{FAST: 0.3, SOFT: 0.01}] * 3 + [{FAST: 0.001, SOFT: 0.001}] * 5)
    assert len(found.edits) == 8
    assert [edit.kind for edit in found.edits] == [SOFT] * 3 + [FAST] * 5
