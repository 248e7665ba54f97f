"""What a loaded model takes in memory, measured in a small process of its own.

    python -m onnxprune.targets.residence MODEL FEEDS.npz THREADS

The kernel's own peak of a child process counts what its parent held before it began; the child therefore reads its own
status instead. What the allocator keeps for reuse is given back before the resident size is read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from onnxprune.runtime import Feeds
from onnxprune.targets.process import save_feeds
from onnxprune.targets.worker import read_feeds

_STATUS = Path("/proc/self/status")
_LOADS = 3
_TIMEOUT_S = 600
_HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Residence:
    """One model file in memory.

    Attributes:
        load_ms: median of three sessions.
        resident_bytes: of a session that has run once, beyond the bare runtime.
        peak_bytes: most that was resident until then, beyond the bare runtime.
    """

    load_ms: float
    resident_bytes: int
    peak_bytes: int


def measure_residence(path: Path, feeds: Feeds, *, threads: int = 1) -> Residence | None:
    """What a model takes in memory once it is loaded and has run; None where the system does not tell."""
    if not _STATUS.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        stored = Path(folder) / "feeds.npz"
        save_feeds(stored, feeds)
        # Not from the folder that the user works in: a file there may have the name of a package.
        command = [sys.executable, "-P", "-m", "onnxprune.targets.residence", str(path), str(stored), str(threads)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=_environment()
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    if done.returncode != 0:
        return None
    return Residence(**json.loads(done.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    """This process' own, with the folder that this package was imported from."""
    known = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(_HERE), *([known] if known else [])])}


def _read(name: str) -> int:
    """Bytes of an entry of this process' status."""
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _give_back() -> None:
    """Let the C library return what it keeps, where it is one that can."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _measured(path: str, feeds: str, threads: int) -> Residence:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4

    def load() -> ort.InferenceSession:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    inputs = read_feeds(Path(feeds))
    bare = _read("VmRSS")
    start = time.perf_counter()
    session = load()
    loads_ms = [(time.perf_counter() - start) * 1000]
    session.run(None, inputs)
    peak = _read("VmHWM")
    _give_back()
    resident = _read("VmRSS")
    del session
    for _ in range(_LOADS - 1):
        start = time.perf_counter()
        load()
        loads_ms.append((time.perf_counter() - start) * 1000)
    return Residence(
        load_ms=float(np.median(loads_ms)), resident_bytes=max(resident - bare, 0), peak_bytes=max(peak - bare, 0)
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measured(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
