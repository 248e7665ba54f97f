"""Timing on this machine's processor, by onnxruntime's CPU provider."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnxruntime as ort

from onnxprune.errors import ModelError
from onnxprune.interface import interface_of
from onnxprune.runtime import Feeds, first_line
from onnxprune.targets.timing import Timed, latency, paired_ratio

LOADS = 3
# Loads beyond the first stop here: what remains of a time limit belongs to the runs.
LOADS_BUDGET_S = 3.0
# The rival leaves cold caches behind. Two models of a few matrix products, .06 and .01 ms, measured 5.2 apart when
# each warmed up again before its turn, as when it runs on its own, and 3.2 without; at 30 ms nothing was left of it.
REWARMED_BELOW_MS = 50.0
_FATAL = 4
_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class CpuTarget:
    """onnxruntime's CPU provider on this machine.

    Attributes:
        threads: of one operator; operators run one after another.
    """

    known: ClassVar[str] = "cpu:THREADS"
    kind: ClassVar[Literal["measured", "forecast"]] = "measured"
    threads: int = 1

    @property
    def name(self) -> str:
        """As the user writes it."""
        return f"cpu:{self.threads}"

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Each model's timings; see `time_models`."""
        return time_models(paths, feeds, threads=self.threads, budget_s=budget_s)


def time_models(
    paths: Sequence[Path],
    feeds: Feeds,
    *,
    threads: int = 1,
    budget_s: float = 4.0,
    min_runs: int = 11,
    max_runs: int = 500,
    warmup: int = 3,
) -> tuple[Timed, ...]:
    """Time models in alternation in this process, at the default optimization level.

    Every round times one run of each model, and the order changes from round to round, so that drift and slow spells of
    a shared machine fall on all of them alike. Models faster than `REWARMED_BELOW_MS` make an untimed run first, each
    time. Speed-ups are medians of the ratios within rounds.

    Args:
        paths: model files; the first is the one others are compared with.
        feeds: one call's inputs, given to every model.
        threads: of one operator.
        budget_s: seconds of timed rounds, after which no round begins once `min_runs` are done.
        min_runs: rounds at least.
        max_runs: rounds at most.
        warmup: runs of each model before the first round, one at least.

    Raises:
        ModelError: a model does not load, or does not run on the feeds.
    """
    # Sessions come before pinning: threads of a session inherit the processors of the thread that makes it.
    sessions, loads_ms = _load(paths, threads)
    runs: list[Callable[[], object]] = [
        _runner(session, path, feeds) for session, path in zip(sessions, paths, strict=True)
    ]
    fastest_ms = [min(_clocked(run) for _ in range(max(warmup, 1))) for run in runs]
    rewarm = max(fastest_ms) < REWARMED_BELOW_MS
    with _pinned(), _uncollected():
        rounds = _alternate(runs, rewarm=rewarm, budget_s=budget_s, min_runs=min_runs, max_runs=max_runs)
    return tuple(
        Timed(
            name=path.name,
            load_ms=float(np.median(loads_ms[at])),
            latency_ms=latency(rounds[:, at]),
            speedup=paired_ratio(rounds[:, 0], rounds[:, at]),
        )
        for at, path in enumerate(paths)
    )


def _alternate(
    runs: Sequence[Callable[[], object]], *, rewarm: bool, budget_s: float, min_runs: int, max_runs: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Milliseconds, [rounds, models]."""
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < max_runs and (len(rounds) < min_runs or time.perf_counter() - start < budget_s):
        taken = [0.0] * len(runs)
        for at in _order(len(runs), len(rounds)):
            if rewarm:
                runs[at]()
            taken[at] = _clocked(runs[at])
        rounds.append(taken)
    return np.array(rounds, np.float64)


def _clocked(run: Callable[[], object]) -> float:
    """Milliseconds of one run."""
    before = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - before) / 1e6


def _order(models: int, turn: int) -> list[int]:
    """Rotated every second round and reversed in between, so that no model always follows the same other one."""
    order = [(at + turn // 2) % models for at in range(models)]
    return order[::-1] if turn % 2 else order


def _load(paths: Sequence[Path], threads: int) -> tuple[list[ort.InferenceSession], list[list[float]]]:
    sessions: list[ort.InferenceSession | None] = [None] * len(paths)
    loads_ms: list[list[float]] = [[] for _ in paths]
    start = time.perf_counter()
    for repeat in range(LOADS):
        if repeat and time.perf_counter() - start > LOADS_BUDGET_S:
            break
        for at, path in enumerate(paths):
            # The old session goes first, or two copies of the weights would be alive.
            sessions[at] = None
            before = time.perf_counter_ns()
            sessions[at] = _open(path, threads)
            loads_ms[at].append((time.perf_counter_ns() - before) / 1e6)
    return [session for session in sessions if session is not None], loads_ms


def _open(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # Threads of a pool go on spinning after a run, and would take the processor from the model whose turn is next.
    # Within a run they spin as they do for users, which turning spinning off altogether would change.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=[_PROVIDER])
    except Exception as error:  # onnxruntime's errors share no base class
        raise ModelError(f"{path.name}: onnxruntime refuses the model: {first_line(error)}") from error


def _runner(session: ort.InferenceSession, path: Path, feeds: Feeds) -> Callable[[], object]:
    inputs = interface_of(session.get_modelmeta().custom_metadata_map).fitted(feeds)

    def run() -> object:
        try:
            return session.run(None, inputs)
        except Exception as error:  # onnxruntime's errors share no base class
            raise ModelError(f"{path.name}: onnxruntime failed while running it: {first_line(error)}") from error

    return run


@contextmanager
def _pinned() -> Iterator[None]:
    """The calling thread stays on the processor it runs on; where the system cannot pin, it roams as before."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_current_processor(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _current_processor(allowed: set[int]) -> int:
    """Where the scheduler has put this thread: it knows which processor others keep busy."""
    try:
        # Field 39 of proc(5); the second field may hold blanks, so count from its closing bracket.
        current = int(Path("/proc/thread-self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return min(allowed)
    return current if current in allowed else min(allowed)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection between the clock's readings."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
