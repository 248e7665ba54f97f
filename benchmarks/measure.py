"""Run a command and say how long it took and how much memory it held at its peak.

python -m benchmarks.measure COMMAND [ARGUMENT ...]
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a finished command cost and said.

    Attributes:
        seconds: wall time.
        cpu_seconds: user and system time of the process and its children.
        peak_mb: largest resident set, in 10^6 bytes, of the process itself.
        exit_code: negative for a signal, 124 for a command ended at its time limit.
        stdout, stderr: its output.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    exit_code: int
    stdout: str
    stderr: str


def measure(command: Sequence[str | Path], timeout: float = 600) -> Measured:
    """Run `command` to its end, or end it after `timeout` seconds, and return what it cost."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        late = False
        # wait4 alone gives the child's own peak: RUSAGE_CHILDREN would give the largest of all children so far.
        while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
            if not late and time.perf_counter() - started > timeout:
                late = True
                process.kill()
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        _, status, usage = waited
        # Popen must learn that its child is gone, or it would wait for it again.
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Measured(
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            # Linux counts in KiB.
            peak_mb=usage.ru_maxrss * 1024 / 1e6,
            exit_code=124 if late else process.returncode,
            stdout=out.read(),
            stderr=err.read(),
        )


def main(command: list[str]) -> int:
    """Run the command, pass on its output, print its cost on stderr."""
    done = measure(command)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    print(f"{done.seconds:.2f} s, {done.cpu_seconds:.2f} CPU s, peak {done.peak_mb:.0f} MB", file=sys.stderr)
    return done.exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
