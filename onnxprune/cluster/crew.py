"""Workers that do trials."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.cluster.clocks import RETRIES, Elsewhere
from onnxprune.cluster.helping import Helpers
from onnxprune.cluster.lending import Lender
from onnxprune.errors import OptionError
from onnxprune.model import data_files
from onnxprune.progress import Progress, Turn
from onnxprune.sharing import shared_by
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

        # Where there are more of them than trials, the others solve layers for those that have one.
        hands, spare = self.solvers[: len(trials)], self.solvers[len(trials) :]
        futures = {
            self.client.submit(
                _carry_out, self.job, trial, str(self.folder), self.place, spare,
                key=f"{trial.name}-{self.folder.name}", retries=RETRIES, pure=False,
                workers=list(hands) or None, allow_other_workers=bool(hands),
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


def _carry_out(job: Job, trial: Trial, folder: str, place: Elsewhere, spare: tuple[str, ...] = ()) -> Tried:
    """One trial on a worker, its layers solved by those to `spare`, who have no trial.

    A process does one at a time, however many threads Dask gives it.
    """
    with _TRIAL, shared_by(_helpers(job, trial, folder, spare)):
        return carry_out(job, trial, folder, place)


def _helpers(job: Job, trial: Trial, folder: str, spare: tuple[str, ...]) -> Helpers | None:
    """Those who solve this trial's layers; nobody where this worker is one of them, as others wait for it then."""
    if not spare:
        return None
    from distributed import get_client, get_worker

    if get_worker().address in spare:
        return None
    model = Path(job.model)
    name = f"lent-{trial.name}-{uuid.uuid4().hex[:12]}"
    lender = Lender(Path(folder), name, known=[model, *data_files(model)])
    return Helpers(get_client(), Path(folder), lender, spare, alone=True)
