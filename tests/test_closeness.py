"""Lossy edits of exact passes lose no more than they may, and gain still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from onnxprune.closeness import keep_close
from onnxprune.fidelity import Fidelity
from onnxprune.model import Model
from onnxprune.plan import Edit, Report
from onnxprune.reverting import Trial
from onnxprune.targets.timing import Ratio
from tests.building import Net

EXACT = Edit(id="p.exact", pass_name="p", site="graph", kind="exact")


class Fixing:
    """A pass with one exact edit and one that loses 0.0004 of fidelity a place."""

    def may_lose(self, edit: Edit) -> float:
        """A thousandth."""
        return 1e-3 if edit.kind == "lossy" else 0.0

    def fewer(self, edit: Edit) -> Edit | None:
        """Half of the places."""
        places = edit.args["places"] // 2
        return replace(edit, args={"places": places}) if places else None


def _model(places: int) -> Model:
    net = Net()
    net.output(net.op("Relu", net.input("x", ("b",))))
    return net.model().with_metadata(places=str(places))


def _attempt(edits: Sequence[Edit], samples: int | None = None) -> Trial:
    del samples
    places = sum(edit.args["places"] for edit in edits if edit.kind == "lossy")
    score = 0.98 - 4e-4 * places
    fidelity = Fidelity(score=score, low=score, high=score, samples=64, outputs={})
    return Trial(_model(places), tuple(edits), Report(pass_spec="p"), fidelity)


def _race(gain: float) -> object:
    def race(models: Sequence[Model]) -> list[Ratio]:
        ratios = [1 + gain * int(one.metadata["places"]) for one in models]
        return [Ratio(ratio, ratio - 0.01, ratio + 0.01, 50) for ratio in ratios]

    return race


def _kept(places: int, gain: float = 0.02, *, timed: bool = True) -> tuple[dict[str, int], list[str]]:
    lossy = Edit(id="p.lossy", pass_name="p", site="graph", kind="lossy", args={"places": places})
    trial = keep_close(_attempt([EXACT, lossy]), Fixing(), _attempt, _race(gain) if timed else None)  # type: ignore[arg-type]
    found = {edit.kind: int(edit.args.get("places", 0)) for edit in trial.edits}
    return found, [skip.why for skip in trial.report.reverted]


@pytest.mark.parametrize(("places", "left"), [(2, 2), (4, 2), (9, 2)])
def test_as_many_places_stand_as_lose_no_more_than_they_may(places: int, left: int) -> None:
    """Two lose 0.0008; of four and of nine, halved once and twice, two are left."""
    assert _kept(places) == ({"exact": 0, "lossy": left}, [])


def test_fewer_places_that_gain_nothing_go() -> None:
    found, why = _kept(4, gain=0.004)
    assert found == {"exact": 0}
    # Two of them: 1.008 ± 0.01.
    assert why == [
        "lossy: fidelity falls by 0.0016 with all of it, it may fall by 0.001; with less the model is 1.008 x as fast"
    ]


def test_one_place_that_loses_too_much_goes() -> None:
    one = Fixing()
    one.may_lose = lambda edit: 1e-4 if edit.kind == "lossy" else 0.0  # type: ignore[method-assign]
    lossy = Edit(id="p.lossy", pass_name="p", site="graph", kind="lossy", args={"places": 1})
    trial = keep_close(_attempt([EXACT, lossy]), one, _attempt, _race(1))  # type: ignore[arg-type]
    assert [skip.why for skip in trial.report.reverted] == [
        "lossy: fidelity falls by 0.0004 with it, it may fall by 0.0001"
    ]


def test_without_a_clock_nothing_is_lost_for_speed() -> None:
    assert _kept(1, timed=False) == ({"exact": 0}, ["lossy: nothing is timed, and it is there for speed alone"])


def test_a_pass_that_loses_nothing_is_left_as_it_is() -> None:
    trial = _attempt([EXACT])
    assert keep_close(trial, object(), _attempt, None) is trial
