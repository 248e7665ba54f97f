"""A cluster joined: a Dask scheduler's, or one of processes of this machine; checked before anything long begins."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnxprune.cluster.clocks import Elsewhere
from onnxprune.cluster.crew import Cluster
from onnxprune.cluster.helping import Helpers
from onnxprune.cluster.lending import Lender
from onnxprune.errors import MissingDependencyError, OptionError, OutputError, TargetError
from onnxprune.model import data_files, digest, load
from onnxprune.progress import Progress
from onnxprune.resuming import code
from onnxprune.sharing import shared_by
from onnxprune.targets.machine import machine
from onnxprune.targets.target import parse_target
from onnxprune.targets.together import together
from onnxprune.trials import Job

LOCAL = "local"
MAX_WORKERS = 256
# Seconds until a scheduler must have answered, and until a worker must have joined.
_ANSWER_S = 15.0
_PATIENCE_S = 5.0


@contextmanager
def joined(
    job: Job, scheduler: str, workers: int | None, output: Path, progress: Progress = lambda _: None
) -> Iterator[Cluster]:
    """A cluster that can do a sweep's trials, checked before anything long begins.

    Args:
        job: what all trials have in common.
        scheduler: its address, or `local` for processes of this machine.
        workers: of a local cluster.
        output: the folder for the plans; what trials make lies beside it meanwhile.
        progress: told what is waited for.

    Raises:
        MissingDependencyError: dask.distributed is not installed.
        OptionError: no scheduler answers, or its workers cannot do the job.
        TargetError: no worker carries the target's tag.
        OutputError: no folder can be made beside the plans.
    """
    _require_dask()
    load(Path(job.model))
    tag = together([parse_target(job.target)]).name
    job = _everywhere(job)
    with _begun(scheduler, workers, tag, output, progress) as (client, scratch):
        place, solvers = _parts(client, job, scheduler, tag, scratch)
        yield Cluster(client, job, Path(scratch), place, solvers)


@contextmanager
def helped(
    model: Path, scheduler: str, workers: int | None, output: Path, progress: Progress = lambda _: None
) -> Iterator[Helpers]:
    """Workers that solve layers of one model, checked before anything long begins; the clock is not theirs.

    Args:
        model: the file that all of them must see.
        scheduler: as for `joined`.
        workers: likewise.
        output: what they need and make lies beside it meanwhile.
        progress: told what is waited for, and each layer that is solved.

    Raises:
        MissingDependencyError, OptionError, OutputError: as for `joined`.
    """
    _require_dask()
    path = model.resolve()
    load(path)
    with _begun(scheduler, workers, None, output, progress) as (client, scratch):
        found = _looked_at(client, str(path), scheduler)
        resources = {address: one["resources"] for address, one in _workers(client).items() if address in found}
        # Whoever keeps a clock for others is not disturbed.
        free = tuple(address for address, held in resources.items() if not held)
        lender = Lender(Path(scratch), "lent", known=[path, *data_files(path)])
        yield Helpers(client, Path(scratch), lender, free, progress=progress)


@contextmanager
def shared_out(
    model: Path, scheduler: str | None, workers: int | None, output: Path, progress: Progress = lambda _: None
) -> Iterator[None]:
    """A block whose layers are solved by the workers of a cluster, where one is named; as `helped`."""
    if scheduler is None:
        refuse_workers_alone(workers)
        yield
        return
    with helped(model, scheduler, workers, output, progress) as crew, shared_by(crew):
        yield


def refuse_workers_alone(workers: int | None) -> None:
    """Refuse a number of processes that nobody begins.

    Raises:
        OptionError: it is given without a scheduler.
    """
    if workers is not None:
        raise OptionError("--workers is how many processes --scheduler local begins. Give that, too.")


def _require_dask() -> None:
    if find_spec("distributed") is None:
        raise MissingDependencyError(
            "--scheduler needs dask.distributed. Install it: pip install 'onnxprune[cluster]'."
        )


@contextmanager
def _begun(
    scheduler: str, workers: int | None, tag: str | None, output: Path, progress: Progress
) -> Iterator[tuple[Any, str]]:
    """A client, and a folder that all share."""
    progress(f"join {scheduler}")
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent.resolve())
    except OSError as error:
        raise OutputError(
            f"{output.parent}: cannot be written: {error.strerror or error}. Choose another place with --output."
        ) from error
    with folder as scratch, _client(scheduler, workers, tag) as client:
        yield client, scratch


def _parts(client: Any, job: Job, scheduler: str, tag: str, folder: str) -> tuple[Elsewhere, tuple[str, ...]]:
    """Who times, and who does trials; no one in particular where all may time.

    Raises:
        OptionError: the workers cannot do the job.
        TargetError: none may time.
    """
    found = _looked_at(client, job.model, scheduler)
    resources = {address: one["resources"] for address, one in _workers(client).items() if address in found}
    clocks = [address for address, held in resources.items() if held.get(tag)]
    if not clocks:
        raise TargetError(
            f"{scheduler}: no worker carries the tag {tag!r}, and only such a one may time. "
            f"Start one: dask worker {client.scheduler.address} --nthreads 1 --resources '{tag}=1'."
        )
    for address in clocks:
        if resources[address][tag] != 1:
            raise OptionError(
                f"{address}: carries {tag}={resources[address][tag]:g}; one clock runs at a time, so it must be 1."
            )
    if len({found[address] for address in clocks}) > 1:
        kinds = "; ".join(f"{address}: {found[address]}" for address in clocks)
        raise OptionError(f"Milliseconds of different machines do not compare ({kinds}). Tag workers of one kind.")
    solvers = tuple(address for address in resources if address not in clocks)
    return Elsewhere(tag, folder, (job.model,), found[clocks[0]]), solvers


def _everywhere(job: Job) -> Job:
    """The job with paths that hold in every folder; functions are named as they are."""
    data = Path(job.data)
    return replace(job, model=str(Path(job.model).resolve()), data=str(data.resolve()) if data.exists() else job.data)


@contextmanager
def _client(scheduler: str, workers: int | None, tag: str | None) -> Iterator[Any]:
    from distributed import Client

    if scheduler == LOCAL:
        with local(workers, tag) as cluster, Client(cluster) as client:
            yield client
        return
    if workers is not None:
        raise OptionError("--workers is how many processes --scheduler local begins. A cluster brings its own.")
    try:
        client = Client(scheduler, timeout=_ANSWER_S)
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(
            f"--scheduler {scheduler}: no scheduler answers there. Start one with dask scheduler, or say local."
        ) from error
    with client:
        yield client


@contextmanager
def local(workers: int | None, tag: str | None) -> Iterator[Any]:
    """A scheduler, so many workers for trials, and where a tag is named one that keeps the clock."""
    from distributed import Nanny, Scheduler, SpecCluster

    count = max(1, (os.cpu_count() or 2) - 1) if workers is None else workers
    if not 1 <= count <= MAX_WORKERS:
        raise OptionError(f"--workers must be from 1 to {MAX_WORKERS}, got {count}.")
    plain = {"nthreads": 1, "memory_limit": 0, "host": "127.0.0.1", "silence_logs": logging.CRITICAL}
    spec = {f"solver-{at}": {"cls": Nanny, "options": dict(plain)} for at in range(count)}
    if tag is not None:
        spec["clock"] = {"cls": Nanny, "options": {**plain, "resources": {tag: 1}}}
    # Dask's own server, too, is for this machine alone, and takes any port that is free.
    board = {"dashboard": False, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0}
    try:
        begun = SpecCluster(
            workers=spec, scheduler={"cls": Scheduler, "options": board}, silence_logs=logging.CRITICAL
        )  # fmt: skip
    except RuntimeError as error:
        raise OptionError(
            f"--scheduler local: its processes do not start ({error}). They import the script that begins them, so "
            'what it does must stand below if __name__ == "__main__".'
        ) from error
    with begun as cluster:
        yield cluster


def _workers(client: Any) -> dict[str, Any]:
    """What the scheduler knows of each worker, by address."""
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def _looked_at(client: Any, model: str, scheduler: str) -> dict[str, str]:
    """The machine of each worker, all of which read the same model with the same code.

    Raises:
        OptionError: there is no worker, or one that cannot do the job.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while not _workers(client):
        if time.monotonic() > deadline:
            raise OptionError(
                f"{scheduler}: no worker has joined. Start one: dask worker {client.scheduler.address} --nthreads 1."
            )
        time.sleep(0.1)
    own = digest(Path(model))
    machines = {}
    for address, said in client.run(_look, model, on_error="return").items():
        if isinstance(said, Exception):
            raise OptionError(
                f"{address}: cannot run onnxprune ({type(said).__name__}: {said}). "
                "Install the same version on every worker."
            )
        seen, version, where = said
        if seen is None or seen != own:
            raise OptionError(
                f"{address}: {model} {'cannot be read' if seen is None else 'is another file'} there. "
                "Put it on storage that all workers share."
            )
        if version != code():
            raise OptionError(f"{address}: runs another version of onnxprune. Install the same one on every worker.")
        machines[address] = where
    return machines


def _look(model: str) -> tuple[str | None, str, str]:
    path = Path(model)
    return digest(path) if path.is_file() else None, code(), machine()
