"""A training run on disk: parameters, the optimizer's moments, the best so far. Arrays and JSON, never pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from onnxprune.store import Store

Array = np.ndarray[Any, Any]
Parameters = Mapping[str, torch.nn.Parameter]
_KIND = "recovery"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class State:
    """Where a run is.

    Attributes:
        step: steps done.
        best_step: after which the best fidelity was seen.
        best: parameters at that step.
        running: running means of the loss's parts.
        history: one entry a check: step, parts of the loss, fidelity.
        cpu_seconds: spent so far, all threads, over all interruptions.
    """

    step: int = 0
    best_score: float = -np.inf
    best_step: int = 0
    best: dict[str, Array] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """A place in the user's store; the key is everything that the run depends on."""

    store: Store
    key: str
    fresh: bool = False

    def save(self, state: State, parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
        """Keep a run; it appears whole or not at all."""
        arrays: dict[str, Array] = {}
        for name, parameter in parameters.items():
            arrays[f"now/{name}"] = _array(parameter)
            for moment in _MOMENTS:
                if moment in optimizer.state[parameter]:
                    arrays[f"{moment}/{name}"] = _array(optimizer.state[parameter][moment])
        arrays |= {f"best/{name}": value for name, value in state.best.items()}
        document = {
            "step": state.step,
            "best_score": state.best_score,
            "best_step": state.best_step,
            "running": state.running,
            "history": state.history,
            "cpu_seconds": state.cpu_seconds,
        }
        self.store.put(_KIND, self.key, document, arrays)

    def load(self, parameters: Parameters, optimizer: torch.optim.Optimizer) -> State | None:
        """Continue a run: parameters and moments are set; None where there is none, or it is another's."""
        held = None if self.fresh else self.store.get(_KIND, self.key)
        if held is None:
            return None
        arrays, document = held.tensors, held.document
        expected = {f"{part}/{name}" for part in ("now", *_MOMENTS, "best") for name in parameters}
        if set(arrays) != expected:
            return None
        if any(arrays[f"now/{name}"].shape != tuple(each.shape) for name, each in parameters.items()):
            return None
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(arrays[f"now/{name}"].copy()))
                moments = {part: torch.from_numpy(arrays[f"{part}/{name}"].copy()).to(parameter) for part in _MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(document["step"])), **moments}
        return State(
            step=int(document["step"]),
            best_score=float(document["best_score"]),
            best_step=int(document["best_step"]),
            best={name: arrays[f"best/{name}"].copy() for name in parameters},
            running=dict(document["running"]),
            history=list(document["history"]),
            cpu_seconds=float(document["cpu_seconds"]),
        )


def snapshot(parameters: Parameters) -> dict[str, Array]:
    """Parameters as arrays of their own."""
    return {name: _array(parameter).copy() for name, parameter in parameters.items()}


def restore(parameters: Parameters, arrays: Mapping[str, Array]) -> None:
    """Parameters set to a snapshot."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(arrays[name]))


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy()
