"""The documentation is true: the tutorial runs as it stands, pages of passes are current, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onnxprune import pipeline
from onnxprune.cli import main
from onnxprune.passes import OWN
from onnxprune.report.manual import manual_of, write_manuals

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


def blocks() -> list[tuple[str, str]]:
    """Language and text of every fenced block of the tutorial, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_line(line: str) -> None:
    """One line of a shell block: a copy out of the checkout, or a command of ours."""
    program, *arguments = shlex.split(line)
    if program == "cp":
        shutil.copy(ROOT / arguments[0], arguments[1])
        return
    assert program == "onnxprune", line
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"


@pytest.mark.timeout(900)
def test_the_tutorial_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What is decided by the clock may be anything here; the page claims no time.
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.setattr("onnxprune.subject.RACE_S", 0.01)
    names: dict[str, Any] = {}
    found = blocks()
    assert {language for language, _ in found} == {"sh", "python"}
    for language, text in found:
        if language == "python":
            exec(compile(text, str(TUTORIAL), "exec"), names)  # noqa: S102 - our own page
        else:
            for line in filter(None, text.splitlines()):
                run_line(line)
    assert (tmp_path / "cut.html").exists()


def test_the_pages_of_passes_are_what_their_docstrings_say(tmp_path: Path) -> None:
    """Make them anew with: onnxprune passes --markdown docs/passes."""
    write_manuals({kind.name: kind for kind in OWN}, tmp_path)
    folder = ROOT / "docs" / "passes"
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == made


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: str(kind.name))
def test_every_option_of_a_pass_is_described(kind: type[Any]) -> None:
    manual = manual_of(kind)
    assert manual.summary.endswith(".")
    assert not [option.name for option in manual.options if not option.about]


def test_a_pass_named_tells_all_that_there_is_to_say() -> None:
    result = CliRunner().invoke(main, ["passes", "remove-heads"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("remove-heads: Cut attention heads")
    assert "    keep=1.0" in lines
    assert (
        "        a whole number or a number. what stays: a share of the original units, in (0, 1], or a count." in lines
    )
    result = CliRunner().invoke(main, ["passes", "prune"])
    assert result.exit_code == 2
    assert result.stderr.startswith("onnxprune: No pass named 'prune'. Known: approximate-activations, cluster, ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [one for one in targets if one and "://" not in one and not (page.parent / one).exists()]
    assert not missing


def completed(words: str, at: int) -> list[str]:
    """What bash is offered after the words, by the protocol that the script of `bash_source` speaks."""
    environment = {**os.environ, "_ONNXPRUNE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    code = "import sys; sys.argv[0] = 'onnxprune'; from onnxprune.cli import main; main(prog_name='onnxprune')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_choices_complete_in_bash() -> None:
    assert completed("onnxprune op", 1) == ["optimize"]
    assert completed("onnxprune optimize --spe", 2) == ["--speedup"]
    assert completed("onnxprune check --fail-on n", 3) == ["note", "never"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is what is tried")
def test_the_line_for_bash_defines_a_completion() -> None:
    code = "import sys; sys.argv[0] = 'onnxprune'; from onnxprune.cli import main; main(prog_name='onnxprune')"
    environment = {**os.environ, "_ONNXPRUNE_COMPLETE": "bash_source"}
    script = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    shell = ["bash", "--norc", "-c", f"{script.stdout}\ncomplete -p onnxprune"]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("-F _onnxprune_completion onnxprune")
