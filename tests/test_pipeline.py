"""One job in order; an edit that cannot be proved is taken back and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxprune import apply, bench, optimize, pipeline
from onnxprune.calibration import Needs
from onnxprune.errors import Declined, ModelError, OptionError, OutputError, PlanError
from onnxprune.graph import constants
from onnxprune.judge import gather_evidence, judge
from onnxprune.model import Model, load, save
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Pass, Proposal
from onnxprune.result import Result
from onnxprune.runtime import open_session
from onnxprune.sites import Site
from onnxprune.steps import Step, take
from onnxprune.synthetic import probes, synthesise
from tests import graphs
from tests.commands import run


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)


# A pass whose edits do harm of every kind


def scaled(name: str, factor: float) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        tensor = next(tensor for tensor in constants(model.graph) if tensor.name == name)
        tensor.values = (tensor.values * factor).astype(tensor.values.dtype)

    return change


def cut_short(model: Model) -> None:
    """A weight of another width: onnx's full check sees that the sizes disagree."""
    tensor = next(tensor for tensor in constants(model.graph) if tensor.name == "down")
    tensor.values = tensor.values[:5]


def misspelt(model: Model) -> None:
    model.graph.nodes[2].op = "Rellu"


def doubled(model: Model) -> None:
    """Every output row twice: runs, at another shape."""
    last = model.graph.nodes[-1]
    out = last.outputs[0]
    single = gs.Variable("single")
    last.outputs[0] = single
    model.graph.nodes.append(gs.Node("Concat", attrs={"axis": 0}, inputs=[single, single], outputs=[out]))
    out.shape = None


def poisoned(model: Model) -> None:
    tensor = next(tensor for tensor in constants(model.graph) if tensor.name == "down_bias")
    tensor.values = np.full_like(tensor.values, np.nan)


HARM: dict[str, Callable[[Model], None]] = {
    "cut": cut_short,
    "double": doubled,
    "gentle": scaled("up", 1.01),
    "gentle too": scaled("down", 0.99),
    "misspell": misspelt,
    "poison": poisoned,
    "rough": scaled("down", 0.0),
    "rougher": scaled("down", -1.0),
    "slight": scaled("up_bias", 1.02),
}


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Makes the edits that its option names, each of which depends on the one before where it says `>`."""

    name: ClassVar[str] = "harm"
    lossless: ClassVar[bool] = False
    kinds: tuple[str, ...] = ()

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a kind."""
        del model, sites, context
        edits: list[Edit] = []
        for kind in self.kinds:
            before = (edits[-1].id,) if kind.startswith(">") else ()
            plain = kind.removeprefix(">")
            edits.append(Edit(id=f"harm.{plain}", pass_name="harm", site=plain, kind=plain, depends_on=before))
        return Proposal(tuple(edits), (Skip(site="elsewhere", why="left alone"),))

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model, harmed."""
        result = model.copy()
        for edit in edits:
            if edit.kind == "decline":
                raise Declined("it does not fit")
            HARM[edit.kind](result)
        return result, tuple(Change(site=edit.site, what=edit.kind) for edit in edits)


@dataclass(frozen=True, kw_only=True)
class Sure(Harm):
    """Claims that nothing is lost."""

    lossless: ClassVar[bool] = True


def taken(folder: Path, one: Pass, floor: float | None = 0.95) -> Step:
    path = graphs.saved(graphs.feed_forward(), folder)
    model, session = load(path), open_session(path)
    samples = synthesise(model, session)
    evidence = gather_evidence(path, session, probes(model, session), samples.feeds)
    return take(one, model, (), Context(), evidence, floor)


def reverted(step: Step) -> dict[str, str]:
    return {skip.site: skip.why for skip in step.report.reverted}


def test_edits_that_do_little_stand(tmp_path: Path) -> None:
    step = taken(tmp_path, Harm(kinds=("gentle", "gentle too")))
    assert [edit.kind for edit in step.edits] == ["gentle", "gentle too"]
    assert [change.what for change in step.report.changes] == ["gentle", "gentle too"]
    assert step.report.skips == (Skip(site="elsewhere", why="left alone"),)
    assert not step.report.reverted
    assert step.fidelity is not None
    assert 0.99 < step.fidelity.score < 1


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("cut", "Incompatible dimensions for matrix multiplication"),
        ("misspell", "Rellu"),
        ("double", "output 'y' has shape "),
        ("poison", "output 'y' is not finite where the original's is"),
        ("decline", "it does not fit"),
    ],
)
@pytest.mark.parametrize("floor", [0.95, None])
def test_an_edit_that_breaks_the_model_is_reverted_and_named(
    tmp_path: Path, kind: str, why: str, floor: float | None
) -> None:
    step = taken(tmp_path, Harm(kinds=("gentle", kind, "slight")), floor)
    assert [edit.kind for edit in step.edits] == ["gentle", "slight"]
    assert reverted(step).keys() == {kind}
    assert why in reverted(step)[kind]
    assert "/" not in reverted(step)[kind]
    assert "\n" not in reverted(step)[kind]
    assert step.fidelity is not None
    assert step.fidelity.score > 0.95


def test_an_edit_that_sinks_the_fidelity_is_reverted_and_named(tmp_path: Path) -> None:
    step = taken(tmp_path, Harm(kinds=("gentle", "rough", "slight")))
    assert [edit.kind for edit in step.edits] == ["gentle", "slight"]
    assert reverted(step).keys() == {"rough"}
    assert reverted(step)["rough"].startswith("fidelity ")
    assert " was under the floor 0.95; " in reverted(step)["rough"]
    assert " costs " in reverted(step)["rough"]


def test_without_a_floor_harm_that_runs_stands(tmp_path: Path) -> None:
    step = taken(tmp_path, Harm(kinds=("gentle", "rough")), floor=None)
    assert [edit.kind for edit in step.edits] == ["gentle", "rough"]
    assert not step.report.reverted


def test_the_worst_edits_go_first_and_no_more_than_needed(tmp_path: Path) -> None:
    step = taken(tmp_path, Harm(kinds=("slight", "rougher", "gentle", "gentle too")))
    assert reverted(step).keys() == {"rougher"}


def test_what_depends_on_a_reverted_edit_goes_with_it(tmp_path: Path) -> None:
    step = taken(tmp_path, Harm(kinds=("gentle", "rough", ">slight", "gentle too")))
    assert [edit.kind for edit in step.edits] == ["gentle", "gentle too"]
    assert reverted(step).keys() == {"rough", "slight"}


def test_where_nothing_stands_the_model_is_what_it_was(tmp_path: Path) -> None:
    step = taken(tmp_path, Harm(kinds=("cut", "poison")))
    assert not step.edits
    assert not step.report.changes
    assert reverted(step).keys() == {"cut", "poison"}
    assert step.fidelity is None


def test_a_lossless_pass_is_held_to_its_word(tmp_path: Path) -> None:
    step = taken(tmp_path, Sure(kinds=("gentle",)), floor=None)
    assert not step.edits
    assert reverted(step)["gentle"].startswith("output 'y' moved by ")


def test_a_pass_that_declines_is_a_skip(tmp_path: Path) -> None:
    class Shy(Harm):
        def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
            del model, sites, context
            raise Declined("nothing to see")

    step = taken(tmp_path, Shy())
    assert step.report.skips == (Skip(site="graph", why="nothing to see"),)


def test_an_opset_is_not_raised_for_edits_that_were_reverted(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Raising(Harm):
        def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
            (edit,) = Harm(kinds=("cut",)).propose(model, sites, context).edits
            first = Edit(id="first", pass_name="harm", site="graph", kind="raise-opset")
            return Proposal((first, replace(edit, depends_on=("first",))))

        def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
            return super().apply(model, [edit for edit in edits if edit.kind != "raise-opset"])

    step = taken(tmp_path, Raising())
    assert not step.edits
    assert "cut" in reverted(step)


# The judge


@pytest.mark.parametrize("damage", ["order", "name"])
def test_an_original_that_fails_the_checker_is_not_held_to_it(tmp_path: Path, damage: str) -> None:
    """The runtime takes nodes in any order, and graphs without a name; the checker takes neither."""
    proto = graphs.feed_forward()
    if damage == "order":
        nodes = list(proto.graph.node)[::-1]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    else:
        proto.graph.name = ""
    path = graphs.saved(proto, tmp_path)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(str(path))
    result = optimize(path)
    assert result.after.size_bytes < 0.4 * result.before.size_bytes


def test_an_unchanged_model_is_a_perfect_copy(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    model, session = load(path), open_session(path)
    samples = synthesise(model, session).feeds
    evidence = gather_evidence(path, session, probes(model, session), samples)
    assert evidence.check == "full"
    assert len({feeds["x"].shape for feeds in evidence.probes}) == 2
    assert judge(model, evidence, lossless=True).score == 1


# The job


def job(proto: onnx.ModelProto, folder: Path, **options: Any) -> Result:
    return optimize(graphs.saved(proto, folder), output=folder / "small.onnx", **options)


def test_without_any_option_a_model_becomes_int8_and_says_so(tmp_path: Path) -> None:
    result = job(graphs.feed_forward(), tmp_path)
    assert [report.pass_spec for report in result.reports] == list(bench.DEFAULT_PASSES)
    assert result.data.synthetic
    assert result.after.size_bytes < 0.35 * result.before.size_bytes
    assert result.before.params == 2 * 64 * 96 + 96 + 64
    assert result.goal.asked == {"fidelity": 0.95}
    assert result.goal.met
    # What was left alone says why; nothing was reverted.
    assert all(skip.why for report in result.reports for skip in report.skips)
    assert not any(report.reverted for report in result.reports)


def test_the_input_is_untouched_and_only_the_result_and_its_plan_are_written(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    before = path.read_bytes()
    result = optimize(path, output=tmp_path / "small.onnx")
    assert path.read_bytes() == before
    assert {name.name for name in tmp_path.iterdir()} == {
        "model.onnx",
        "small.onnx",
        "small.plan.json",
        "small.plan.safetensors",
    }
    assert result.plan == tmp_path / "small.plan.json"


def test_the_default_output_stands_beside_the_input(tmp_path: Path) -> None:
    assert optimize(graphs.saved(graphs.matmul(), tmp_path)).output == tmp_path / "model.optimized.onnx"


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        job(graphs.convolution(), tmp_path / name)
    for name in ("small.onnx", "small.plan.json", "small.plan.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_named_passes_run_alone_after_simplify_and_without_a_floor(tmp_path: Path) -> None:
    result = job(graphs.feed_forward(), tmp_path, passes=["sparse-int8:linears=stored"])
    assert [report.pass_spec for report in result.reports] == ["simplify", "sparse-int8:linears=stored"]
    assert result.goal.asked == {}
    result = job(graphs.feed_forward(), tmp_path, passes=["simplify:limit=0"], fidelity=0.9)
    assert [report.pass_spec for report in result.reports] == ["simplify:limit=0"]
    assert result.goal.asked == {"fidelity": 0.9}


def test_a_floor_that_no_integers_reach_gives_them_up(tmp_path: Path) -> None:
    result = job(graphs.feed_forward(), tmp_path, fidelity=1.0)
    assert result.fidelity.score == 1
    assert result.goal.met
    integers = next(report for report in result.reports if report.pass_spec.startswith("sparse-int8"))
    assert {skip.site for skip in integers.reverted} == {"linear.0", "linear.1"}


def test_every_stage_is_told_in_order(tmp_path: Path) -> None:
    told: list[str] = []
    job(graphs.matmul(), tmp_path, progress=told.append, passes=["sparse-int8"])
    assert told == [
        "load and run the original",
        "simplify (1 of 2)",
        "sparse-int8 (2 of 2)",
        "save",
        "time both on cpu:1",
    ]


def test_every_fourth_sample_judges_and_never_calibrates(tmp_path: Path) -> None:
    path = graphs.saved(graphs.convolution(), tmp_path)
    # Held-out samples are far larger than those that calibrate: ranges that had seen them would fit them.
    stack = np.stack([graphs.feeds_for(path, batch=1, seed=at)["x"] for at in range(8)])
    stack[3::4] *= 50
    np.savez(tmp_path / "data.npz", x=stack)
    result = optimize(path, data=str(tmp_path / "data.npz"), fidelity="off")
    assert (result.data.samples, result.data.calibration, result.data.held_out) == (8, 6, 2)
    assert result.fidelity.score < 0.5
    document = json.loads(result.plan.read_text())
    ranges = next(e["args"]["ranges"]["c"] for e in document["edits"] if e["args"].get("weight") == "w")
    assert max(map(abs, ranges["input"])) < 10


def test_weights_outside_stay_outside_through_the_whole_job(tmp_path: Path) -> None:
    onnx.save(graphs.feed_forward(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=1024)
    result = optimize(tmp_path / "m.onnx", output=tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx.data").exists()
    assert result.after.size_bytes < result.before.size_bytes
    apply(tmp_path / "m.onnx", result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx.data").read_bytes() == (tmp_path / "small.onnx.data").read_bytes()


def test_a_model_that_answers_at_random_comes_back_unchanged(tmp_path: Path) -> None:
    proto = graphs.matmul()
    proto.graph.node.append(graphs.node("RandomNormalLike", ["x"], ["noise"]))
    proto.graph.output.append(graphs.info("noise", ("batch", 64)))
    result = job(proto, tmp_path)
    assert not result.goal.met
    assert [node.op_type for node in onnx.load(result.output).graph.node] == ["MatMul", "RandomNormalLike"]
    (warning,) = result.warnings
    assert warning == "the original gives another 'noise' in each run, so fidelity says little. Judge it by a --metric."


@pytest.mark.parametrize("kind", ["a sequence", "nothing"])
def test_outputs_that_cannot_be_compared_are_said_to_be_so(tmp_path: Path, kind: str) -> None:
    """Sequences hold no tensor to compare, and outputs of size zero no number."""
    if kind == "nothing":
        nodes, output = [graphs.node("Relu", ["x"], ["y"])], graphs.info("y", (0, 4))
    else:
        nodes = [graphs.node("SequenceConstruct", ["x", "x"], ["y"])]
        output = onnx.helper.make_tensor_sequence_value_info("y", onnx.TensorProto.FLOAT, None)
    shape = (0, 4) if kind == "nothing" else ("batch", 4)
    path = graphs.saved(graphs.model(nodes, [graphs.info("x", shape)], [output]), tmp_path)
    result = optimize(path, output=tmp_path / "small.onnx")
    assert result.goal.reason == "no output could be compared, so nothing shows that the floor 0.95 holds"
    told = run("optimize", str(path), "-o", str(tmp_path / "small.onnx"))
    assert told.exit_code == 1
    assert "\nno fidelity (no output could be compared) on 2 synthetic samples\n" in told.stdout
    judged = run("validate", str(path), str(path))
    assert judged.exit_code == 1
    assert "\nno verdict: no output could be compared, floor 0.95, 8 samples\n" in judged.stdout


def test_a_failure_while_the_plan_is_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graphs.saved(graphs.matmul(), tmp_path)

    def fail(*_: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr(pipeline, "save", fail)
    with pytest.raises(OutputError):
        optimize(path)
    assert [name.name for name in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"fidelity": 1.5},
            OptionError,
            "fidelity must be at most 1 (a perfect copy), got 1.5. Give a share such as 0.95.",
        ),
        ({"passes": ["prune"]}, OptionError, "No pass named 'prune'. Known: "),
        ({"target": "gpu:0"}, OptionError, ""),
        ({"shape": ["x=3y"]}, OptionError, "--shape: must read NAME=1x128, got "),
        ({"shape": ["z=1x64"]}, OptionError, "--shape: no input named 'z'. The model's inputs: x."),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        job(graphs.matmul(), tmp_path, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert [name.name for name in tmp_path.iterdir()] == ["model.onnx"]


def test_replaying_names_a_pass_that_is_not_installed(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    with pytest.raises(PlanError, match=r"^The plan needs pass 'harm'\. Known: .*simplify"):
        pipeline.replay(model, [Edit(id="a", pass_name="harm", site="s", kind="k")])


def test_a_model_that_does_not_run_is_told_before_anything_else(tmp_path: Path) -> None:
    proto = graphs.model(
        [graphs.node("Reshape", ["x", "to"], ["y"])],
        [graphs.info("x", ("batch", 64))],
        [graphs.info("y", (7,))],
        {"to": np.array([7])},
    )
    path = graphs.saved(proto, tmp_path)
    with pytest.raises(ModelError, match=r"^model\.onnx: no made-up inputs run ") as caught:
        optimize(path)
    assert "\n" not in str(caught.value)
    save(load(path), tmp_path / "still-readable.onnx")
