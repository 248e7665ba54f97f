"""Run a command and say how long it took and how much memory it held at its peak.

    python -m benchmarks.measure COMMAND [ARGUMENT ...]

Standard library only, see `measure`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a finished command cost and said.

    Attributes:
        seconds: wall time.
        cpu_seconds: user and system time of the process and those of its children that it waited for.
        peak_mb: largest resident set of the process itself, in 10^6 bytes.
        anonymous_mb: most of it that lay in memory alone, looked at every few milliseconds.
        mapped_mb: most of it that was mapped from files, looked at as often; the system may drop such pages.
        exit_code: negative for a signal, 124 for a command ended at its time limit, 127 for one that did not start.
        stdout, stderr: its output.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    exit_code: int
    stdout: str
    stderr: str
    anonymous_mb: float = 0.0
    mapped_mb: float = 0.0


def measure(command: Sequence[str | Path], timeout: float = 600) -> Measured:
    """Run `command` to its end, or end it after `timeout` seconds, and return what it cost.

    A process begins as an image of its parent, and Linux lets the parent's resident set count towards the child's
    peak. So a fresh small Python starts the command, which keeps the floor at about 15 MB whoever calls.
    """
    starter = [sys.executable, "-I", __file__, "--json", str(timeout), *map(str, command)]
    done = subprocess.run(starter, capture_output=True, text=True, check=True)
    return Measured(**json.loads(done.stdout))


def _measure(command: Sequence[str], timeout: float) -> Measured:
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        started = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=out, stderr=err)
        except OSError as error:
            return Measured(seconds=0, cpu_seconds=0, peak_mb=0, exit_code=127, stdout="", stderr=str(error))
        late = False
        held = {"RssAnon:": 0, "RssFile:": 0}
        # wait4 gives this child's own peak; RUSAGE_CHILDREN would give the largest of all children.
        while not (waited := os.wait4(process.pid, os.WNOHANG))[0]:
            if not late and time.perf_counter() - started > timeout:
                late = True
                process.kill()
            _look(process.pid, held)
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
            anonymous_mb=held["RssAnon:"] * 1024 / 1e6,
            mapped_mb=held["RssFile:"] * 1024 / 1e6,
        )


def _look(pid: int, most: dict[str, int]) -> None:
    """Raise the largest KiB of each kind of resident memory that a process was seen with."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, _, rest = line.partition("\t")
        if name in most:
            most[name] = max(most[name], int(rest.split()[0]))


def main(arguments: list[str]) -> int:
    """Run the command, pass on its output and print its cost on stderr; after `--json SECONDS`, all as JSON."""
    if arguments[:1] == ["--json"]:
        print(json.dumps(asdict(_measure(arguments[2:], float(arguments[1])))))
        return 0
    done = measure(arguments)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    print(
        f"{done.seconds:.2f} s, {done.cpu_seconds:.2f} CPU s, peak {done.peak_mb:.0f} MB, of it in memory alone "
        f"{done.anonymous_mb:.0f} MB at most, mapped from files {done.mapped_mb:.0f} MB at most",
        file=sys.stderr,
    )
    return done.exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
