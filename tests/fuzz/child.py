"""The command line in a process of its own: what crashes or hangs the runtime must not take the tests with it."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Seconds of a processor that one case may take, and how much memory: a file of a few kilobytes that asks for more is an
# attack. On a machine that does other things it takes that many times longer at most.
LIMIT_S = 60
_PATIENCE = 20
LIMIT_BYTES = 6 << 30
_CHILD = f"""
import json, resource, sys, traceback
from click.testing import CliRunner
from onnxprune import pipeline
from onnxprune.cli import main

resource.setrlimit(resource.RLIMIT_AS, ({LIMIT_BYTES}, {LIMIT_BYTES}))
pipeline.TIMING_S = 0.01
for line in sys.stdin:
    result = CliRunner().invoke(main, json.loads(line))
    error = result.exception
    trace = "" if error is None or isinstance(error, SystemExit) else "".join(traceback.format_exception(error))
    print(json.dumps([result.exit_code, trace, result.stderr]), flush=True)
"""


def _processor_s(pid: int) -> float:
    """Seconds of processor time that a process has had; without limit where the system does not say."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Answer:
    """How a command ended: its exit code, what it wrote to stderr, and a traceback where it let one out."""

    code: int
    stderr: str
    trace: str = ""


class Child:
    """Runs commands one after another; started anew when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, arguments: Sequence[str]) -> Answer:
        """One command."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(arguments)) + "\n")
        self._process.stdin.flush()
        began = _processor_s(self._process.pid)
        ready: list[Any] = []
        for _ in range(_PATIENCE):
            ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_S)
            if ready or _processor_s(self._process.pid) - began > LIMIT_S:
                break
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.close()
            return Answer(-1, "", "it died" if ready else f"it took more than {LIMIT_S} s")
        code, trace, stderr = json.loads(line)
        return Answer(code, stderr, trace)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._process = None
