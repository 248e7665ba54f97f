"""Rivals stand only where the clock says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxprune.model import Model
from onnxprune.plan import Edit, Report
from onnxprune.reverting import Trial
from onnxprune.rivalry import keep_faster
from onnxprune.targets.timing import Ratio
from tests.building import Net


class Fusing:
    """A pass of two kinds of rivals and one edit that is none."""

    name = "fusing"

    def rivals(self, edit: Edit) -> str | None:
        """By kind."""
        return edit.kind if edit.kind != "plain" else None


def model(ms: float) -> Model:
    """A model that remembers how long it takes."""
    net = Net()
    net.output(net.op("Relu", net.input("x", ("b",))))
    return net.model().with_metadata(ms=str(ms))


def taken(gains_ms: dict[str, float]) -> tuple[Trial, int]:
    """What stands of three edits on a model of 10 ms, and how many races were run."""
    edits = tuple(Edit(id=f"fusing.{kind}", pass_name="fusing", site=kind, kind=kind) for kind in gains_ms)
    blank, nothing = Report(pass_spec="fusing"), Trial(model(10), (), Report(pass_spec="fusing"))
    races = 0

    def attempt(edits: Sequence[Edit], samples: int | None = None) -> Trial:
        del samples
        return Trial(model(10 - sum(gains_ms[edit.kind] for edit in edits)), tuple(edits), blank)

    def race(models: Sequence[Model]) -> list[Ratio]:
        nonlocal races
        races += 1
        first = float(models[0].metadata["ms"])
        ratios = [first / float(one.metadata["ms"]) for one in models]
        return [Ratio(ratio, ratio - 0.01, ratio + 0.01, 50) for ratio in ratios]

    return keep_faster(attempt(edits), replace(nothing), Fusing(), attempt, race), races


def test_a_rival_that_wins_stands() -> None:
    trial, races = taken({"plain": 0, "attention": 2, "norm": 1})
    assert [edit.kind for edit in trial.edits] == ["plain", "attention", "norm"]
    # Whether every target takes it at all, the race, and whether the whole is slower than nothing.
    assert (trial.report.reverted, races) == ((), 3)


def test_a_rival_that_loses_goes_and_the_report_says_by_how_much() -> None:
    trial, races = taken({"plain": 0, "attention": 2, "norm": -0.2})
    assert [edit.kind for edit in trial.edits] == ["plain", "attention"]
    # 8.2 ms with it, 8 without: 1.025 times as fast.
    assert [skip.why for skip in trial.report.reverted] == [
        "norm is not clearly faster here: the model is 1.025 x as fast without it"
    ]
    # Another round with one rival less.
    assert races == 4


def test_a_draw_goes_to_what_was_there() -> None:
    trial, _ = taken({"plain": 0, "norm": 0})
    assert [edit.kind for edit in trial.edits] == ["plain"]


def test_what_a_target_refuses_goes_and_the_others_stand() -> None:
    """A race that begins with a model that a target refuses is an error: it never runs."""
    kinds = ("plain", "attention", "norm")
    edits = tuple(Edit(id=f"fusing.{kind}", pass_name="fusing", site=kind, kind=kind) for kind in kinds)
    nothing = Trial(model(10), (), Report(pass_spec="fusing"))

    def attempt(edits: Sequence[Edit], samples: int | None = None) -> Trial:
        del samples
        refused = any(edit.kind != "plain" for edit in edits)
        return Trial(model(1e9 if refused else 9), tuple(edits), Report(pass_spec="fusing"))

    def race(models: Sequence[Model]) -> list[Ratio]:
        assert float(models[0].metadata["ms"]) <= 10
        return [Ratio(10 / float(one.metadata["ms"]), 0, 0, 50) for one in models]

    trial = keep_faster(attempt(edits), nothing, Fusing(), attempt, race)
    assert [edit.kind for edit in trial.edits] == ["plain"]
    assert [skip.why for skip in trial.report.reverted] == [
        "attention: a target refuses the model with it",
        "norm: a target refuses the model with it",
    ]


def test_of_edits_that_slow_the_whole_down_the_guilty_go() -> None:
    """Although none is a rival: what gains stays."""
    trial, _ = taken({"plain": -5})
    assert trial.edits == ()
    assert [skip.why for skip in trial.report.reverted] == [
        "plain is not clearly faster here: the model is 1.500 x as fast without it"
    ]


def test_a_pass_without_rivals_is_not_timed() -> None:
    blank = Trial(model(10), (), Report(pass_spec="other"))
    assert keep_faster(blank, blank, object(), lambda _: blank, lambda _: []) is blank
