"""Each broken thing is found, named, and makes the exit code 1; what is sound passes in little time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from onnxprune.checking import RULES
from tests import graphs
from tests.checking.broken import BROKEN, good
from tests.commands import run

FIXTURES = Path(__file__).parents[2] / "fixtures"
# They need an option or a torch module, and are tested beside it; notes fail nothing by default.
BY_OPTION = {
    "dynamic-shapes",
    "interface-changed",
    "must-run",
    "over-latency",
    "over-load",
    "over-size",
    "slower-than-reference",
    "under-fidelity",
    "under-metric",
}
OF_MODULES = {"exporter-failed", "pruned-units-stay"}


def answer(*arguments: str, code: int) -> Any:
    result = run("check", *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_a_broken_model_is_found_and_named(rule: str, tmp_path: Path) -> None:
    path = BROKEN[rule](tmp_path)
    document = answer(str(path), code=1)
    found = [finding for finding in document["findings"] if finding["rule"] == rule]
    assert found, document
    assert {finding["severity"] for finding in found} <= {"error", "warning"}
    assert all(finding["where"] and finding["what"] and finding["do"] for finding in found)
    assert not document["passed"]


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_a_sound_model_has_none_of_these(rule: str, tmp_path: Path) -> None:
    # What is found in the broken model is due to what is broken in it.
    document = answer(str(graphs.saved(good(), tmp_path)), code=0)
    assert rule not in {finding["rule"] for finding in document["findings"]}


def test_every_rule_that_fails_by_default_has_a_broken_model() -> None:
    failing = {rule.id for rule in RULES if rule.severity != "note"}
    assert failing - set(BROKEN) == BY_OPTION | OF_MODULES


@pytest.mark.parametrize("name", ["fashion-convnet", "gloss-classifier", "gloss-gpt"])
def test_a_good_model_passes_within_seconds(name: str) -> None:
    start = time.perf_counter()
    document = answer(str(FIXTURES / name / "model.onnx"), code=0)
    # Under a second alone; the bound is loose because other processes share the machine.
    assert time.perf_counter() - start < 60
    assert document["passed"]
    assert not document["models"][0]["not_checked"]
