"""A worker that dies, hangs or lies: one line, no figure. The workers here are small programs of Python."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.errors import TargetError
from onnxprune.targets.hosted import HostedTarget
from onnxprune.targets.process import MAX_ANSWER_BYTES, Process

FEEDS = {"x": np.ones((1, 3), np.float32)}
GOOD = {"schema": 1, "loads_ms": [[5.0, 7.0], [3.0]], "rounds_ms": [[2.0, 1.0], [4.0, 2.0], [3.0, 1.5]]}


def fake(program: str, *, limit_s: float = 30.0, counted: bool = False) -> HostedTarget:
    """A target whose worker is `program`; `folder` is bound in it."""
    text = f"import json, os, pathlib, sys, time\nfolder = pathlib.Path(sys.argv[1])\n{program}"
    process = Process(command=(sys.executable, "-c", text), limit_s=limit_s, counted=counted)
    return HostedTarget(
        title="fake",
        about="a fake",
        process=lambda: process,
        missing=lambda: None,
        figures="instructions" if counted else "wall",
    )


def answering(answer: Any) -> HostedTarget:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return fake(f"(folder / 'answer.json').write_text({text!r})")


def _gone(pid: int) -> bool:
    """Whether a process has ended; the kernel takes a moment to carry out a kill."""
    for _ in range(100):
        try:
            if "zombie" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        path.write_bytes(b"not looked at")
    return paths


def test_figures_of_a_good_answer_are_told(models: list[Path]) -> None:
    first, second = answering(GOOD).time(models, FEEDS, budget_s=0)
    assert (first.name, second.name) == ("a.onnx", "b.onnx")
    # Medians of (2, 4, 3) and (1, 2, 1.5), and of the loads; every round's ratio is 2.
    assert (first.latency_ms.median, second.latency_ms.median) == (3.0, 1.5)
    assert (first.load_ms, second.load_ms) == (6.0, 3.0)
    assert second.speedup.ratio == second.speedup.low == second.speedup.high == 2.0


def test_a_worker_is_given_its_job_and_feeds(models: list[Path]) -> None:
    program = (
        "import numpy\njob = json.loads((folder / 'job.json').read_text())\n"
        "feeds = numpy.load(folder / 'feeds-1.npz')\n"
        "assert json.loads(str(feeds['names'])) == ['x'] and feeds['0'].shape == (1, 3)\n"
        "assert [m.rpartition('/')[2] for m in job['models']] == ['a.onnx', 'b.onnx'] and job['task'] == 'time'\n"
        f"(folder / 'answer.json').write_text({json.dumps(GOOD)!r})"
    )
    assert len(fake(program).time(models, FEEDS, budget_s=0)) == 2


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("os.kill(os.getpid(), 9)", "fake: its process was ended by SIGKILL and nothing was measured."),
        ("os.kill(os.getpid(), 11)", "fake: its process was ended by SIGSEGV and nothing was measured."),
        (
            "sys.stderr.write('noise\\nqemu: uncaught target signal 11\\n'); sys.exit(139)",
            "fake: its process ended with exit code 139 and nothing was measured: qemu: uncaught target signal 11",
        ),
        (
            "print('failed: out of memory'); print('Schema error: Trying to register schema x'); sys.exit(1)",
            "fake: its process ended with exit code 1 and nothing was measured: failed: out of memory",
        ),
        ("print('\\x1b[31mred')", "fake: its process ended without an answer: ?[31mred"),
        ("pass", "fake: its process ended without an answer."),
    ],
)
def test_a_worker_that_dies_is_one_line(models: list[Path], program: str, line: str) -> None:
    with pytest.raises(TargetError) as caught:
        fake(program).time(models, FEEDS, budget_s=0)
    assert str(caught.value) == line


def test_a_worker_that_hangs_is_killed_with_its_children(models: list[Path], tmp_path: Path) -> None:
    child = tmp_path / "child"
    program = (
        "import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\ntime.sleep(60)"
    )
    with pytest.raises(TargetError) as caught:
        fake(program, limit_s=2.0).time(models, FEEDS, budget_s=0)
    assert str(caught.value) == ("fake: no answer within 2 s, so its process was killed and nothing was measured.")
    assert _gone(int(child.read_text()))


def test_a_program_that_does_not_exist_is_named(models: list[Path]) -> None:
    process = Process(command=("/nowhere/python",))
    target = HostedTarget(title="fake", about="", process=lambda: process, missing=lambda: None)
    with pytest.raises(TargetError, match=r"^fake: /nowhere/python does not start: No such file or directory\.$"):
        target.time(models, FEEDS)


NONSENSE: dict[str, Any] = {
    "an answer that is no JSON": "{",
    "an answer without schema 1": {"schema": 2},
    "times of another number of models": GOOD | {"loads_ms": [[1.0]]},
    "no table of times": GOOD | {"rounds_ms": []},
    "times that are no positive numbers": GOOD | {"rounds_ms": [[1.0, 0.0]]},
    "a failure without a reason": {"schema": 1, "failed": {"model": 7, "stage": "load", "why": "x"}},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_garbage_gives_one_line_and_no_figure(models: list[Path], what: str) -> None:
    with pytest.raises(TargetError) as caught:
        answering(NONSENSE[what]).time(models, FEEDS, budget_s=0)
    assert str(caught.value) == f"fake: its process gave {what}; nothing of it is used. Set the target up anew."


@pytest.mark.parametrize("value", ["1e999", "NaN", "-1.0", "true", '"1"', "null", "[1.0]"])
def test_a_time_is_a_positive_number(models: list[Path], value: str) -> None:
    text = json.dumps(GOOD).replace("4.0", value)
    with pytest.raises(TargetError, match="times that are no positive numbers"):
        answering(text).time(models, FEEDS, budget_s=0)


def test_an_answer_without_end_is_not_read(models: list[Path]) -> None:
    program = f"f = open(folder / 'answer.json', 'wb'); f.seek({MAX_ANSWER_BYTES}); f.write(b'x')"
    with pytest.raises(TargetError, match=f"an answer of more than {MAX_ANSWER_BYTES} bytes"):
        fake(program).time(models, FEEDS, budget_s=0)


def test_a_model_that_is_refused_is_named_with_its_place(models: list[Path]) -> None:
    failed = {"model": 1, "stage": "load", "why": "[ONNXRuntimeError] : 10 : INVALID_GRAPH : no kernel\nmore"}
    with pytest.raises(TargetError) as caught:
        answering({"schema": 1, "failed": failed}).time(models, FEEDS, budget_s=0)
    assert str(caught.value) == "b.onnx: fake refuses the model: no kernel"
    assert caught.value.model == 1


def counting(lines: str) -> HostedTarget:
    # The emulator writes the counts to a file that is named in the command.
    text = f"import sys, pathlib\nfolder = pathlib.Path(sys.argv[2])\npathlib.Path(sys.argv[1]).write_text({lines!r})\n"
    text += "(folder / 'answer.json').write_text('{\"schema\": 1}')"
    process = Process(command=(sys.executable, "-c", text, "{counts}"), counted=True)
    return HostedTarget(title="fake", about="", process=lambda: process, missing=lambda: None, figures="instructions")


def test_counted_instructions_are_no_milliseconds(models: list[Path]) -> None:
    # Two rounds of two models: 100 and 50 instructions, 102 and 51.
    first, second = counting("10\n110\n110\n160\n160\n262\n262\n313\n").time(models, FEEDS)
    assert (first.instructions, second.instructions) == (101.0, 50.5)
    assert second.speedup.ratio == 2.0
    assert np.isnan(second.latency_ms.median)
    assert np.isnan(second.load_ms)
    assert second.to_json().keys() == {"instructions", "speedup"}


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("", "0 counts of instructions for runs of 2 models"),
        ("1\n2\n3\n", "3 counts of instructions for runs of 2 models"),
        ("1\n2\nx\n4\n", "counts of instructions that are no numbers"),
        ("9\n2\n3\n4\n", "counts of instructions that fall"),
        ("1\n1\n3\n4\n", "runs of no instructions"),
    ],
)
def test_counts_that_make_no_sense_give_no_figure(models: list[Path], lines: str, what: str) -> None:
    with pytest.raises(TargetError) as caught:
        counting(lines).time(models, FEEDS)
    assert str(caught.value) == f"fake: its process gave {what}; nothing of it is used. Set the target up anew."


def told(outputs: object) -> str:
    return f"(folder / 'answer.json').write_text({json.dumps({'schema': 1, 'outputs': outputs})!r})"


@pytest.mark.parametrize(
    "program",
    [
        told([["y"]]),
        told([[3], []]),
        f"(folder / 'outputs-0.npz').write_text('no archive')\n{told([['y'], []])}",
        f"import numpy\nnumpy.savez(folder / 'outputs-0.npz', **{{'5': numpy.ones(2)}})\n{told([['y'], []])}",
        f"import numpy\nnumpy.savez(folder / 'outputs-0.npz', **{{'0': numpy.array([{{}}])}})\n{told([['y'], []])}",
    ],
)
def test_outputs_that_make_no_sense_are_not_used(models: list[Path], program: str) -> None:
    with pytest.raises(TargetError, match="nothing of it is used"):
        fake(program).run(models, FEEDS)


@pytest.mark.parametrize(
    "nodes", [None, [], [[]], [[], [[["CPU", "Add", ""]]]], [[], [["CPU"]]], [[[[1, 2, 3, 4]]], []]]
)
def test_a_map_that_makes_no_sense_is_not_used(models: list[Path], nodes: Any) -> None:
    with pytest.raises(TargetError, match="nothing of it is used"):
        answering({"schema": 1, "nodes": nodes}).place(models, FEEDS)


def test_the_environment_of_the_caller_stays_outside(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PRIVATE", "1")
    answer = f"(folder / 'answer.json').write_text({json.dumps(GOOD)!r})"
    program = f"assert not {{'PYTHONPATH', 'PRIVATE'}} & set(os.environ)\n{answer}"
    assert fake(program).time(models, FEEDS, budget_s=0)
    assert os.environ["PRIVATE"] == "1"
