"""Timing on this machine's processor, by onnxruntime's CPU provider in this process."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from onnxprune.errors import ModelError
from onnxprune.runtime import Feeds, first_line
from onnxprune.targets import worker
from onnxprune.targets.environments import Missing
from onnxprune.targets.measured import timed_models
from onnxprune.targets.placement import CPU
from onnxprune.targets.process import Answer
from onnxprune.targets.runtime_target import SIGNED, UNSIGNED, RuntimeTarget, fitted
from onnxprune.targets.timing import Timed

# Threads of a pool go on spinning after a run, and would take the processor from the model whose turn is next. Within
# a run they spin as they do for users, which turning spinning off altogether would change.
_DESKTOP: Mapping[str, Any] = {"config": {"session.force_spinning_stop": "1"}}
# x64 alone has the NCHWc layout of the last level, and an application of one thread neither spins nor keeps an arena.
_MOBILE: Mapping[str, Any] = {"level": "extended", "arena": False, "config": {"session.intra_op.allow_spinning": "0"}}


@dataclass(frozen=True)
class CpuTarget(RuntimeTarget):
    """onnxruntime's CPU provider on this machine.

    Attributes:
        threads: of one operator; operators run one after another.
        mobile: with the settings of a phone.
    """

    known: ClassVar[str] = "cpu[:THREADS]"
    threads: int = 1
    mobile: bool = False

    @property
    def name(self) -> str:
        """As the user writes it."""
        return "cpu-mobile" if self.mobile else f"cpu:{self.threads}"

    @property
    def latency(self) -> Literal["wall"]:
        """Its milliseconds are this machine's."""
        return "wall"

    @property
    def provider(self) -> str:
        """The one that every onnxruntime has."""
        return CPU

    @property
    def about(self) -> str:
        """One line for `onnxprune targets`."""
        if self.mobile:
            return "this machine's processor with a phone's settings: one thread, no x64 layouts, no spinning, no arena"
        return "onnxruntime on this machine's processor"

    @property
    def signs(self) -> tuple[str, ...]:
        """Of this machine's kernels: x64 multiplies U8 with S8, ARM likes both signed."""
        return SIGNED if platform.machine().lower() in {"aarch64", "arm64"} else UNSIGNED

    def probe(self) -> Missing | None:
        """It is always here."""
        return None

    def time_settings(
        self, path: Path, feeds: Feeds, settings: Sequence[Mapping[str, Any]], *, budget_s: float
    ) -> tuple[Timed, ...]:
        """One model's figures under several settings of its session, alternated; the first is what others compare with.

        Args:
            path: the model file.
            feeds: one call's inputs.
            settings: `threads`, `arena`, `pattern`, `level` and `config` of each session; see `worker`.
            budget_s: seconds of timed rounds.

        Raises:
            ModelError: the model does not load or run.
        """
        paths = [path] * len(settings)
        job = {
            "clock": "wall",
            "budget_s": budget_s,
            "min_runs": 11,
            "max_runs": 500,
            "loads": 1,
            "each": list(settings),
        }
        return timed_models(self.name, self._answer("time", paths, fitted(paths, feeds), job).values, paths)

    def _answer(self, task: str, paths: Sequence[Path], feeds: Sequence[Feeds], settings: Mapping[str, Any]) -> Answer:
        job = {
            "task": task,
            "models": [str(path) for path in paths],
            "threads": self.threads,
            "providers": [(CPU, {})],
            **(_MOBILE if self.mobile else _DESKTOP),
            **settings,
        }
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            try:
                values = worker.perform(job, feeds, Path(folder))
            except worker.Failed as failure:
                verb = "refuses the model" if failure.stage == "load" else "failed while running it"
                name = paths[failure.model].name
                raise ModelError(f"{name}: onnxruntime {verb}: {first_line(failure)}") from failure
        return Answer(values=values, outputs=tuple(values.get("outputs", ())))
