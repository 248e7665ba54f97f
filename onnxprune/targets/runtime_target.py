"""What targets share that run models: they ask a worker to time, to run and to tell where nodes run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxprune.errors import ModelError, TargetError
from onnxprune.interface import interface_of
from onnxprune.model import load
from onnxprune.runtime import Feeds
from onnxprune.targets.environments import Missing
from onnxprune.targets.measured import counted_models, timed_models
from onnxprune.targets.placement import CPU, Placement, read_placement
from onnxprune.targets.process import Answer
from onnxprune.targets.timing import Timed

Providers = tuple[tuple[str, Mapping[str, str]], ...]
ON_CPU: Providers = ((CPU, {}),)
# Types of static activations and weights, the first as a rule the fastest; the clock decides between several.
UNSIGNED = ("u8s8",)
SIGNED = ("s8s8", "u8s8")
EITHER = ("u8s8", "s8s8")
EVERY = ("u8s8", "s8s8", "u8u8")
# Counts repeat to a few instructions in a thousand; more rounds would tell nothing.
_COUNTED_ROUNDS = 2
_MIN_ROUNDS, _MAX_ROUNDS = 11, 500


class RuntimeTarget(ABC):
    """A runtime with a provider, in this process or another one."""

    @property
    @abstractmethod
    def latency(self) -> Literal["wall", "instructions"]:
        """What its figures are."""

    @property
    @abstractmethod
    def provider(self) -> str:
        """The provider that reports are about, as the runtime calls it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As the user writes it."""

    @abstractmethod
    def probe(self) -> Missing | None:
        """What is missing; None where the target can be used."""

    @abstractmethod
    def _answer(self, task: str, paths: Sequence[Path], feeds: Sequence[Feeds], settings: Mapping[str, Any]) -> Answer:
        """A worker's answer; see `worker`."""

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Each model's figures on one call's feeds, alternated in one process; the first is what others compare with.

        Every round times one run of each model, and the order changes from round to round, so that drift and slow
        spells of a shared machine fall on all of them alike. Speed-ups are medians of the ratios within rounds.

        Args:
            paths: model files.
            feeds: one call's inputs, given to every model.
            budget_s: seconds of timed rounds, after which no round begins once the least number is done; instructions
                are counted in two rounds whatever it is.

        Raises:
            OnnxPruneError: the target is not set up, a model is declined, does not load or does not run, or the
                target's process failed.
        """
        counted = self.latency == "instructions"
        settings = {
            "clock": "marker" if counted else "wall",
            "budget_s": budget_s,
            "min_runs": _COUNTED_ROUNDS if counted else _MIN_ROUNDS,
            "max_runs": _MAX_ROUNDS,
        }
        answer = self._answer("time", paths, fitted(paths, feeds), settings)
        if counted:
            return counted_models(self.name, answer.counts, paths)
        return timed_models(self.name, answer.values, paths)

    def run(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Mapping[str, np.ndarray[Any, Any]], ...]:
        """Each model's outputs on one call's feeds, by name; outputs that are no numbers are left out.

        Raises:
            OnnxPruneError: as `time`.
        """
        outputs = self._answer("run", paths, fitted(paths, feeds), {}).outputs
        if len(outputs) != len(paths):
            raise TargetError(f"{self.name}: its process gave no outputs. Set the target up anew.")
        return outputs

    def place(self, paths: Sequence[Path], feeds: Feeds) -> tuple[Placement, ...]:
        """Which nodes of each model run on which provider, told by untimed sessions.

        Raises:
            OnnxPruneError: as `time`.
        """
        answer = self._answer("place", paths, fitted(paths, feeds), {})
        return read_placement(self.name, self.provider, answer.values.get("nodes"), len(paths))


def fitted(paths: Sequence[Path], feeds: Feeds) -> list[Feeds]:
    """Feeds of the original as each model takes them whose inputs were cut."""
    fitting: list[Feeds] = []
    for path in paths:
        try:
            metadata = dict(load(path).fields.metadata)
        except ModelError:
            # What is wrong with the file is the runtime's news.
            metadata = {}
        fitting.append(interface_of(metadata).fitted(feeds))
    return fitting
