"""A target on those workers of a cluster that carry its tag: one clock a worker, however many threads it has."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from onnxprune.model import data_files
from onnxprune.runtime import Feeds
from onnxprune.targets.target import Timer, parse_target
from onnxprune.targets.timing import Timed
from onnxprune.targets.together import signs_of, together

# Dask's own retries of a task that failed for no fault of the input.
RETRIES = 2
# Timings wait for nothing: whole trials wait for them.
_PRIORITY = 10
_CLOCK = threading.Lock()


@dataclass(frozen=True)
class Elsewhere:
    """A target on those workers of a cluster that carry its tag.

    Attributes:
        tag: the target's name, the resource of the workers that may time.
        folder: on storage that all share.
        known: paths that every worker can read as they are.
        machine: what milliseconds hold for there.
    """

    tag: str
    folder: str
    known: tuple[str, ...]
    machine: str

    @property
    def target(self) -> Timer:
        """What times there; here it only says what it is like."""
        return together([parse_target(self.tag)])

    @property
    def name(self) -> str:
        """As the user writes it."""
        return self.tag

    @property
    def threads(self) -> int:
        """Threads of one operator."""
        return self.target.threads

    @property
    def signs(self) -> tuple[str, ...]:
        """Types of static activations and weights that are worth a try there."""
        return signs_of(self.target)

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Each model's figures, measured by a worker with the tag: this one where it carries it.

        Raises:
            OnnxPruneError: as the target's own `time`.
        """
        if _carries(self.tag):
            return _timed(self.tag, [str(path) for path in paths], feeds, budget_s)
        from distributed import get_client

        with self._shared(paths) as names:
            future = get_client().submit(
                _timed, self.tag, names, feeds, budget_s,
                resources={self.tag: 1}, retries=RETRIES, priority=_PRIORITY, pure=False,
            )  # fmt: skip
            found: tuple[Timed, ...] = future.result()
        return found

    @contextmanager
    def _shared(self, paths: Sequence[Path]) -> Iterator[list[str]]:
        """The same files where every worker can read them."""
        with tempfile.TemporaryDirectory(prefix="timed-", dir=self.folder) as folder:
            names = []
            for at, path in enumerate(paths):
                if str(path) in self.known or path.parent == Path(self.folder):
                    names.append(str(path))
                    continue
                own = Path(folder) / str(at)
                for source in (path, *data_files(path)):
                    copy = own / source.relative_to(path.parent)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, copy)
                names.append(str(own / path.name))
            yield names


def _timed(target: str, paths: Sequence[str], feeds: Feeds, budget_s: float) -> tuple[Timed, ...]:
    """Figures of models by this process's clock."""
    with _CLOCK:
        return together([parse_target(target)]).time([Path(path) for path in paths], feeds, budget_s=budget_s)


def _carries(tag: str) -> bool:
    """Whether this process is a worker with the tag."""
    from distributed import get_worker

    try:
        return bool(get_worker().state.total_resources.get(tag))
    except ValueError:
        return False
