"""What users copy into their own repositories: the workflow, the hook, the table of rules."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from onnxprune.checking import RULES
from tests import graphs
from tests.checking.broken import good

ROOT = Path(__file__).parents[2]


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def onnxprune(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnxprune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    graphs.saved(good(), tmp_path, "good.onnx")
    (tmp_path / "bad.onnx").write_text("no model")
    return tmp_path


def test_the_hook_checks_the_files_it_is_given(folder: Path) -> None:
    (hook,) = loaded(".pre-commit-hooks.yaml")
    assert {"id", "name", "entry", "language", "files"} <= hook.keys()
    assert re.search(hook["files"], "models/small.onnx")
    assert not re.search(hook["files"], "models/small.onnx.data")
    program, *rest = shlex.split(hook["entry"])
    (repository,) = loaded("docs/ci/pre-commit-config.yaml")["repos"]
    (use,) = repository["hooks"]
    assert (program, use["id"]) == ("onnxprune", hook["id"])
    assert onnxprune([*rest, *use["args"], "good.onnx"], folder).returncode == 0
    failed = onnxprune([*rest, *use["args"], "good.onnx", "bad.onnx"], folder)
    assert failed.returncode == 1
    assert "not-a-model" in failed.stdout


def test_the_workflow_runs_what_the_command_line_takes(folder: Path) -> None:
    workflow = loaded("docs/ci/check-models.yml")
    # YAML 1.1 reads the key `on` as true.
    assert {"pull_request", "push"} == set(workflow[True])
    job = workflow["jobs"]["check"]
    (step,) = [step for step in job["steps"] if "xargs" in step.get("run", "")]
    command = step["run"].partition("xargs -0 -r ")[2].replace("$LIMITS", job["env"]["LIMITS"])
    program, *arguments = shlex.split(command)
    assert program == "onnxprune"
    done = onnxprune([*arguments, "good.onnx", "bad.onnx"], folder)
    assert done.returncode == 1, done.stderr
    (upload,) = [step for step in job["steps"] if "upload-sarif" in step.get("uses", "")]
    assert (folder / upload["with"]["sarif_file"]).exists()


def test_the_documentation_lists_every_rule_as_it_is() -> None:
    text = (ROOT / "docs" / "check.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (error|warning|note) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(rule.id, rule.severity, rule.summary, rule.do) for rule in RULES]
