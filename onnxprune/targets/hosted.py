"""Targets whose runtime works in a process of its own: another provider, another onnxruntime, another processor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from onnxprune.errors import TargetError
from onnxprune.runtime import Feeds
from onnxprune.targets.adapting import Limits, adapt
from onnxprune.targets.environments import Missing
from onnxprune.targets.placement import CPU
from onnxprune.targets.process import Answer, Process, ask
from onnxprune.targets.runtime_target import ON_CPU, UNSIGNED, Providers, RuntimeTarget


@dataclass(frozen=True, kw_only=True)
class HostedTarget(RuntimeTarget):
    """A runtime in a process of its own.

    Attributes:
        title: its name, as the user writes it.
        about: one line for `onnxprune targets`.
        figures: what it gives: wall milliseconds, or instructions.
        reported: the provider that reports are about, as the runtime calls it.
        process: how its worker starts; asked anew each time, since folders may move.
        missing: what is missing; None where it is ready.
        providers: in the order in which the runtime asks them, with their options.
        limits: what its runtime reads; None where that is what this process's own runtime reads.
        options: of the session: `level`, `arena`, `config`.
        threads: of one operator.
        signs: types of static activations and weights that are worth a try on its kernels.
    """

    title: str
    about: str
    process: Callable[[], Process]
    missing: Callable[[], Missing | None]
    figures: Literal["wall", "instructions"] = "wall"
    reported: str = CPU
    providers: Providers = ON_CPU
    limits: Limits | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    signs: tuple[str, ...] = UNSIGNED

    @property
    def name(self) -> str:
        """As the user writes it."""
        return self.title

    @property
    def latency(self) -> Literal["wall", "instructions"]:
        """What its figures are."""
        return self.figures

    @property
    def provider(self) -> str:
        """The provider that reports are about."""
        return self.reported

    def probe(self) -> Missing | None:
        """What is missing, with the command that sets it up; None where it is ready."""
        return self.missing()

    def adapt(self, path: Path, folder: Path) -> Path:
        """The model as this runtime reads it: its own file, or a copy in `folder`.

        Raises:
            TargetError: the runtime cannot read it, with the true reason.
        """
        return path if self.limits is None else adapt(self.name, path, self.limits, folder)

    def _answer(self, task: str, paths: Sequence[Path], feeds: Sequence[Feeds], settings: Mapping[str, Any]) -> Answer:
        missing = self.probe()
        if missing is not None:
            raise TargetError(f"Target {self.name} cannot be used: {missing}.")
        job = {
            "task": task,
            "threads": self.threads,
            "providers": [[name, dict(options)] for name, options in self.providers],
            **self.options,
            **settings,
        }
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            readable = []
            for at, path in enumerate(paths):
                try:
                    readable.append(self.adapt(path, Path(folder) / str(at)))
                except TargetError as error:
                    raise TargetError(str(error), model=at) from error
            return ask(self.name, self.process(), job, readable, feeds)
