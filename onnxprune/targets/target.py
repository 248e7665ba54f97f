"""What every target offers, and the text that names one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from onnxprune.errors import OptionError
from onnxprune.runtime import Feeds
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.timing import Timed

MAX_THREADS = 1024


class Target(Protocol):
    """A runtime with an execution provider and threads, which can run a model and time it."""

    @property
    def name(self) -> str:
        """As the user writes it, e.g. `cpu:1`."""

    @property
    def kind(self) -> Literal["measured", "forecast"]:
        """Whether its milliseconds were measured on the device or are a forecast."""

    @property
    def threads(self) -> int:
        """Threads of one operator."""

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Each model's timings on one call's feeds; the first is the one others are compared with."""


def parse_target(text: str) -> Target:
    """The target named by `cpu` (one thread) or `cpu:THREADS`.

    Raises:
        OptionError: no such target, or threads out of range.
    """
    family, colon, threads = text.partition(":")
    if family != "cpu":
        raise OptionError(f"No target named {text!r}. Known: {CpuTarget.known}.")
    if not colon:
        return CpuTarget()
    if not (threads.isascii() and threads.isdigit() and 1 <= int(threads) <= MAX_THREADS):
        raise OptionError(f"Target {text!r}: threads must be a number from 1 to {MAX_THREADS}, got {threads!r}.")
    return CpuTarget(int(threads))
