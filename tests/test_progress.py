"""What is said while a job runs: the stage, and how long the rest will take."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from onnxprune.progress import Turn
from onnxprune.report.progress import Watch
from tests import graphs


class Clock:
    """Seconds as the test says."""

    now = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now


def test_a_turn_is_text_that_says_which_of_how_many() -> None:
    assert Turn("trial", 3, 12) == "trial (3 of 12)"
    assert Turn("save") == "save"
    assert (Turn("trial", 3, 12).at, Turn("trial", 3, 12).of) == (3, 12)


def test_the_rest_of_stages_alike_is_foretold_by_those_that_are_done() -> None:
    clock = Clock()
    watch = Watch(clock)
    watch.begin(Turn("a", 1, 4))
    assert watch.left() == ""
    clock.now = 10.0
    watch.begin(Turn("b", 2, 4))
    # One took 10 s, three are left.
    assert watch.left_s() == 30.0
    clock.now = 14.0
    assert watch.left() == "about 26 s left"
    clock.now = 100.0
    assert watch.left_s() == 0.0
    watch.begin("save")
    assert watch.left_s() is None
    watch.begin(Turn("time", seconds=90))
    clock.now = 101.0
    assert watch.left() == "about 1 min 29 s left"


def test_stages_of_another_kind_do_not_count_though_they_are_as_many() -> None:
    clock = Clock()
    watch = Watch(clock)
    watch.begin(Turn("a pass", 1, 3))
    clock.now = 8.0
    watch.begin(Turn("a layer of it", 1, 3, kind="solve"))
    clock.now = 9.0
    watch.begin(Turn("the next", 2, 3, kind="solve"))
    # One layer took a second, two are left.
    assert watch.left_s() == 2.0
    clock.now = 11.0
    watch.begin(Turn("another pass", 2, 3))
    # One pass took 11 s, two are left.
    assert watch.left_s() == 22.0


def on_a_terminal(*arguments: str, cwd: Path) -> str:
    """What a command draws on a terminal, stdout and stderr alike."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    for argument in [one for one in arguments if "=" in one]:
        name, _, value = argument.partition("=")
        environment[name] = value
    command = [sys.executable, "-m", "onnxprune", *(one for one in arguments if "=" not in one)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=cwd, env=environment) as process:
        os.close(theirs)
        drawn = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            drawn += part
        assert process.wait() == 0, drawn.decode()
    os.close(ours)
    return drawn.decode()


@pytest.mark.parametrize(("setting", "colours"), [("A=1", True), ("NO_COLOR=1", False)])
def test_colours_are_for_terminals_that_want_them(tmp_path: Path, setting: str, colours: bool) -> None:
    graphs.saved(graphs.feed_forward(), tmp_path)
    drawn = on_a_terminal("optimize", "model.onnx", setting, cwd=tmp_path)
    assert "time both on cpu:1" in drawn
    assert bool(re.search(r"\x1b\[(?:\d+;)*3\d", drawn)) is colours


def test_quiet_says_nothing(tmp_path: Path) -> None:
    graphs.saved(graphs.feed_forward(), tmp_path)
    assert on_a_terminal("optimize", "model.onnx", "--quiet", cwd=tmp_path) == ""
    assert (tmp_path / "model.optimized.onnx").exists()
