"""The loop: steps, checks on held-out samples, checkpoints, the best kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from onnxprune.learn.batching import Batch
from onnxprune.learn.call import Tensor
from onnxprune.learn.checkpoint import Checkpoint, State, restore, snapshot
from onnxprune.learn.trained import optimizer_of, share_of_rate

Parts = Mapping[str, Tensor]
# Losses of single steps jump; what is shown is their running mean.
_SMOOTHING = 0.9


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: of the optimizer.
        rate: the highest learning rate.
        warmup: share of the steps over which the rate rises.
        decay: weight decay of matrices.
        clip: largest norm of a step's gradient.
        check: steps between checks on held-out samples.
        patience: checks without a better one after which it stops; 0: never.
        checkpoint_s: seconds between checkpoints, besides those at checks.
    """

    steps: int
    rate: float
    warmup: float = 0.1
    decay: float = 0.01
    clip: float = 1.0
    check: int = 50
    patience: int = 0
    checkpoint_s: float = 60.0


def train(
    parameters: Mapping[str, torch.nn.Parameter],
    schedule: Schedule,
    batches: Callable[[int], Iterator[Batch]],
    loss: Callable[[Batch], Parts],
    score: Callable[[], float],
    checkpoint: Checkpoint | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> State:
    """Take the steps; afterwards the parameters are the best that a check saw.

    Args:
        parameters: what is stepped, by name.
        schedule: how long and how fast.
        batches: from a step on.
        loss: of a batch, in parts that add up; it has called `backward` on their sum already.
        score: of the parameters as they are, the higher the better.
        checkpoint: where the run is kept, and continued from.
        progress: told the step, the loss and the score.
    """
    optimizer = optimizer_of(parameters, schedule.rate, schedule.decay)
    state = (checkpoint.load(parameters, optimizer) if checkpoint else None) or State()
    began, before = time.process_time(), state.cpu_seconds
    saved = time.monotonic()
    if not state.best:
        state.best_score, state.best = score(), snapshot(parameters)
        state.history.append({"step": 0, "fidelity": state.best_score})
    source = batches(state.step)
    stopped = False
    while state.step < schedule.steps and not stopped:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * share_of_rate(state.step, schedule.steps, schedule.warmup)
        optimizer.zero_grad()
        parts = loss(next(source))
        torch.nn.utils.clip_grad_norm_(parameters.values(), schedule.clip)
        optimizer.step()
        state.step += 1
        for name, value in parts.items():
            number = float(value.detach())
            state.running[name] = _SMOOTHING * state.running.get(name, number) + (1 - _SMOOTHING) * number
        state.cpu_seconds = before + time.process_time() - began
        checked = state.step % schedule.check == 0 or state.step == schedule.steps
        if checked:
            stopped = _check(state, schedule, parameters, score())
        progress(_line(state, schedule))
        if checkpoint is not None and (checked or time.monotonic() - saved > schedule.checkpoint_s):
            checkpoint.save(state, parameters, optimizer)
            saved = time.monotonic()
    restore(parameters, state.best)
    return state


def _check(state: State, schedule: Schedule, parameters: Mapping[str, torch.nn.Parameter], now: float) -> bool:
    """Note a check; whether it has been too long since the best."""
    state.history.append({"step": state.step, **state.running, "fidelity": now})
    if now > state.best_score:
        state.best_score, state.best_step, state.best = now, state.step, snapshot(parameters)
    checks = [entry["step"] for entry in state.history if entry["step"] > state.best_step]
    return bool(schedule.patience) and len(checks) >= schedule.patience


def _line(state: State, schedule: Schedule) -> str:
    last: dict[str, Any] = state.history[-1]
    loss = sum(state.running.values())
    return (
        f"recover: step {state.step} of {schedule.steps}, loss {loss:.4f}, "
        f"fidelity {last['fidelity']:.4f} (best {state.best_score:.4f} after {state.best_step})"
    )
