"""Other forms of a model: static inputs, the ORT format; each answers as the model does."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxprune import deploy, deployment, pipeline
from onnxprune.deployment import forms as deploying
from onnxprune.model import load
from onnxprune.runtime import open_session
from tests import graphs
from tests.checking.broken import named, weight
from tests.commands import run

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.chdir(tmp_path)
    graphs.saved(graphs.attention(), tmp_path)


def outputs(path: Path | str, feeds: dict[str, graphs.Array]) -> list[graphs.Array]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]


def shapes_of(path: Path | str) -> dict[str, list[int]]:
    graph = onnx.load(path).graph
    return {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in [*graph.input, *graph.output]
    }


@pytest.mark.parametrize(
    ("fixture", "fixed", "shapes"),
    [
        # attention_mask shares both symbols with input_ids, and follows.
        ("gloss-classifier", "input_ids=2x16", {"input_ids": [2, 16], "attention_mask": [2, 16], "logits": [2, 25]}),
        ("gloss-gpt", "input_ids=1x32", {"input_ids": [1, 32], "logits": [1, 32, 1024]}),
        ("fashion-convnet", "input=3x1x28x28", {"input": [3, 1, 28, 28], "logits": [3, 10]}),
    ],
)
def test_a_fixed_model_has_one_shape_no_shape_arithmetic_and_the_same_answers(
    fixture: str, fixed: str, shapes: dict[str, list[int]], tmp_path: Path
) -> None:
    path = FIXTURES / fixture / "model.onnx"
    result = deploy(path, fixed_shapes=[fixed], output=tmp_path / "m")
    (form,) = result.forms
    assert form.path == tmp_path / "m.fixed.onnx"
    assert shapes_of(form.path) == shapes
    assert not {"Shape", "Range", "ConstantOfShape"} & {node.op_type for node in onnx.load(form.path).graph.node}
    onnx.checker.check_model(str(form.path), full_check=True)
    samples = np.load(FIXTURES / fixture / "samples.npz")
    inputs = {name: samples[name] for name in shapes if name in samples.files}
    feeds = {name: np.resize(value, shapes[name]).astype(value.dtype) for name, value in inputs.items()}
    for ours, theirs in zip(outputs(form.path, feeds), outputs(path, feeds), strict=True):
        assert np.max(np.abs(ours - theirs)) <= 1e-4 * np.max(np.abs(theirs))


def test_the_ort_form_answers_alike_and_comes_with_its_operators() -> None:
    result = deploy("model.onnx", ort=True)
    (form,) = result.forms
    assert (form.path, form.operators) == (Path("model.ort"), Path("model.required_operators.config"))
    assert form.path.read_bytes()[4:8] == b"ORTM"
    assert form.size_bytes == form.path.stat().st_size
    assert result.size_bytes == Path("model.onnx").stat().st_size
    x = {"x": np.random.default_rng(0).standard_normal((2, 5, 64)).astype(np.float32)}
    assert np.max(np.abs(outputs("model.ort", x)[0] - outputs("model.onnx", x)[0])) <= 1e-5
    listed = Path("model.required_operators.config").read_text()
    assert listed.startswith("# Generated from model/s:\n# - model.ort\n")
    rows = dict(line.rsplit(";", 1) for line in listed.splitlines() if not line.startswith("#"))
    assert "ai.onnx;13" in rows
    assert "MatMul" in listed
    assert "Softmax" in listed


def test_an_int8_model_becomes_ort_with_its_integer_products() -> None:
    assert run("optimize", "model.onnx", "-o", "small.onnx", "--ort", "--fixed-shapes", "x=1x16x64").exit_code == 0
    listed = Path("small.required_operators.config").read_text()
    assert "DynamicQuantizeMatMul" in listed or "MatMulInteger" in listed
    assert shapes_of("small.fixed.onnx")["x"] == [1, 16, 64]
    x = {"x": np.random.default_rng(0).standard_normal((1, 16, 64)).astype(np.float32)}
    assert np.max(np.abs(outputs("small.ort", x)[0] - outputs("small.onnx", x)[0])) <= 1e-4
    # The ORT form is made from the fixed one.
    session = ort.InferenceSession("small.ort", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 16, 64]


def test_packed_weights_are_unpacked_first() -> None:
    arguments = ["--pass", "sparse-int8:sparsity=0.75,score=magnitude", "--pass", "pack-weights"]
    assert run("optimize", "model.onnx", "-o", "packed.onnx", *arguments).exit_code == 0
    assert "CumSum" in {node.op_type for node in onnx.load("packed.onnx").graph.node}
    deploy("packed.onnx", ort=True, fixed_shapes=["x=1x16x64"])
    assert "CumSum" not in {node.op_type for node in onnx.load("packed.fixed.onnx").graph.node}
    assert "CumSum" not in Path("packed.required_operators.config").read_text()


def test_optimize_reports_every_form_with_its_size() -> None:
    result = run("optimize", "model.onnx", "-o", "small.onnx", "--ort", "--fixed-shapes", "x=1x16x64", "--json")
    forms = json.loads(result.stdout)["forms"]
    assert [form.keys() for form in forms] == [
        {"path", "format", "size_bytes", "deviation", "shapes", "operators"} for _ in range(2)
    ]
    assert [(form["path"], form["format"]) for form in forms] == [("small.fixed.onnx", "onnx"), ("small.ort", "ort")]
    assert [form["size_bytes"] for form in forms] == [Path(form["path"]).stat().st_size for form in forms]
    assert forms[1]["shapes"] == {"x": [1, 16, 64]}
    text = run("optimize", "model.onnx", "-o", "small.onnx", "--ort").stdout
    assert text.splitlines()[-1].startswith("small.ort: ")
    assert json.loads(run("optimize", "model.onnx", "-o", "small.onnx", "--json").stdout)["forms"] == []


def test_the_tools_leave_stderr_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = run("deploy", "model.onnx", "--ort")
    assert (result.exit_code, result.stderr, caplog.records) == (0, "", [])
    assert result.stdout.startswith("model.ort: ")
    assert result.stdout.endswith("operators in model.required_operators.config\n")


def test_weights_outside_the_file_go_into_the_forms() -> None:
    onnx.save(graphs.attention(), "split.onnx", save_as_external_data=True, location="split.data", size_threshold=1024)
    forms = deploy("split.onnx", ort=True, fixed_shapes=["x=1x8x64"]).forms
    assert forms[0].size_bytes > 4 * 64 * 64 * 4
    assert forms[1].size_bytes > 4 * 64 * 64 * 4


def test_a_form_that_answers_otherwise_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    other = load(graphs.saved(graphs.attention(heads=2, size=32), Path(), "other.onnx"))
    monkeypatch.setattr(deploying, "fix_shapes", lambda *_: other)
    result = run("deploy", "model.onnx", "--fixed-shapes", "x=1x8x64", "--ort")
    assert result.exit_code == 2
    assert result.stderr.startswith("onnxprune: model.fixed.onnx: does not answer as model.onnx does: y: largest ")
    assert sorted(path.name for path in Path().iterdir()) == ["model.onnx", "other.onnx"]


def _nudged(share: float) -> Path:
    """A product whose weights, and with them its outputs, are moved by a share."""
    proto = graphs.matmul()
    weight(proto, "w", lambda array: array * np.float32(1 + share))
    return graphs.saved(proto, Path(), f"{share}.onnx")


@pytest.mark.parametrize(("moved", "code"), [(3e-3, 0), (5e-3, 2)])
def test_a_few_times_what_optimizations_move_is_no_other_answer(
    moved: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times 1e-3 is; where outputs are next to nothing, float rounding is a large share of them."""
    form, plain = load(_nudged(moved)), _nudged(1e-3)
    monkeypatch.setattr(deploying, "fix_shapes", lambda *_: form)
    monkeypatch.setattr(
        deploying,
        "open_session",
        lambda path, level="all": open_session(plain if level == "none" else path),
    )
    result = run("deploy", str(_nudged(0)), "--fixed-shapes", "x=8x64", "--json")
    assert result.exit_code == code, result.stderr
    if not code:
        assert json.loads(result.stdout)["forms"][0]["deviation"] == pytest.approx(moved, rel=1e-2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "deploy writes nothing on its own. Ask for --fixed-shapes NAME=1x128, --ort, or both."),
        (("--fixed-shapes", "x"), "--fixed-shapes: must read NAME=1x128, got 'x'."),
        (("--fixed-shapes", "z=1x2"), "--fixed-shapes: no input named 'z'. The model's inputs: x."),
        (
            ("--fixed-shapes", "x=1x8"),
            "--fixed-shapes: x float32 [batch, sequence, 64] has 3 axes, got 1x8. Give a size for each.",
        ),
        (
            ("--fixed-shapes", "x=1x8x9"),
            "--fixed-shapes: x float32 [batch, sequence, 64] is fixed at 64, got 1x8x9. Change its dynamic axes only.",
        ),
    ],
)
def test_what_the_user_got_wrong_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    result = run("deploy", "model.onnx", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"onnxprune: {line}\n")
    assert [path.name for path in Path().iterdir()] == ["model.onnx"]


def test_an_axis_that_stays_dynamic_is_named() -> None:
    proto = named(graphs.matmul())
    proto.graph.input.append(graphs.info("mask", ("batch", "length")))
    proto.graph.node.append(graphs.node("Identity", ["mask"], ["seen"], name="seen"))
    proto.graph.output.append(graphs.info("seen", ("batch", "length")))
    graphs.saved(proto, Path(), "two.onnx")
    result = run("deploy", "two.onnx", "--fixed-shapes", "x=1x64")
    assert result.stderr == (
        "onnxprune: --fixed-shapes: input mask float32 [batch, length] stays dynamic at 'length'. "
        "Give mask=1xlength with its sizes.\n"
    )
    (form,) = deploy("two.onnx", fixed_shapes=["x=1x64", "mask=1x7"]).forms
    assert form.shapes == {"x": (1, 64), "mask": (1, 7)}


def test_one_module_is_the_whole_interface() -> None:
    assert deploy is deployment.deploy
