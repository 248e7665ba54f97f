"""Runs and times models in alternation: one source for this process and for every other one.

As a program (`python worker.py FOLDER`) it reads `job.json` there and writes `answer.json`; it needs nothing but
Python 3.11, numpy and onnxruntime 1.21 to 1.31, and so runs on this machine, in a folder with a Python of its own, and
under an emulator. Its job names models with feeds, providers, session options and a task:

    time    rounds in milliseconds, or with "clock": "marker" a marker system call around each run
    run     outputs of one run each, in outputs-N.npz
    place   which node runs on which provider, from the runtime's assignment or its profile
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

SCHEMA = 1
LOADS = 3
# Loads beyond the first stop here: what remains of a time limit belongs to the runs.
LOADS_BUDGET_S = 3.0
# The rival leaves cold caches behind. Two models of a few matrix products, .06 and .01 ms, measured 5.2 apart when
# each warmed up again before its turn, as when it runs on its own, and 3.2 without; at 30 ms nothing was left of it.
REWARMED_BELOW_MS = 50.0
# No kernel knows this system call; the instruction counter of benchmarks/targets watches for it.
MARKER = 0x6F70
_FATAL = 4
_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

Rounds = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Sessions = list[ort.InferenceSession]


class Failed(Exception):  # noqa: N818 - carried over as an answer
    """A model does not load or run: which, where and why."""

    def __init__(self, model: int, stage: str, why: str) -> None:
        super().__init__(why)
        self.model, self.stage, self.why = model, stage, why


def open_model(path: str, job: Mapping[str, Any]) -> ort.InferenceSession:
    """A session as the job asks for it, without any silent way back to another provider.

    Raises:
        RuntimeError: the runtime has left a provider out.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[job.get("level", "all")]
    options.intra_op_num_threads = int(job.get("threads", 1))
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.enable_cpu_mem_arena = bool(job.get("arena", True))
    options.enable_mem_pattern = bool(job.get("pattern", True))
    for key, value in job.get("config", {}).items():
        options.add_session_config_entry(key, value)
    if job.get("profile"):
        options.enable_profiling = True
        options.profile_file_prefix = job["profile"]
    wanted = [(name, dict(settings)) for name, settings in job["providers"]]
    session = ort.InferenceSession(path, options, providers=wanted, enable_fallback=0)
    missing = [name for name, _ in wanted if name not in session.get_providers()]
    if missing:
        raise RuntimeError(f"the session silently left out {', '.join(missing)}")
    return session


def load_models(paths: Sequence[str], job: Mapping[str, Any]) -> tuple[Sessions, list[list[float]]]:
    """Sessions, and the milliseconds that it took to make them, a few times over."""
    sessions: list[ort.InferenceSession | None] = [None] * len(paths)
    loads_ms: list[list[float]] = [[] for _ in paths]
    start = time.perf_counter()
    for repeat in range(int(job.get("loads", LOADS))):
        if repeat and time.perf_counter() - start > LOADS_BUDGET_S:
            break
        for at, path in enumerate(paths):
            # The old session goes first, or two copies of the weights would be alive.
            sessions[at] = None
            before = time.perf_counter_ns()
            with _as_failure(at, "load"):
                # Each model may have settings of its own.
                sessions[at] = open_model(path, {**job, **job["each"][at]} if "each" in job else job)
            loads_ms[at].append((time.perf_counter_ns() - before) / 1e6)
    return [session for session in sessions if session is not None], loads_ms


def time_sessions(sessions: Sessions, feeds: Sequence[Mapping[str, Any]], job: Mapping[str, Any]) -> Rounds:
    """Milliseconds of alternated runs, [rounds, models]."""
    runs = [_runner(at, session, own) for at, (session, own) in enumerate(zip(sessions, feeds, strict=True))]
    fastest_ms = [min(clocked(run) for _ in range(max(int(job.get("warmup", 3)), 1))) for run in runs]
    with _pinned(), _uncollected():
        return _alternate(
            runs,
            rewarm=max(fastest_ms) < REWARMED_BELOW_MS,
            budget_s=float(job["budget_s"]),
            min_runs=int(job["min_runs"]),
            max_runs=int(job["max_runs"]),
        )


def _runner(at: int, session: ort.InferenceSession, feeds: Mapping[str, Any]) -> Callable[[], object]:
    def run() -> object:
        with _as_failure(at, "run"):
            return session.run(None, feeds)

    return run


@contextmanager
def _as_failure(at: int, stage: str) -> Iterator[None]:
    try:
        yield
    except Failed:
        raise
    except Exception as error:  # onnxruntime's errors share no base class
        raise Failed(at, stage, str(error) or type(error).__name__) from error


def _alternate(
    runs: Sequence[Callable[[], object]], *, rewarm: bool, budget_s: float, min_runs: int, max_runs: int
) -> Rounds:
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < max_runs and (len(rounds) < min_runs or time.perf_counter() - start < budget_s):
        taken = [0.0] * len(runs)
        for at in order(len(runs), len(rounds)):
            if rewarm:
                runs[at]()
            taken[at] = clocked(runs[at])
        rounds.append(taken)
    return np.array(rounds, np.float64)


def clocked(run: Callable[[], object]) -> float:
    """Milliseconds of one run."""
    before = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - before) / 1e6


def order(models: int, turn: int) -> list[int]:
    """Rotated every second round and reversed in between, so that no model always follows the same other one."""
    turns = [(at + turn // 2) % models for at in range(models)]
    return turns[::-1] if turn % 2 else turns


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


def mark_runs(sessions: Sessions, feeds: Sequence[Mapping[str, Any]], rounds: int) -> None:
    """A marker before and after each run, after one unmarked run of each model; an emulator counts in between."""
    import ctypes

    call = ctypes.CDLL(None).syscall
    runs = [_runner(at, session, own) for at, (session, own) in enumerate(zip(sessions, feeds, strict=True))]
    for run in runs:
        run()
    with _uncollected():
        for _ in range(rounds):
            for run in runs:
                call(MARKER)
                run()
                call(MARKER)


def place_nodes(
    at: int, path: str, feeds: Mapping[str, Any], job: Mapping[str, Any], folder: Path
) -> list[list[list[str]]]:
    """Nodes as [provider, operator, domain, name], in groups that a provider takes as one."""
    asked = {**job, "config": {**job.get("config", {}), "session.record_ep_graph_assignment_info": "1"}}
    if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        groups = open_model(path, asked).get_provider_graph_assignment_info()
        return [
            [[group.ep_name, node.op_type, node.domain, node.name] for node in group.get_nodes()] for group in groups
        ]
    session = open_model(path, {**job, "profile": str(folder / "profile")})
    with _as_failure(at, "run"):
        session.run(None, feeds)
    profile = Path(session.end_profiling())
    try:
        events = json.loads(profile.read_text(encoding="utf-8"))
    finally:
        profile.unlink(missing_ok=True)
    return profiled_nodes(events)


def profiled_nodes(events: Sequence[Mapping[str, Any]]) -> list[list[list[str]]]:
    """Each node that a profile saw once, in the order of execution, neighbours on one provider as a group."""
    groups: list[list[list[str]]] = []
    seen: set[str] = set()
    for event in events:
        name, args = str(event.get("name", "")), event.get("args", {})
        if event.get("cat") != "Node" or not name.endswith("_kernel_time") or name in seen:
            continue
        seen.add(name)
        node = [str(args.get("provider")), str(args.get("op_name")), "", name.removesuffix("_kernel_time")]
        if groups and groups[-1][-1][0] == node[0]:
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def perform(job: Mapping[str, Any], feeds: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The answer to a job.

    Args:
        job: see the module; `models` holds the paths.
        feeds: of each model.
        folder: for a profile, where one is needed.

    Raises:
        Failed: a model does not load or run.
    """
    paths = job["models"]
    if job["task"] == "time":
        sessions, loads_ms = load_models(paths, job)
        if job.get("clock") == "marker":
            mark_runs(sessions, feeds, int(job["min_runs"]))
            return {}
        return {"loads_ms": loads_ms, "rounds_ms": time_sessions(sessions, feeds, job).tolist()}
    if job["task"] == "run":
        return {"outputs": [run_model(at, path, feeds[at], job) for at, path in enumerate(paths)]}
    placed = []
    for at, path in enumerate(paths):
        with _as_failure(at, "load"):
            placed.append(place_nodes(at, path, feeds[at], job, folder))
    return {"nodes": placed}


def run_model(at: int, path: str, feeds: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by name, those that are arrays of numbers."""
    with _as_failure(at, "load"):
        session = open_model(path, job)
    with _as_failure(at, "run"):
        values = session.run(None, feeds)
    named = zip([value.name for value in session.get_outputs()], values, strict=True)
    return {name: value for name, value in named if isinstance(value, np.ndarray) and not value.dtype.hasobject}


def main(folder: Path) -> None:
    """Read the job, write the answer; a failure is an answer too."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    try:
        feeds = [read_feeds(folder / f"feeds-{at}.npz") for at in range(len(job["models"]))]
        answer = perform(job, feeds, folder)
    except Failed as failure:
        answer = {"failed": {"model": failure.model, "stage": failure.stage, "why": failure.why}}
    for at, outputs in enumerate(answer.get("outputs", [])):
        np.savez(folder / f"outputs-{at}.npz", **{str(slot): value for slot, value in enumerate(outputs.values())})
    if "outputs" in answer:
        answer["outputs"] = [list(outputs) for outputs in answer["outputs"]]
    part = folder / "answer.part"
    part.write_text(json.dumps({"schema": SCHEMA, "onnxruntime": ort.__version__, **answer}), encoding="utf-8")
    part.rename(folder / "answer.json")


def read_feeds(path: Path) -> dict[str, Any]:
    """Inputs by name, as the parent has saved them."""
    with np.load(path, allow_pickle=False) as archive:
        names = json.loads(str(archive["names"]))
        return {name: archive[str(at)] for at, name in enumerate(names)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
