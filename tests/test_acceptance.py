"""What a target refuses gives way, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from onnxprune.acceptance import accepted
from onnxprune.model import Model
from onnxprune.plan import Edit, Report
from onnxprune.reverting import Trial
from onnxprune.targets.timing import Ratio
from tests.building import Net

INTEGERS, SOFT = "integers", "soft"


def edits(count: int, kind: str = INTEGERS) -> tuple[Edit, ...]:
    return tuple(Edit(id=f"p.{at}", pass_name="p", site=f"conv.{at}", kind=kind) for at in range(count))


def milder(edit: Edit) -> tuple[str, Edit] | None:
    return ("integers", replace(edit, kind=SOFT)) if edit.kind == INTEGERS else None


class Place:
    """Refuses models that hold certain edits as integers; counts the races, and fails in one without a first model."""

    def __init__(self, refused: set[str], *, kinds: Sequence[str] = (INTEGERS,)) -> None:
        self.refused, self.kinds, self.races = refused, kinds, 0

    def attempt(self, edits: Sequence[Edit], samples: int | None = None) -> Trial:
        """A model that remembers whether it is refused."""
        del samples
        net = Net()
        net.output(net.op("Relu", net.input("x", ("b",))))
        bad = any(edit.site in self.refused and edit.kind in self.kinds for edit in edits)
        return Trial(net.model().with_metadata(bad=str(bad)), tuple(edits), Report(pass_spec="p"))

    def race(self, models: Sequence[Model]) -> list[Ratio]:
        """Next to no speed for what is refused."""
        self.races += 1
        assert models[0].metadata["bad"] == "False"
        ratios = [1e-6 if one.metadata["bad"] == "True" else 2.0 for one in models]
        return [Ratio(ratio, ratio, ratio, 11) for ratio in ratios]

    def settled(self, edits: Sequence[Edit]) -> Trial:
        """What stands of edits."""
        return accepted(self.attempt(edits), self.attempt(()), self.attempt, milder, self.race)


def test_what_all_targets_take_stands_after_one_race() -> None:
    place = Place(set())
    found = place.settled(edits(30))
    assert {edit.kind for edit in found.edits} == {INTEGERS}
    assert (found.report.reverted, place.races) == ((), 1)


@pytest.mark.parametrize("refused", [{"conv.0"}, {"conv.7", "conv.8"}, {"conv.3", "conv.29"}])
def test_only_what_is_refused_gives_way_and_is_told(refused: set[str]) -> None:
    place = Place(refused)
    found = place.settled(edits(30))
    assert {edit.site for edit in found.edits if edit.kind == SOFT} == refused
    assert len(found.edits) == 30
    assert {(skip.site, skip.why) for skip in found.report.reverted} == {
        (site, "integers are no choice here: a target refuses the model with it") for site in refused
    }
    # The whole, eight stretches of four, their single edits, and the proof of what is left.
    assert place.races == 4


def test_a_target_that_refuses_most_gets_the_milder_forms() -> None:
    place = Place({f"conv.{at}" for at in range(20)})
    found = place.settled(edits(30))
    assert {edit.kind for edit in found.edits} == {SOFT}
    # The whole, eight stretches, and the proof.
    assert place.races == 3


def test_of_two_kinds_of_forms_only_the_one_that_is_refused_gives_way() -> None:
    """Products are most of the edits, so that no search for single ones is made."""
    products = [replace(edit, site=f"linear.{at}") for at, edit in enumerate(edits(8))]
    convolutions = [replace(edit, id=f"c.{edit.id}", kind="static") for edit in edits(3)]
    place = Place({edit.site for edit in products})

    def of_both(edit: Edit) -> tuple[str, Edit] | None:
        return ("convolutions", replace(edit, kind=SOFT)) if edit.kind == "static" else milder(edit)

    mixed = place.attempt([*convolutions, *products])
    found = accepted(mixed, place.attempt(()), place.attempt, of_both, place.race)
    assert [edit.kind for edit in found.edits] == ["static"] * 3 + [SOFT] * 8


def test_nothing_stands_where_not_even_the_milder_forms_do() -> None:
    found = Place({"conv.1"}, kinds=(INTEGERS, SOFT)).settled(edits(3))
    assert found.edits == ()
    assert [skip.site for skip in found.report.reverted] == ["conv.0", "conv.1", "conv.2"]


def test_a_single_edit_that_is_refused_gives_way() -> None:
    found = Place({"conv.0"}).settled(edits(1))
    assert [edit.kind for edit in found.edits] == [SOFT]


def test_edits_of_one_form_are_left_to_others_to_judge() -> None:
    place = Place({"conv.0"}, kinds=(SOFT,))
    assert len(place.settled(edits(3, SOFT)).edits) == 3
    assert place.races == 0
