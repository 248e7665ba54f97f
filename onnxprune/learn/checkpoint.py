"""A training run on disk: parameters, the optimizer's moments, the best so far. Arrays and JSON, never pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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
        own: what the method had of its own when the run was kept.
        best_own: what it had at the best step.
    """

    step: int = 0
    best_score: float = -np.inf
    best_step: int = 0
    best: dict[str, Array] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    own: dict[str, Array] = field(default_factory=dict)
    best_own: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A place in the user's store; the key is everything that the run depends on."""

    store: Store
    key: str
    fresh: bool = False

    def save(
        self,
        state: State,
        parameters: Parameters,
        optimizer: torch.optim.Optimizer,
        own: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        """Keep a run, and what a method has of its own; it appears whole or not at all."""
        arrays: dict[str, Array] = {}
        taken: dict[str, float] = {}
        for name, parameter in parameters.items():
            arrays[f"now/{name}"] = _array(parameter)
            held = optimizer.state.get(parameter, {})
            arrays |= {f"{moment}/{name}": _array(held[moment]) for moment in _MOMENTS if moment in held}
            # A parameter that got no gradient so far has taken no step.
            taken[name] = float(held.get("step", 0.0))
        arrays |= {f"best/{name}": value for name, value in state.best.items()}
        for part, values in (("own", own), ("best_own", state.best_own)):
            arrays |= {f"{part}/{name}": value for name, value in values.items()}
        document = {
            "taken": taken,
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
        expected = {f"{part}/{name}" for part in ("now", "best") for name in parameters}
        expected |= {f"{moment}/{name}" for moment in _MOMENTS for name in parameters if document["taken"].get(name)}
        own = {part: [name for name in arrays if name.startswith(f"{part}/")] for part in ("own", "best_own")}
        if set(arrays) - {name for names in own.values() for name in names} != expected or set(
            document["taken"]
        ) != set(parameters):
            return None
        if any(arrays[f"now/{name}"].shape != tuple(each.shape) for name, each in parameters.items()):
            return None
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(arrays[f"now/{name}"].copy()))
                if taken := document["taken"][name]:
                    kept = {part: torch.from_numpy(arrays[f"{part}/{name}"].copy()).to(parameter) for part in _MOMENTS}
                    optimizer.state[parameter] = {"step": torch.tensor(float(taken)), **kept}
        return State(
            step=int(document["step"]),
            best_score=float(document["best_score"]),
            best_step=int(document["best_step"]),
            best={name: arrays[f"best/{name}"].copy() for name in parameters},
            running=dict(document["running"]),
            history=list(document["history"]),
            cpu_seconds=float(document["cpu_seconds"]),
            **{
                part: {name.removeprefix(f"{part}/"): arrays[name].copy() for name in names}
                for part, names in own.items()
            },
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
