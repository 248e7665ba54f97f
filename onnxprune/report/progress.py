"""Progress on stderr: the stage at work, the time it takes and, where it can be known, the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from onnxprune.progress import Turn


@dataclass
class Watch:
    """What is left of the stages at work, by those of a kind that are done.

    Attributes:
        clock: seconds, monotonic.
    """

    clock: Callable[[], float] = time.monotonic
    _kinds: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)
    _stage: float = 0.0
    _now: Turn = field(default_factory=lambda: Turn(""))

    def begin(self, stage: str) -> None:
        """A stage begins, and the one before it is done."""
        turn = stage if isinstance(stage, Turn) else Turn(stage)
        self._stage = self.clock()
        if turn.at <= 1 or (turn.kind, turn.of) not in self._kinds:
            # The first of its kind; stages of other kinds may come between it and the next.
            self._kinds[turn.kind, turn.of] = self._stage, turn.at
        self._now = turn

    def left_s(self) -> float | None:
        """Seconds until the stage, or the last one of its kind, is done; None where nobody knows."""
        here = self.clock() - self._stage
        if self._now.seconds:
            return max(0.0, self._now.seconds - here)
        began, first = self._kinds.get((self._now.kind, self._now.of), (0.0, self._now.at))
        if self._now.at <= first:
            return None
        each = (self._stage - began) / (self._now.at - first)
        return max(0.0, each * (self._now.of - self._now.at + 1) - here)

    def left(self) -> str:
        """In words; empty where nobody knows."""
        seconds = self.left_s()
        if seconds is None:
            return ""
        minutes, rest = divmod(round(seconds), 60)
        return f"about {minutes} min {rest:02d} s left" if minutes else f"about {rest} s left"


@contextmanager
def stages(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function to be told each stage as it begins; silent where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    watch = Watch()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), _Left(watch))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        # Times run from here: of the whole command, that is, not of the stage.
        task = progress.add_task("")

        def tell(stage: str) -> None:
            watch.begin(stage)
            progress.update(task, description=stage.replace("[", r"\["))

        yield tell


class _Left(TextColumn):
    """What is left, asked anew each time it is drawn."""

    def __init__(self, watch: Watch) -> None:
        super().__init__("")
        self._watch = watch

    def render(self, task: object) -> Any:
        """The words of this moment."""
        from rich.text import Text

        del task
        return Text(self._watch.left(), style="progress.remaining")
