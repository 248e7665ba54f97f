"""A plan is data: it replays to the same bytes, and a damaged one is refused in one line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxprune import apply, optimize, pipeline
from onnxprune.errors import OnnxPruneError, PlanError
from onnxprune.plan import Edit, Plan, plan_files, read_plan, tensor_path, without, write_plan
from tests import graphs

PLAN = Plan(
    model_sha256="ab" * 32,
    versions={"onnx": "1.23.2"},
    options={"passes": ["simplify"], "fidelity": 0.95, "shape": {"x": [1, 64]}},
    seed=7,
    edits=(
        Edit(id="a", pass_name="simplify", site="graph", kind="fold", args={"limit": 3}),
        Edit(
            id="b",
            pass_name="sparse-int8",
            site="linear.0",
            kind="quantize-weight",
            args={"weight": "w", "forms": {"y": "dynamic"}},
            depends_on=("a",),
            tensors={
                "weight": np.arange(6, dtype=np.int8).reshape(2, 3),
                "scale": np.array(0.5, np.float16),
                "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
                "none": np.zeros((0, 3), np.float32),
            },
        ),
    ),
)


@pytest.fixture(autouse=True)
def _little_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)


@pytest.fixture(name="job")
def _job(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model, its result and the plan between them."""
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    result = optimize(path, output=tmp_path / "small.onnx")
    return path, result.output, result.plan


def test_a_plan_survives_the_way_through_its_files(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "p.json")
    back = read_plan(tmp_path / "p.json")
    for field in ("model_sha256", "versions", "options", "seed"):
        assert getattr(back, field) == getattr(PLAN, field)
    for ours, theirs in zip(PLAN.edits, back.edits, strict=True):
        assert {**vars(ours), "tensors": None} == {**vars(theirs), "tensors": None}
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, array in ours.tensors.items():
            np.testing.assert_array_equal(theirs.tensors[name], array, strict=True)


def test_the_same_plan_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("p", "q"):
        write_plan(PLAN, tmp_path / f"{name}.json")
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "q.json").read_bytes()
    assert (tmp_path / "p.safetensors").read_bytes() == (tmp_path / "q.safetensors").read_bytes()


def test_the_text_of_a_plan_has_the_documented_keys(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "p.json")
    document = json.loads((tmp_path / "p.json").read_text())
    assert list(document) == [
        "schema",
        "model_sha256",
        "tensors_sha256",
        "versions",
        "options",
        "seed",
        "edits",
    ]
    assert list(document["edits"][0]) == ["id", "pass", "site", "kind", "args", "depends_on", "tensors"]


def test_dropping_an_edit_drops_what_depends_on_it() -> None:
    chain = [Edit(id=name, pass_name="p", site="s", kind="k", depends_on=tuple(on)) for name, on in
             (("a", ""), ("b", "a"), ("c", "b"), ("d", ""))]  # fmt: skip
    kept, dropped = without(chain, {"a"})
    assert [edit.id for edit in kept] == ["d"]
    assert dropped == {"a", "b", "c"}
    plan, gone = PLAN.without(frozenset({"a"}))
    assert not plan.edits
    assert gone == {"a", "b"}


def test_a_plan_and_what_belongs_to_it_appear_together_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with plan_files(PLAN, tmp_path / "p.json"):
            (tmp_path / "other").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


# Replaying


def test_apply_replays_to_the_same_bytes_in_another_process(job: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path, small, plan = job
    replayed = tmp_path / "replayed.onnx"
    command = [sys.executable, "-m", "onnxprune", "apply", str(path), str(plan), "-o", str(replayed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{replayed}: written\n"
    assert replayed.read_bytes() == small.read_bytes()
    # It does not grow larger than it was, and it is another model.
    assert small.stat().st_size < 0.4 * path.stat().st_size


@pytest.mark.parametrize("make", [graphs.convolution, graphs.tied_embedding, graphs.branches, graphs.reused])
def test_apply_replays_whatever_was_done(tmp_path: Path, make: graphs.Maker) -> None:
    path = graphs.saved(make(), tmp_path)
    np.savez(tmp_path / "data.npz", **_samples(path))  # type: ignore[arg-type]
    result = optimize(path, output=tmp_path / "small.onnx", data=str(tmp_path / "data.npz"), fidelity="off")
    apply(path, result.plan, tmp_path / "replayed.onnx")
    assert (tmp_path / "replayed.onnx").read_bytes() == result.output.read_bytes()


def _samples(path: Path) -> dict[str, graphs.Array]:
    feeds = [graphs.feeds_for(path, batch=1, seed=at) for at in range(8)]
    return {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}


def test_a_plan_for_another_model_is_refused_unless_forced(job: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path, small, plan = job
    proto = graphs.feed_forward()
    proto.doc_string = "another"
    other = graphs.saved(proto, tmp_path, "other.onnx")
    with pytest.raises(PlanError) as caught:
        apply(other, plan, tmp_path / "out.onnx")
    made, came = (hashlib.sha256(name.read_bytes()).hexdigest()[:12] for name in (path, other))
    assert str(caught.value) == (
        f"{plan}: made for the model with sha256 {made}…, {other} has {came}…. Give the original model."
    )
    assert not (tmp_path / "out.onnx").exists()
    apply(other, plan, tmp_path / "out.onnx", force=True)
    assert (tmp_path / "out.onnx").stat().st_size == small.stat().st_size + len("another")


# Damage


def rewritten(plan: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(plan.read_text())
    change(document)
    plan.write_text(json.dumps(document))


def with_tensors(plan: Path, change: Callable[[dict[str, graphs.Array]], None]) -> None:
    """Changes tensors and leaves no digest that would tell."""
    tensors = safetensors.numpy.load_file(tensor_path(plan))
    change(tensors)
    safetensors.numpy.save_file(tensors, tensor_path(plan))
    rewritten(plan, lambda document: document.pop("tensors_sha256"))


def quantizing(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(edit for edit in document["edits"] if edit["kind"] == "quantize-weight")
    return found


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "schema": (
        lambda d: d.update(schema="onnxprune.plan/9"),
        "{plan}: not a plan of schema onnxprune.plan/1. Make it again with this version of optimize.",
    ),
    "no edits": (lambda d: d.pop("edits"), "{plan}: not a whole plan: KeyError('edits'). Make it again with optimize."),
    "unknown pass": (
        lambda d: quantizing(d).update({"pass": "prune"}),
        "The plan needs pass 'prune'. Known: ",
    ),
    "unknown weight": (
        lambda d: quantizing(d)["args"].update(weight="gone"),
        "The plan does not fit the model: linear.0: the model has no weight 'gone'.",
    ),
    "unknown readers": (
        lambda d: quantizing(d)["args"].update(forms={"gone": "dynamic"}),
        "The plan does not fit the model: linear.0: the readers of 'up' are not those of the plan.",
    ),
    "unknown tensor": (
        lambda d: quantizing(d).update(tensors=["gone"]),
        "{plan}: not a whole plan: KeyError('sparse-int8.linear.0/gone'). Make it again with optimize.",
    ),
    "missing argument": (
        lambda d: quantizing(d)["args"].pop("forms"),
        "The plan is damaged: pass 'sparse-int8' failed with KeyError('forms').",
    ),
    "argument of another type": (
        lambda d: d["edits"][0]["args"].update(limit="much"),
        "The plan is damaged: pass 'simplify' failed with ValueError(",
    ),
    "seed without end": (lambda d: d.update(seed=float("inf")), "{plan}: not a whole plan: OverflowError("),
    "edits that are text": (lambda d: d.update(edits="abc"), "{plan}: not a whole plan: TypeError("),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_plan_is_one_line(job: tuple[Path, Path, Path], tmp_path: Path, name: str) -> None:
    path, _, plan = job
    change, message = DAMAGE[name]
    rewritten(plan, change)
    with pytest.raises(PlanError) as caught:
        apply(path, plan, tmp_path / "out.onnx")
    assert str(caught.value).startswith(message.format(plan=plan))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def first_weight(tensors: dict[str, graphs.Array]) -> str:
    return next(name for name in tensors if name.endswith("/weight"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({first_weight(t): t[first_weight(t)][:, :5].copy()}),
            "The plan does not fit the model: linear.0: 'up' must be int8 [64, 96], got int8 [64, 5].",
        ),
        (
            lambda t: t.update({first_weight(t): t[first_weight(t)].astype(np.float32)}),
            "The plan does not fit the model: linear.0: 'up' must be int8 [64, 96], got float32 [64, 96].",
        ),
        (
            lambda t: t.update({"sparse-int8.linear.0/scale": np.ones((64, 5), np.float32)}),
            "The plan does not fit the model: linear.0: scales [64, 5] do not fit 'up' [64, 96].",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(
    job: tuple[Path, Path, Path], tmp_path: Path, change: Callable[[dict[str, graphs.Array]], None], message: str
) -> None:
    path, _, plan = job
    with_tensors(plan, change)
    with pytest.raises(PlanError) as caught:
        apply(path, plan, tmp_path / "out.onnx")
    assert str(caught.value) == message


def test_a_flipped_bit_of_the_tensors_is_noticed(job: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path, _, plan = job
    beside = tensor_path(plan)
    packed = bytearray(beside.read_bytes())
    packed[-1] ^= 1
    beside.write_bytes(packed)
    with pytest.raises(PlanError) as caught:
        apply(path, plan, tmp_path / "out.onnx")
    assert str(caught.value) == f"{beside}: not the tensors of {plan.name}, or damaged. Copy both files again."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "{plan}: not JSON (Expecting value: line 1 column 1 (char 0)). Name the .json file that optimize wrote."),
        (b"[]", "{plan}: not a plan of schema onnxprune.plan/1. Make it again with this version of optimize."),
        (b"\xff\xfe", "{plan}: not JSON ("),
        (b"[" * 100_000, "{plan}: not JSON ("),
    ],
)
def test_what_is_no_plan_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    plan = tmp_path / "p.json"
    plan.write_bytes(text)
    with pytest.raises(PlanError) as caught:
        read_plan(plan)
    assert str(caught.value).startswith(message.format(plan=plan))
    assert "\n" not in str(caught.value)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    with pytest.raises(PlanError) as caught:
        read_plan(plan)
    assert str(caught.value) == (
        f"{plan}: cannot be read (No such file or directory). Name the .json that optimize wrote."
    )
    write_plan(PLAN, plan)
    tensor_path(plan).unlink()
    with pytest.raises(PlanError, match="Keep both files together"):
        read_plan(plan)


def test_a_file_too_large_for_a_plan_is_not_read(tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    with plan.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(PlanError, match="This is another file"):
        read_plan(plan)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_damage_is_refused_in_one_line_or_harmless(
    job: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, _, plan = job
    folder = tmp_path_factory.mktemp("damaged")
    copies = {}
    for source in (plan, tensor_path(plan)):
        packed = bytearray(source.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, min(len(packed), 4000) - 1))
            packed[at] = data.draw(st.integers(0, 255))
        copies[source.suffix] = folder / f"p{source.suffix}"
        copies[source.suffix].write_bytes(packed)
    try:
        apply(path, copies[".json"], folder / "out.onnx", force=True)
    except OnnxPruneError as error:
        assert "\n" not in str(error), error  # noqa: PT017 - most damage is refused, some falls on a seed or a version
        assert not (folder / "out.onnx").exists()


def test_names_in_a_plan_are_no_paths(job: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """A tensor called like a file elsewhere is looked up among the plan's own tensors only."""
    path, _, plan = job
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 64 * 96)
    rewritten(plan, lambda d: quantizing(d).update(id="..", tensors=["secret"]))
    with pytest.raises(PlanError, match=r"not a whole plan: KeyError\('../secret'\)"):
        apply(path, plan, tmp_path / "out.onnx")


def test_nothing_in_a_plan_is_run(job: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path, _, plan = job
    trap = tmp_path / "trap"
    code = f"__import__('pathlib').Path({str(trap)!r}).touch()"

    def poison(document: dict[str, Any]) -> None:
        document["versions"] = {"python": code}
        document["options"] = {"passes": [code], "data": "os:system"}
        quantizing(document)["kind"] = code

    rewritten(plan, poison)
    apply(path, plan, tmp_path / "out.onnx")
    assert not trap.exists()


# A pass that runs twice


@pytest.mark.parametrize(
    "passes",
    [
        ["remove-neurons:keep=0.75", "remove-heads:keep=3", "remove-neurons:keep=0.5"],
        ["remove-neurons:keep=0.75", "remove-neurons:keep=0.5"],
    ],
)
def test_a_pass_that_runs_twice_replays_in_two_turns(tmp_path: Path, passes: list[str]) -> None:
    path = graphs.saved(graphs.layers(1), tmp_path)
    feeds = [graphs.feeds_for(path, seed=seed, batch=1) for seed in range(4)]
    np.savez(tmp_path / "data.npz", x=np.stack([feed["x"] for feed in feeds]))
    result = optimize(path, output=tmp_path / "small.onnx", data=str(tmp_path / "data.npz"), passes=passes)
    edits = read_plan(result.plan).edits
    assert len({edit.id for edit in edits}) == len(edits)
    assert [edit.turn for edit in edits if edit.site == "neurons.0"] == [1, 2]
    assert next(edit for edit in edits if edit.turn == 2 and edit.site == "neurons.0").depends_on == (
        "remove-neurons.shapes~2",
    )
    apply(path, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.output.read_bytes()
