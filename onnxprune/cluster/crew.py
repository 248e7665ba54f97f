"""Workers that do trials."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.cluster.clocks import RETRIES, Elsewhere
from onnxprune.errors import OptionError
from onnxprune.progress import Progress, Turn
from onnxprune.trials import Job, Trial, Tried, carry_out

_TRIAL = threading.Lock()


@dataclass(frozen=True)
class Cluster:
    """Workers that do trials.

    Attributes:
        job: with paths that hold everywhere.
        folder: where trials write, on storage that all share.
        place: times on the workers with the tag.
        solvers: addresses of the workers that trials go to as long as they live; empty for all.
    """

    client: Any
    job: Job
    folder: Path
    place: Elsewhere
    solvers: tuple[str, ...]

    def carry_out(self, trials: Sequence[Trial], progress: Progress) -> list[Tried]:
        """What came of each, in their order; fetched as soon as it is there."""
        from distributed import KilledWorker, as_completed

        futures = {
            self.client.submit(
                _carry_out, self.job, trial, str(self.folder), self.place,
                key=f"{trial.name}-{self.folder.name}", retries=RETRIES, pure=False,
                workers=list(self.solvers) or None, allow_other_workers=bool(self.solvers),
            ): trial
            for trial in trials
        }  # fmt: skip
        found: dict[str, Tried] = {}
        progress(Turn(f"{len(trials)} trials on {self.client.scheduler.address}", 1, len(trials)))
        for future in as_completed(futures):
            trial = futures[future]
            try:
                found[trial.name] = future.result()
            except CancelledError as error:
                raise OptionError(
                    f"{self.client.scheduler.address}: the scheduler went away before all trials were done. "
                    "Begin again: what is in the cache is taken over."
                ) from error
            except KilledWorker as error:
                found[trial.name] = Tried(trial=trial, why=f"{error.allowed_failures + 1} workers that tried it died")
            if len(found) < len(trials):
                progress(Turn(f"{trial.name} is done; trials", len(found) + 1, len(trials)))
        return [found[trial.name] for trial in trials]


def _carry_out(job: Job, trial: Trial, folder: str, place: Elsewhere) -> Tried:
    """One trial on a worker; a process does one at a time, however many threads Dask gives it."""
    with _TRIAL:
        return carry_out(job, trial, folder, place)
