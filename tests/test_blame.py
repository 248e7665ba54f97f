"""Which edit cost how much: mutants of a plan, and the shares that come of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxprune import blame, optimize, pipeline
from onnxprune.attribution import Attribution, label
from onnxprune.cli import main
from onnxprune.errors import OnnxPruneError, OptionError, PlanError
from onnxprune.fidelity import Fidelity
from onnxprune.graph import constants
from onnxprune.model import Model, load, to_bytes
from onnxprune.mutants import Mutant, Mutants
from onnxprune.plan import Edit, Plan, read_plan, write_plan
from onnxprune.runtime import open_session
from onnxprune.synthetic import probes, synthesise
from tests import graphs

Job = tuple[Path, Path, Path, str]
PASSES = ("remove-heads:keep=3", "remove-neurons:keep=0.5", "sparse-int8")


def data(path: Path, count: int = 12) -> str:
    """Samples beside a model."""
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(count)]
    stacks: dict[str, Any] = {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
    np.savez(path.with_suffix(".npz"), **stacks)
    return str(path.with_suffix(".npz"))


def job(folder: Path, passes: Sequence[str] = PASSES, layers: int = 2) -> Job:
    """(original, result, plan, samples) of a model of a few layers."""
    path = graphs.saved(graphs.layers(layers), folder)
    samples = data(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "TIMING_S", 0.02)
        result = optimize(path, output=folder / "small.onnx", data=samples, passes=passes)
    return path, result.output, result.plan, samples


@pytest.fixture(scope="module", name="done")
def _done(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Files that no test writes to."""
    return job(tmp_path_factory.mktemp("job"))


def mutants_of(path: Path, plan: Path) -> Mutants:
    model, session = load(path), open_session(path)
    return Mutants(model, read_plan(plan).edits, probes(model, session, synthesise(model, session).feeds[0]))


def shape_of(model: Model, weight: str) -> tuple[int, ...]:
    return next(tuple(tensor.shape) for tensor in constants(model.graph) if tensor.name.startswith(weight))


# Mutants


def test_an_edit_rests_on_what_wrote_the_weights_that_it_replaces(done: Job) -> None:
    path, _, plan, _ = done
    found = mutants_of(path, plan)
    # A feed-forward's second linear is cut with its neurons, its integers are those of the cut weight.
    assert found.rests_on["remove-neurons.neurons.0"] == {"remove-neurons.shapes"}
    quantized = {name for name, under in found.rests_on.items() if "remove-neurons.neurons.0" in under}
    weights = {edit.args["weight"] for edit in found.edits if edit.id in quantized}
    assert weights == {"0.feed.up.weight", "0.feed.down.weight"}
    assert found.under({"remove-neurons.neurons.0"}) == {"remove-neurons.shapes"}
    assert found.upon({"remove-neurons.neurons.0"}) == {"remove-neurons.neurons.0", *quantized}


def test_an_edit_left_out_takes_those_along_that_rest_on_it_and_no_others(done: Job) -> None:
    path, _, plan, _ = done
    found = mutants_of(path, plan)
    every = {edit.id for edit in found.edits}
    left = found.of(every - found.upon({"remove-heads.heads.0"}))
    assert not left.refused
    # 4 heads of 16 again in layer 0; layer 1 and all neurons stay cut: 3·16 = 48 of 64, 48 of 96.
    assert shape_of(left.model, "0.attention.q.weight") == (64, 64)
    assert shape_of(left.model, "1.attention.q.weight") == (64, 48)
    assert shape_of(left.model, "0.feed.up.weight") == (64, 48)
    # The neurons' own edits tell the shapes that they meet here: 64 wide where the plan has 48.
    (told,) = [edit.args["shapes"] for edit in left.edits if edit.id == "remove-neurons.shapes"]
    (planned,) = [edit.args["shapes"] for edit in found.edits if edit.id == "remove-neurons.shapes"]
    widths = [runs[0][-1] for runs in (told["0.attention.q"], planned["0.attention.q"])]
    assert widths == [64, 48]
    feeds = graphs.feeds_for(path)
    assert open_session(left.model).run(feeds)["y"].shape == open_session(path).run(feeds)["y"].shape


def test_all_edits_make_the_candidate_and_none_the_original(done: Job) -> None:
    path, candidate, plan, _ = done
    found = mutants_of(path, plan)
    whole = onnx.load_from_string(to_bytes(found.of({edit.id for edit in found.edits}).model))
    given = onnx.load(candidate)
    # What the clock recommends to the session is no edit.
    (told,) = [entry for entry in given.metadata_props if entry.key == "onnxprune.session"]
    given.metadata_props.remove(told)
    assert whole.SerializeToString() == given.SerializeToString()
    feeds = graphs.feeds_for(path)
    np.testing.assert_array_equal(open_session(found.of(()).model).run(feeds)["y"], open_session(path).run(feeds)["y"])


def test_a_mutant_is_a_plan_that_replays(done: Job) -> None:
    path, _, plan, _ = done
    found = mutants_of(path, plan)
    left = found.of({edit.id for edit in found.edits} - found.upon({"remove-heads.heads.1"}))
    again = Mutants(load(path), left.edits, ())
    assert to_bytes(again.whole) == to_bytes(left.model)


def test_what_does_not_fit_is_refused_with_its_reason(tmp_path: Path) -> None:
    path, _, plan, _ = job(tmp_path, passes=["sparse-int8"])
    found = mutants_of(path, plan)
    last = found.edits[-1]
    stale = replace(last, tensors={name: array[:1] for name, array in last.tensors.items()})
    found._stages[-1] = replace(found._stages[-1], edits=(*found._stages[-1].edits[:-1], stale))
    left = found.of({edit.id for edit in found.edits} - {found.edits[1].id})
    assert list(left.refused) == [stale.id]
    assert left.refused[stale.id].startswith("The plan does not fit the model: ")
    assert stale not in left.edits


# Shares


def fidelity(score: float) -> Fidelity:
    return Fidelity(score=score, low=math.nan, high=math.nan, samples=1, outputs={})


class Numbers:
    """Mutants of edits that need no model: what is judged is the set of edits itself."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs = costs
        self.edits = tuple(Edit(id=name, pass_name=name[0], site=name, kind="k") for name in costs)
        self.whole: Any = frozenset(costs)
        self.lossless = self.support = frozenset[str]()

    def of(self, ids: frozenset[str]) -> Any:
        """A mutant of these edits."""
        return Mutant(cast("Model", ids), (), {})

    def upon(self, ids: frozenset[str]) -> frozenset[str]:
        """Nothing rests on any."""
        return ids

    def under(self, ids: frozenset[str]) -> frozenset[str]:
        """They rest on nothing."""
        del ids
        return frozenset()

    def judge(self, ids: Any) -> Fidelity:
        """Costs add up."""
        return fidelity(1 - sum(self.costs[name] for name in ids))


def test_shares_of_edits_that_do_not_meet_are_their_costs() -> None:
    numbers = Numbers({"a1": 0.25, "a2": 0.125, "b1": 0.0})
    found = Attribution(numbers, numbers.judge).parts()  # type: ignore[arg-type]
    assert [(part.edits[0].id, part.regained.amount, part.lost.amount) for part in found] == [
        ("a1", 0.25, 0.25),
        ("a2", 0.125, 0.125),
        ("b1", 0.0, 0.0),
    ]


def test_of_many_edits_the_worst_groups_are_taken_apart() -> None:
    numbers = Numbers({f"{'ab'[at // 16]}{at:02}": 0.001 for at in range(32)} | {"a03": 0.5})
    found = Attribution(numbers, numbers.judge).parts(10)  # type: ignore[arg-type]
    # Two passes, then halves of what holds a03: 16 → 8 → 4 → 2 → 1 takes 2 + 4·2 = 10 groups.
    assert [len(part.edits) for part in found] == [2, 1, 1, 4, 8, 16]
    assert found[2].edits[0].id == "a03"
    assert sorted(edit.id for part in found for edit in part.edits) == sorted(numbers.costs)
    assert label(found[0].edits) == "2 of a: a00 to a01"


def test_shares_are_paired_sample_by_sample(done: Job) -> None:
    path, candidate, plan, samples = done
    found = blame(path, candidate, plan, data=samples, time=False)
    assert found.fidelity.samples == 12
    for charge in found.charges:
        share = charge.part.regained
        assert share.low <= share.amount <= share.high
        # An interval of the difference is narrower than that of either score where most samples move alike.
        assert share.high - share.low < found.fidelity.high - found.fidelity.low + 1e-12


def test_the_edit_that_ruins_a_model_is_blamed_first(tmp_path: Path, done: Job) -> None:
    path, _, plan, samples = done
    read = read_plan(plan)
    # No other edit takes the last linear along.
    (bad,) = [edit for edit in read.edits if edit.args.get("weight") == "head"]
    ruined = replace(bad, tensors={**bad.tensors, "scale": bad.tensors["scale"] * 4})
    edits = tuple(ruined if edit is bad else edit for edit in read.edits)
    write_plan(replace(read, edits=edits), tmp_path / "ruined.json")
    pipeline.apply(path, tmp_path / "ruined.json", tmp_path / "ruined.onnx")
    found = blame(path, tmp_path / "ruined.onnx", tmp_path / "ruined.json", data=samples, time=False)
    assert [edit.id for edit in found.charges[0].part.edits] == [bad.id]
    assert found.charges[0].part.regained.low > 0


def test_time_is_shared_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.blaming.RACE_S", 0.01)
    path, candidate, plan, samples = job(tmp_path, passes=["sparse-int8"], layers=1)
    found = blame(path, candidate, plan, data=samples)
    gains = [charge.gained_ms for charge in found.charges]
    assert all(gain is not None and math.isfinite(gain.amount) and gain.low <= gain.high for gain in gains)
    assert len(found.timed) == 2


def test_the_json_of_blame_has_the_documented_keys(done: Job) -> None:
    path, candidate, plan, samples = done
    arguments = ["blame", str(path), str(candidate), "--plan", str(plan), "--data", samples, "--no-time", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert list(document) == ["reference", "candidate", "plan", "data", "fidelity", "loss", "sum", "speedup",
                              "latency_ms", "groups", "judged"]  # fmt: skip
    assert list(document["groups"][0]) == ["group", "pass", "sites", "edits", "along", "left_out", "alone", "share",
                                           "gained_ms", "why"]  # fmt: skip
    assert list(document["groups"][0]["left_out"]) == ["fidelity", "amount", "low", "high"]
    assert document["loss"] == pytest.approx(1 - document["fidelity"]["score"])
    total = sum(group["left_out"]["amount"] for group in document["groups"])
    assert document["sum"]["left_out"] == pytest.approx(total)


def test_blame_prints_the_costliest_first_and_says_that_shares_need_not_add_up(done: Job) -> None:
    path, candidate, plan, samples = done
    arguments = ["blame", str(path), str(candidate), "--plan", str(plan), "--data", samples, "--no-time"]
    lines = CliRunner().invoke(main, arguments).stdout.splitlines()
    assert lines[0].startswith(f"{candidate} — fidelity 0.")
    assert lines[1].split() == ["edits", "regained", "without", "lost", "alone", "ms", "gained", "with", "them", "go"]
    assert lines[-1].startswith("the whole loss is 0.")
    assert lines[-1].endswith(" in sum: what they do to each other is the rest")


# What is refused


def test_another_model_is_refused_in_one_line(tmp_path: Path, done: Job) -> None:
    path, _, plan, samples = done
    with pytest.raises(PlanError) as caught:
        blame(path, path, plan, data=samples)
    assert str(caught.value).startswith(f"{path}: not what {plan} makes of {path} (y: largest relative error ")
    assert str(caught.value).endswith("). Give the model and its own plan.")
    other = graphs.saved(graphs.matmul(), tmp_path, "other.onnx")
    with pytest.raises(PlanError, match=r"^.*: made for the model with sha256 .*Give the original model\.$"):
        blame(other, path, plan)


@pytest.mark.parametrize("options", [{"samples": 0}, {"groups": 1}])
def test_counts_that_judge_nothing_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = graphs.saved(graphs.matmul(), tmp_path)
    samples, groups = options.get("samples", 128), options.get("groups", 48)
    with pytest.raises(OptionError) as caught:
        blame(path, path, tmp_path / "p.json", **options)
    expected = f"--samples must be at least 1 and --groups at least 2, got {samples} and {groups}."
    assert str(caught.value) == expected


def test_a_plan_without_edits_blames_nobody(tmp_path: Path) -> None:
    path = graphs.saved(graphs.matmul(), tmp_path)
    from onnxprune.model import digest

    write_plan(Plan(model_sha256=digest(path), versions={}, options={}, seed=0), tmp_path / "p.json")
    found = blame(path, path, tmp_path / "p.json", time=False)
    assert (found.loss, found.charges) == (0.0, ())


def test_a_damaged_plan_ends_in_one_line(tmp_path: Path) -> None:
    path, candidate, plan, samples = job(tmp_path, ["sparse-int8"], layers=1)
    text = plan.read_text().replace('"kind": "quantize-weight"', '"kind": "quantise"', 1)
    plan.write_text(text.replace('"weight": "0', '"weight": "9'))
    with pytest.raises(OnnxPruneError) as caught:
        blame(path, candidate, plan, data=samples)
    assert "\n" not in str(caught.value)
