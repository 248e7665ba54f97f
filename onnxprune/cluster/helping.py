"""Workers that solve layers: weights are read from the model's file, moments and results lie on shared storage."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

from onnxprune.cluster.clocks import RETRIES
from onnxprune.cluster.lending import Lender, Lent
from onnxprune.errors import Declined, OptionError
from onnxprune.progress import Progress, Turn

# After which it is asked whether those who should answer are still there.
_PATIENCE_S = 10.0

W = TypeVar("W")
R = TypeVar("R")


@dataclass(eq=False)
class Helpers:
    """Workers of a cluster that do what `sharing.begin` is given.

    Attributes:
        folder: on storage that all share.
        lender: of what they need.
        addresses: of those that it goes to as long as they live; empty for all.
        alone: no others take it then, since they have trials of their own; it is done here.
        progress: told each piece that is done.
    """

    client: Any
    folder: Path
    lender: Lender
    addresses: tuple[str, ...]
    alone: bool = False
    progress: Progress = lambda _: None
    _count: count[int] = field(default_factory=lambda: count(1))
    _begun: int = 0
    _done: int = 0

    def begin(self, function: Callable[[W], R], work: W) -> Callable[[], R]:
        """Have a worker do it; what comes back waits for the result.

        Raises:
            OutputError: the shared folder is full.
        """
        lent, held = self.lender.lend(work)
        name = f"{function.__name__}-{next(self._count)}-{self.lender.name}-{self.folder.name}"
        future = self.client.submit(
            _done, function, lent, str(self.folder), name, key=name, retries=RETRIES, pure=False,
            workers=list(self.addresses) or None, allow_other_workers=bool(self.addresses) and not self.alone,
        )  # fmt: skip
        self._begun += 1
        here = partial(_done, function, lent, str(self.folder), name) if self.alone else None
        return partial(self._result, future, held, here)

    def _result(self, future: Any, held: object, here: Callable[[], Lent | str] | None) -> Any:
        """What came of it; `here` does it where nobody is left who may."""
        from distributed import KilledWorker

        where = self.client.scheduler.address
        try:
            while here is not None and not future.done() and self._live():
                _wait(future)
            found = future.result() if here is None or future.done() else here()
        except CancelledError as error:
            raise OptionError(
                f"{where}: the scheduler went away before all layers were solved. "
                "Begin again: what is in the cache is taken over."
            ) from error
        except KilledWorker as error:
            raise OptionError(
                f"{where}: {error.allowed_failures + 1} workers that tried to solve one layer died. "
                "Give them more memory, or begin again without --scheduler."
            ) from error
        del held
        self._done += 1
        self.progress(Turn(f"solved on {where}", self._done, self._begun, kind="solved"))
        if isinstance(found, str):
            raise Declined(found)
        return cast("Lent", found).value()

    def _live(self) -> bool:
        """Whether one of those that it goes to is left."""
        return not set(self.addresses).isdisjoint(self.client.scheduler_info(n_workers=-1)["workers"])


def _wait(future: Any) -> None:
    """Wait for a result, but not for ever."""
    from distributed import TimeoutError as Late
    from distributed import wait

    with suppress(Late):
        wait(future, timeout=_PATIENCE_S)


def _done(function: Callable[[Any], Any], lent: Lent, folder: str, name: str) -> Lent | str:
    """A piece of work on a worker; the reason where it is declined."""
    try:
        found = function(lent.value())
    except Declined as reason:
        return str(reason)
    # Where a worker is believed dead and is not, two do the same.
    lender = Lender(Path(folder), f"{name}-{uuid.uuid4().hex[:12]}", lasting=True)
    return lender.lend(found)[0]
