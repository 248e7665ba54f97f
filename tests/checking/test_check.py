"""What `check` prints and writes: verdict, budgets, exit codes, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import numpy_helper

from onnxprune.checking import RULES, Budgets, check
from tests import commands, graphs
from tests.checking.broken import good, named, weight

SCHEMA = json.loads((Path(__file__).parent / "sarif.schema.json").read_text())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    graphs.saved(good(), tmp_path)


def run(*arguments: str) -> Result:
    return commands.run("check", *arguments)


def answer(*arguments: str, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    return json.loads(result.stdout)


def rules(document: Any) -> list[str]:
    return [finding["rule"] for finding in document["findings"]]


def disturbed() -> None:
    """The good model with other numbers: it runs, and answers otherwise."""
    proto = good()
    weight(proto, "down", lambda array: array + np.float32(0.5))
    graphs.saved(proto, Path(), "other.onnx")


def test_the_documented_keys_are_there() -> None:
    document = answer("model.onnx", "--max-size", "100", code=1)
    assert document.keys() == {"passed", "fail_on", "counts", "models", "findings"}
    assert document["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert document["models"][0].keys() == {"model", "figures", "not_checked", "seconds", "export"}
    size = Path("model.onnx").stat().st_size
    assert document["findings"] == [
        {
            "model": "model.onnx",
            "rule": "over-size",
            "severity": "error",
            "where": "model",
            "what": f"{size} bytes, at most 100 are allowed",
            "do": "Make it smaller: onnxprune optimize MODEL, with a goal or more passes.",
        }
    ]


def test_data_files_count_as_size() -> None:
    proto = good()
    onnx.save(proto, "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0)
    whole = Path("split.onnx").stat().st_size + Path("split.data").stat().st_size
    assert answer("split.onnx", "--max-size", str(whole))["models"][0]["figures"] == {"size_bytes": whole}
    assert rules(answer("split.onnx", "--max-size", str(whole - 1), code=1)) == ["over-size"]


def test_a_slow_run_and_a_slow_load_are_found() -> None:
    arguments = ("model.onnx", "--seconds", "0.02", "--max-latency", "cpu:1=0.000001", "--max-load", "0.000001")
    document = answer(*arguments, code=1)
    assert rules(document) == ["over-latency", "over-load"]
    assert document["findings"][0]["where"] == "target cpu:1"
    assert document["findings"][0]["what"].endswith("at most 1e-06 ms are allowed")
    figures = document["models"][0]["figures"]
    assert figures["latency_ms"]["cpu:1"]["median"] > 0
    assert figures["load_ms"] > 0
    loose = ("model.onnx", "--seconds", "0.02", "--max-latency", "cpu:1=60000", "--max-load", "60000")
    assert rules(answer(*loose)) == []


def test_a_model_that_left_its_reference_is_found() -> None:
    disturbed()
    arguments = ("--seconds", "0.02", "--ignore", "slower-than-reference")
    document = answer("other.onnx", "--reference", "model.onnx", "--min-fidelity", "0.9", *arguments, code=1)
    assert rules(document) == ["under-fidelity"]
    assert document["findings"][0]["where"] == "output 'y'"
    assert "is under the floor 0.9; " in document["findings"][0]["what"]
    assert document["findings"][0]["what"].endswith(", on synthetic inputs; first at 'd'")
    same = answer("model.onnx", "--reference", "model.onnx", "--min-fidelity", "1", *arguments)
    assert same["models"][0]["figures"]["fidelity"] == 1


def test_a_reference_with_other_outputs_cannot_be_compared() -> None:
    proto = good()
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "z"
    graphs.saved(proto, Path(), "z.onnx")
    arguments = ("--reference", "z.onnx", "--min-fidelity", "0.9", "--ignore", "slower-than-reference")
    document = answer("model.onnx", *arguments, code=1)
    assert rules(document) == ["interface-changed", "interface-changed", "under-fidelity"]
    assert [finding["what"] for finding in document["findings"]] == [
        "the reference has it, the model has not",
        "the model has it, the reference has not",
        "cannot be compared: model.onnx: lacks the outputs z of z.onnx. Compare equals.",
    ]


def test_inputs_of_another_type_than_the_references_are_found() -> None:
    graphs.saved(named(graphs.matmul()), Path(), "float.onnx")
    graphs.saved(named(graphs.matmul(dtype=np.float16)), Path(), "half.onnx")
    document = answer("half.onnx", "--reference", "float.onnx", "--ignore", "slower-than-reference", code=1)
    assert [(finding["where"], finding["what"]) for finding in document["findings"]] == [
        ("input 'x'", "is float16 [batch, 64], the reference's is float32 [batch, 64]"),
        ("output 'y'", "is float16 [batch, 64], the reference's is float32 [batch, 64]"),
    ]


@pytest.mark.serial
def test_a_model_slower_than_its_reference_is_found() -> None:
    # Forty products against one: no spell of a shared machine makes up for that.
    nodes = [graphs.node("MatMul", ["x", "up"], ["u"], name="first")]
    name = "u"
    for at in range(40):
        nodes.append(graphs.node("MatMul", [name, "square"], [f"m{at}"], name=f"m{at}"))
        name = f"m{at}"
    last = graphs.node("Relu", [name], ["y"], name="last")
    constants = {"up": graphs.weights(64, 512), "square": graphs.weights(512, 512)}
    short = graphs.node("Relu", ["u"], ["y"], name="last")
    shape, outputs = [graphs.info("x", ("batch", 64))], [graphs.info("y", ("batch", 512))]
    graphs.saved(graphs.model([*nodes, last], shape, outputs, constants), Path(), "slow.onnx")
    graphs.saved(graphs.model([nodes[0], short], shape, outputs, constants), Path(), "fast.onnx")
    document = answer("slow.onnx", "--reference", "fast.onnx", "--seconds", "0.1", code=1)
    assert rules(document) == ["slower-than-reference"]
    assert " x the reference's speed [0.0" in document["findings"][0]["what"]
    quick = answer("fast.onnx", "--reference", "slow.onnx", "--seconds", "0.1", "--ignore", "unused-initializer")
    assert quick["models"][0]["figures"]["speedup"]["cpu:1"]["ratio"] > 1


def labelled() -> None:
    """Eight samples of which the model names the labels of six."""
    graphs.saved(named(graphs.matmul()), Path(), "classes.onnx")
    x = np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)
    labels = (x[:, 0] @ graphs.weights(64, 64)).argmax(axis=1)
    labels[:2] += 1
    np.savez("data.npz", x=x, labels=labels)


def test_a_metric_below_its_floor_is_found() -> None:
    labelled()
    document = answer("classes.onnx", "--data", "data.npz", "--min-metric", "labels=0.8", code=1)
    assert [(finding["where"], finding["what"]) for finding in document["findings"]] == [
        ("metric labels", "is 0.75 on 8 samples, at least 0.8 is asked for")
    ]
    assert document["models"][0]["figures"]["metrics"] == {"labels": 0.75}
    assert rules(answer("classes.onnx", "--data", "data.npz", "--min-metric", "labels=0.75")) == []


def test_a_metric_of_the_users_own_sees_outputs_and_labels(tmp_path: Path) -> None:
    labelled()
    (tmp_path / "own_metric_of_check.py").write_text(
        "def score(outputs, samples):\n"
        "    hits = [o['y'].argmax() == s['labels'] for o, s in zip(outputs, samples)]\n"
        "    assert samples[0]['x'].shape == (1, 64)\n"
        "    return -sum(hits)\n"
        "def fail(outputs, samples):\n"
        "    raise ValueError('no such thing')\n"
    )
    arguments = ("classes.onnx", "--data", "data.npz", "--min-metric")
    document = answer(*arguments, "own_metric_of_check:score=-5", code=1)
    assert document["models"][0]["figures"]["metrics"] == {"own_metric_of_check:score": -6}
    failed = run(*arguments, "own_metric_of_check:fail=0")
    assert (failed.exit_code, failed.stderr) == (
        2,
        "onnxprune: own_metric_of_check:fail: it raised ValueError: no such thing. Mend the metric.\n",
    )
    without = run("classes.onnx", "--min-metric", "labels=0.8")
    assert without.exit_code == 2
    assert without.stderr == (
        "onnxprune: synthetic inputs: has no labels. Add an array named 'labels', or give module:function.\n"
    )


def test_a_limit_that_cannot_be_measured_is_not_kept() -> None:
    # One sample has the length that the model was traced with, the next one has not.
    nodes = [graphs.node("Reshape", ["x", "to"], ["r"], name="r"), graphs.node("MatMul", ["r", "w"], ["y"], name="m")]
    constants = {"to": np.array([1, 64]), "w": graphs.weights(64, 64)}
    shape = [graphs.info("x", ("batch", "length"))]
    graphs.saved(graphs.model(nodes, shape, [graphs.info("y", (1, 64))], constants), Path(), "traced.onnx")
    Path("data").mkdir()
    for at, length in enumerate((64, 63)):
        np.savez(f"data/{at}.npz", x=np.ones((1, length), np.float32), labels=np.array(3))
    document = answer("traced.onnx", "--data", "data", "--min-metric", "labels=0", "--ignore", "dead-units", code=1)
    (finding,) = document["findings"]
    assert (finding["rule"], finding["where"]) == ("under-metric", "model")
    assert finding["what"].startswith("could not be checked: traced.onnx: onnxruntime failed while running it: ")
    assert set(document["models"][0]["not_checked"]) == {"under-metric"}


def test_a_provider_that_takes_too_few_nodes_is_found() -> None:
    # The list of NNAPI has neither Erf nor LayerNormalization, that of its ML Programs has Relu and MatMul.
    nodes = [graphs.node("MatMul", ["x", "w"], ["m"], name="m"), graphs.node("Erf", ["m"], ["y"], name="e")]
    shape = (2, 64)
    proto = graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], {"w": graphs.weights(64, 64)})
    graphs.saved(proto, Path(), "erf.onnx")
    document = answer("erf.onnx", "--must-run", "nnapi=0.9", code=1)
    assert rules(document) == ["must-run", "falls-back"]
    assert document["findings"][0]["what"] == (
        "forecast: 1 of 2 nodes on Nnapi in 1 partition; Erf (1): the list lacks it; 90% are asked for"
    )
    assert document["models"][0]["figures"]["placement"]["nnapi"]["kind"] == "forecast"
    assert rules(answer("erf.onnx", "--must-run", "nnapi=0.5")) == ["falls-back"]
    assert rules(answer("erf.onnx", "--must-run", "cpu:1")) == []


def test_a_provider_that_wants_fixed_shapes_is_told_of_open_ones() -> None:
    document = answer("model.onnx", "--must-run", "nnapi=0.1", "--ignore", "falls-back", code=1)
    assert [(finding["rule"], finding["what"]) for finding in document["findings"]] == [
        ("dynamic-shapes", "is float32 [batch, sequence, 64]; nnapi wants it fixed")
    ]


def test_axes_without_names_are_noted() -> None:
    proto = good()
    proto.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_param")
    graphs.saved(proto, Path(), "open.onnx")
    document = answer("open.onnx")
    assert [(finding["rule"], finding["what"]) for finding in document["findings"]] == [
        ("unnamed-axis", "axis 1 of 3 has no name")
    ]


def test_portability_is_stricter_where_it_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    # Of 64 weights in a column 16 are large: some pairs of terms pass 32767.
    weight = np.where(rng.random((64, 64)) < 0.1, 100, 12).astype(np.int8) * rng.choice([-1, 1], (64, 64)).astype(
        np.int8
    )
    nodes = [
        graphs.node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="q"),
        graphs.node("MatMulInteger", ["q", "w", "z"], ["i"], name="i"),
        graphs.node("Cast", ["i"], ["f"], name="c", to=1),
        graphs.node("Mul", ["f", "s"], ["y"], name="m"),
    ]
    shape = [graphs.info("x", ("batch", 64))]
    graphs.saved(graphs.model(nodes, shape, [graphs.info("y", ("batch", 64))], {"w": weight}), Path(), "int8.onnx")
    (found,) = answer("int8.onnx", "--fail-on", "never")["findings"]
    (strict,) = answer("int8.onnx", "--portable", code=1)["findings"]
    assert (found["rule"], found["where"]) == ("saturation", "MatMulInteger 'i'")
    assert found["severity"] == "note"
    assert strict["severity"] == "error"
    assert strict["what"] == found["what"]
    assert " columns at risk, where " in found["what"]


def test_severity_decides_with_fail_on() -> None:
    proto = good()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(7, np.float32), "spare"))
    graphs.saved(proto, Path(), "spare.onnx")
    assert rules(answer("spare.onnx", code=1)) == ["unused-initializer"]
    assert rules(answer("spare.onnx", "--fail-on", "error")) == ["unused-initializer"]
    assert rules(answer("spare.onnx", "--ignore", "unused-initializer")) == []
    assert answer("spare.onnx", "--fail-on", "never", "--max-size", "1")["passed"]
    graphs.saved(named(graphs.matmul(opset=12)), Path(), "old.onnx")
    assert rules(answer("old.onnx")) == ["old-opset"]
    assert rules(answer("old.onnx", "--fail-on", "note", code=1)) == ["old-opset"]


def test_several_models_have_one_answer() -> None:
    Path("text.onnx").write_text("text")
    document = answer("model.onnx", "text.onnx", code=1)
    assert [one["model"] for one in document["models"]] == ["model.onnx", "text.onnx"]
    assert {finding["model"] for finding in document["findings"]} == {"text.onnx"}
    assert set(document["models"][1]["not_checked"]) == {
        rule.id for rule in RULES if rule.needs not in {"bytes", "module", "export"}
    }


def test_the_table_says_what_where_and_what_to_do() -> None:
    result = run("model.onnx", "--max-size", "100")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0].startswith("model.onnx: 1 error, 0 warnings, 0 notes; ")
    assert lines[1].split() == ["severity", "rule", "where", "what", "what", "to", "do"]
    assert lines[2].split()[:3] == ["error", "over-size", "model"]
    assert lines[-1] == "failed (fails on: warning)"
    assert run("model.onnx").stdout.splitlines()[-1] == "passed (fails on: warning)"


def test_what_cannot_be_checked_is_said() -> None:
    Path("text.onnx").write_text("text")
    (line,) = [line for line in run("text.onnx").stdout.splitlines() if line.startswith("not checked: ")]
    assert line.startswith("not checked: external-data-outside, external-data-missing, checker-error, ")


@pytest.mark.parametrize("views", [["a"], ["a", "b"]])
def test_a_graph_that_runs_in_a_circle_is_told_and_followed_by_nobody(views: list[str]) -> None:
    """Rules that look behind a weight's views would never come to an end."""
    nodes = [graphs.node("Identity", [views[at - 1]], [name], name=f"view_{name}") for at, name in enumerate(views)]
    nodes.append(graphs.node("MatMul", ["x", "a"], ["y"], name="product"))
    shape = ("batch", 64)
    graphs.saved(graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)]), Path(), "circle.onnx")
    findings = answer("circle.onnx", code=1)["findings"]
    (what,) = [finding["what"] for finding in findings if finding["rule"] == "invalid-graph"]
    assert what == f"Identity 'view_{views[0]}' reads what follows from it. Export the model anew."


def test_nodes_without_what_their_operator_reads_are_told() -> None:
    """Rules read nodes as their operators define them; where the runtime cannot either, that is the finding."""
    proto = good()
    product = next(node for node in proto.graph.node if node.op_type == "MatMul")
    weight = product.input[1]
    product.input[1] = "view"
    proto.graph.node.insert(0, graphs.node("Transpose", [], ["view"], name="view"))
    graphs.saved(proto, Path(), "bare.onnx")
    document = answer("bare.onnx", code=1)
    assert {"checker-error", "does-not-load", "unused-initializer"} <= {one["rule"] for one in document["findings"]}
    assert weight in str(document["findings"])
    assert "dense-zeros" in document["models"][0]["not_checked"]


def test_names_that_are_no_text_are_told() -> None:
    proto = good()
    onnx.save(proto, "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0)
    Path("split.onnx").write_bytes(Path("split.onnx").read_bytes().replace(b"split.data", b"\xffplit.data"))
    (finding,) = answer("split.onnx", code=1)["findings"]
    assert finding["rule"] == "not-a-model"
    assert finding["what"] == "not an ONNX model: a name in it is not text. Export or copy it again."


def test_every_rule_is_listed_once_with_its_advice() -> None:
    listed = json.loads(run("--list", "--json").stdout)
    assert [one["rule"] for one in listed] == [rule.id for rule in RULES]
    assert len({one["rule"] for one in listed}) == len(listed)
    assert all(one["summary"].endswith(".") and one["do"].endswith(".") for one in listed)
    text = run("--list").stdout
    assert all(rule.id in text for rule in RULES)


def test_sarif_is_valid_and_complete() -> None:
    disturbed()
    run("other.onnx", "--max-size", "100", "--sarif", "findings.sarif")
    document = json.loads(Path("findings.sarif").read_text())
    jsonschema.validate(document, SCHEMA)
    (log,) = document["runs"]
    (result,) = log["results"]
    assert result["ruleId"] == "over-size"
    assert log["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "over-size"
    assert result["level"] == "error"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "other.onnx"
    assert log["invocations"] == [{"executionSuccessful": True, "exitCode": 1}]


def test_sarif_without_findings_and_of_odd_names_is_valid(tmp_path: Path) -> None:
    odd = tmp_path / "a folder"
    odd.mkdir()
    graphs.saved(good(), odd, "mödel 1.onnx")
    run("a folder/mödel 1.onnx", "--sarif", "none.sarif")
    assert json.loads(Path("none.sarif").read_text())["runs"][0]["results"] == []
    run("a folder/mödel 1.onnx", "--max-size", "1", "--sarif", "one.sarif")
    document = json.loads(Path("one.sarif").read_text())
    jsonschema.validate(document, SCHEMA)
    location = document["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert location["uri"] == "a%20folder/m%C3%B6del%201.onnx"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "check needs a model. Name an .onnx file, or --list for the rules."),
        (("gone.onnx",), "gone.onnx: no such file. Name an existing .onnx file."),
        (("model.onnx", "--reference", "gone.onnx"), "gone.onnx: no such file. Name an existing .onnx file."),
        (
            ("model.onnx", "--max-size", "20 lightyears"),
            "--max-size must be a size such as 20MB, 512KiB or 1000000, got '20 lightyears'.",
        ),
        (
            ("model.onnx", "--max-latency", "12"),
            "--max-latency must be TARGET=MILLISECONDS such as cpu:1=12.5, got '12'.",
        ),
        (("model.onnx", "--max-latency", "cpu:1=-2"), "--max-latency must be milliseconds above 0, got -2.0."),
        (("model.onnx", "--max-load", "nan"), "--max-load must be milliseconds above 0, got nan."),
        (
            ("model.onnx", "--min-fidelity", "0.9"),
            "--min-fidelity needs a model to compare with. Name it with --reference.",
        ),
        (
            ("model.onnx", "--min-fidelity", "1.5", "--reference", "model.onnx"),
            "--min-fidelity must be at most 1 (a perfect copy), got 1.5.",
        ),
        (
            ("model.onnx", "--sarif", "no/such/file.sarif"),
            "no/such: no such folder. Make it or choose another place with --sarif.",
        ),
        (("model.onnx", "--data", "gone.npz"), None),
        (
            ("model.onnx", "--min-metric", "labels"),
            "--min-metric must be labels=VALUE or module:function=VALUE such as labels=0.8, got 'labels'.",
        ),
        (
            ("model.onnx", "--must-run", "cpu=2"),
            "--must-run must be TARGET or TARGET=SHARE such as xnnpack=0.8, got 'cpu=2'.",
        ),
        (
            ("model.onnx", "--max-latency", "nnapi=3"),
            "--max-latency nnapi: gives no milliseconds. Name one that does, as cpu:1.",
        ),
        (("model.onnx", "--must-run", "toaster"), None),
    ],
)
def test_what_the_user_got_wrong_is_one_line(arguments: tuple[str, ...], line: str | None) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    (said,) = result.stderr.splitlines()
    if line is not None:
        assert said == f"onnxprune: {line}"


def test_an_unknown_rule_lists_those_that_there_are() -> None:
    result = run("model.onnx", "--ignore", "no-such")
    assert result.exit_code == 2
    known = ", ".join(sorted(rule.id for rule in RULES))
    assert result.stderr == f"onnxprune: No rule named 'no-such'. Known: {known}.\n"


@pytest.mark.parametrize(
    ("text", "size"),
    [("20MB", 20_000_000), ("512 KiB", 524_288), (".5gb", 500_000_000), ("17", 17), ("1.5MiB", 1_572_864)],
)
def test_sizes_are_read_as_they_are_written(text: str, size: int) -> None:
    graphs.saved(good(), Path(), "m.onnx")
    from onnxprune.sizes import parse_size

    assert parse_size("--max-size", text) == size


def test_python_gives_the_same_answer() -> None:
    result = check("model.onnx", budgets=Budgets(max_size=100))
    assert not result.passed
    assert [finding.rule for finding in result.findings] == ["over-size"]
