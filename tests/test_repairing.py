"""Back over the floor: edits of all passes give way together, and what rested on them is proposed anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune import apply, optimize, pipeline, repairing
from onnxprune.attribution import Part, Share
from onnxprune.model import Model, load, to_bytes
from onnxprune.mutants import Mutant
from onnxprune.plan import read_plan
from onnxprune.repairing import _worth
from onnxprune.result import Result
from onnxprune.targets.timing import Ratio
from tests import graphs


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    # A clock that always says the same: whatever is timed beside the first model is a tenth faster.
    for module in ("stages", "repairing"):
        monkeypatch.setattr(f"onnxprune.{module}.race_on", lambda *_: race)


def race(models: Sequence[Model]) -> list[Ratio]:
    return [Ratio(1.1, 1.05, 1.15, 11) if at else Ratio(1.0, 1.0, 1.0, 11) for at in range(len(models))]


def job(folder: Path, passes: Sequence[str], fidelity: float, **options: Any) -> Result:
    path = graphs.saved(graphs.layers(1), folder)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(8)]
    np.savez(folder / "data.npz", x=np.stack([feed["x"] for feed in feeds]))
    data = str(folder / "data.npz")
    return optimize(path, output=folder / "small.onnx", data=data, passes=passes, fidelity=fidelity, **options)


def sites_of(result: Result, name: str) -> set[str]:
    return {edit.site for edit in read_plan(result.plan).edits if edit.pass_name == name and edit.site != "graph"}


def test_few_edits_give_way_whichever_pass_they_come_from(tmp_path: Path) -> None:
    # One head of four costs far more than every sixth neuron; integers cost next to nothing.
    passes = ["remove-heads:keep=1", "remove-neurons:keep=0.95", "sparse-int8"]
    result = job(tmp_path, passes, 0.97)
    assert result.goal.met
    assert result.fidelity.score >= 0.97
    assert sites_of(result, "remove-heads") == set()
    assert sites_of(result, "remove-neurons") == {"neurons.0"}
    heads = next(report for report in result.reports if report.pass_spec.startswith("remove-heads"))
    assert not heads.changes
    (skip,) = heads.reverted
    assert skip.site == "heads.0"
    assert skip.why.startswith("fidelity 0.")
    assert " of all passes together was under the floor 0.97; without it +0." in skip.why
    assert skip.why.endswith("% of the time")


def test_what_rested_on_a_reverted_edit_is_proposed_anew(tmp_path: Path) -> None:
    result = job(tmp_path, ["remove-heads:keep=1", "sparse-int8"], 0.97)
    # Seven linears, those of the heads among them, as if the heads had never been cut.
    assert len(sites_of(result, "sparse-int8")) == 7
    weights = {edit.args["weight"]: edit for edit in read_plan(result.plan).edits if "weight" in edit.args}
    assert weights["0.attention.q.weight"].tensors["weight"].shape == (64, 64)
    (int8,) = [report for report in result.reports if report.pass_spec.startswith("sparse-int8")]
    assert not int8.reverted
    assert len(int8.changes) == 7


def test_what_it_leaves_is_a_plan_that_replays(tmp_path: Path) -> None:
    result = job(tmp_path, ["remove-heads:keep=1", "remove-neurons:keep=0.9", "sparse-int8"], 0.97)
    apply(result.input, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.output.read_bytes()


def test_a_milder_form_is_kept_before_an_edit_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = []
    real = repairing._Repair.moves

    def kept(self: repairing._Repair, *arguments: Any) -> Any:
        moves.extend(real(self, *arguments))
        return moves

    monkeypatch.setattr(repairing._Repair, "moves", kept)
    job(tmp_path, ["remove-neurons:keep=0.9", "sparse-int8"], 0.9999)
    milder = [at for at, move in enumerate(moves) if move.milder]
    last = {edit.id: at for at, move in enumerate(moves) for edit in move.part.edits if not move.milder}
    assert milder
    for at in milder:
        assert ", so its milder form is kept; " in moves[at].why
        assert all(last[edit.id] > max(milder) for edit in moves[at].part.edits)


def test_a_floor_that_nothing_reaches_gives_everything_back(tmp_path: Path) -> None:
    result = job(tmp_path, ["remove-heads:keep=1", "sparse-int8"], 1.0)
    assert result.fidelity.score == 1
    assert not sites_of(result, "remove-heads") | sites_of(result, "sparse-int8")


def test_a_result_over_the_floor_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("repaired")

    monkeypatch.setattr(repairing, "_Repair", refuse)
    assert job(tmp_path, ["remove-heads:keep=3", "sparse-int8"], 0.1).goal.met


def test_most_fidelity_for_the_time_goes_first() -> None:
    def part(amount: float) -> Part:
        share = Share(amount, amount, amount)
        return Part(
            edits=(), along=(), fidelity_without=1.0, regained=share, fidelity_alone=1.0, lost=share,
            mutant=Mutant(load_nothing(), (), {}),
        )  # fmt: skip

    # .02 for a tenth of the time is less than .01 for a hundredth; where no time is given back, half a percent counts.
    assert _worth(part(0.02), 0.1) == pytest.approx(0.2)
    assert _worth(part(0.01), 0.01) == pytest.approx(1.0)
    assert _worth(part(0.01), -0.3) == pytest.approx(2.0)
    assert _worth(part(float("nan")), 0.1) == -np.inf


def load_nothing() -> Any:
    return None


def test_two_runs_repair_alike(tmp_path: Path) -> None:
    passes = ["remove-heads:keep=1", "remove-neurons:keep=0.9", "sparse-int8"]
    first = job(tmp_path, passes, 0.97)
    plan = first.plan.read_bytes()
    second = job(tmp_path, passes, 0.97)
    assert second.plan.read_bytes() == plan
    assert to_bytes(load(second.output)) == to_bytes(load(first.output))
