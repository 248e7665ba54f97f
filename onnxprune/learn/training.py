"""The one loop of recovery and of every training method: steps, checks on held-out samples, checkpoints, the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from onnxprune.learn.batching import Batch
from onnxprune.learn.call import Tensor
from onnxprune.learn.checkpoint import Checkpoint, State, restore, snapshot
from onnxprune.learn.procedure import Group, Procedure
from onnxprune.learn.schedules import share_of_rate
from onnxprune.learn.trained import groups_of
from onnxprune.progress import Turn

Parts = Mapping[str, Tensor]
# Losses of single steps jump; what is shown is their running mean.
_SMOOTHING = 0.9


class Paced(Protocol):
    """Options that say how fast is learned, see `Schedule`."""

    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def warmup(self) -> float: ...  # noqa: D102
    @property
    def decay(self) -> float: ...  # noqa: D102
    @property
    def clip(self) -> float: ...  # noqa: D102
    @property
    def check(self) -> int: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102


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
        seed: of what is drawn within a step.
        checkpoint_s: seconds between checkpoints, besides those at checks.
    """

    steps: int
    rate: float
    warmup: float = 0.1
    decay: float = 0.01
    clip: float = 1.0
    check: int = 50
    patience: int = 0
    seed: int = 0
    checkpoint_s: float = 60.0

    @classmethod
    def of(cls, options: Paced, seed: int, steps: int) -> Schedule:
        """So many steps as the options of a method or of recovery pace them."""
        return cls(
            steps=steps, rate=options.lr, warmup=options.warmup, decay=options.decay, clip=options.clip,
            check=options.check, patience=options.patience, seed=seed,
        )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """What checks look at.

    Attributes:
        title: of the command, as progress begins.
        name: of the figure, as the history holds it.
        of: the figure of the parameters as they are.
        falls: whether less of it is better.
    """

    title: str
    name: str
    of: Callable[[], float]
    falls: bool = False

    def score(self, figure: float) -> float:
        """The figure so that more is better."""
        return -figure if self.falls else figure


def train(
    parameters: Mapping[str, torch.nn.Parameter],
    schedule: Schedule,
    batches: Callable[[int], Iterator[Batch]],
    loss: Callable[[int, Batch], Parts],
    measure: Measure,
    procedure: Procedure | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> State:
    """Take the steps; afterwards the parameters are the best that a check saw.

    Args:
        parameters: what is stepped, by name.
        schedule: how long and how fast.
        batches: from a step on.
        loss: of a step's batch, in parts that add up; it has called `backward` on their sum already.
        measure: of the parameters as they are.
        procedure: what a method does around each step; its own parameters are stepped, too.
        checkpoint: where the run is kept, and continued from.
        progress: told the step, the loss and the figure.
    """
    own = procedure or Procedure()
    groups = own.groups()
    optimizer = _optimizer(parameters, groups, schedule)
    everything = {**parameters, **{name: each for group in groups for name, each in group.parameters.items()}}
    state = (checkpoint.load(everything, optimizer) if checkpoint else None) or State()
    began, before = time.process_time(), state.cpu_seconds
    saved = time.monotonic()
    if state.history:
        own.load(state.own)
    else:
        _check(state, schedule, everything, own, measure)
    source = batches(state.step)
    stopped = False
    while state.step < schedule.steps and not stopped:
        # Drawn numbers depend on the step alone, so that a resumed run draws the same.
        torch.manual_seed(1_000_003 * schedule.seed + state.step)
        share = share_of_rate(state.step, schedule.steps, schedule.warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * (share if group["scheduled"] else 1.0)
        own.before_step(state.step)
        optimizer.zero_grad()
        parts = loss(state.step, next(source))
        own.after_backward(state.step)
        torch.nn.utils.clip_grad_norm_(parameters.values(), schedule.clip)
        optimizer.step()
        own.after_step(state.step, optimizer)
        state.step += 1
        for name, value in parts.items():
            number = float(value.detach())
            state.running[name] = _SMOOTHING * state.running.get(name, number) + (1 - _SMOOTHING) * number
        state.cpu_seconds = before + time.process_time() - began
        checked = state.step % schedule.check == 0 or state.step == schedule.steps
        if checked:
            stopped = _check(state, schedule, everything, own, measure)
        progress(Turn(_line(state, schedule, measure), state.step, schedule.steps))
        if checkpoint is not None and (checked or time.monotonic() - saved > schedule.checkpoint_s):
            checkpoint.save(state, everything, optimizer, own.state())
            saved = time.monotonic()
    if state.best:
        restore(everything, state.best)
        own.load(state.best_own)
    else:
        state.best_step = state.step
    return state


def _optimizer(
    parameters: Mapping[str, torch.nn.Parameter], groups: Sequence[Group], schedule: Schedule
) -> torch.optim.AdamW:
    """AdamW; biases and gains do not decay, and a method's own parameters have rates of their own.

    Source: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization.
    """
    held: list[dict[str, Any]] = [
        {**group, "highest": schedule.rate, "scheduled": True} for group in groups_of(parameters, schedule.decay)
    ]
    held += [
        {
            "params": list(group.parameters.values()),
            "weight_decay": group.decay,
            "highest": group.rate,
            "scheduled": group.scheduled,
            "maximize": group.ascends,
        }
        for group in groups
        if group.parameters
    ]
    return torch.optim.AdamW(held, lr=schedule.rate)


def _check(
    state: State,
    schedule: Schedule,
    parameters: Mapping[str, torch.nn.Parameter],
    own: Procedure,
    measure: Measure,
) -> bool:
    """Note a check; whether it has been too long since the best."""
    with own.judging():
        figure = measure.of()
    now = measure.score(figure)
    state.history.append({"step": state.step, **state.running, measure.name: figure})
    # What does not have the structure yet that was asked for may be better, but not kept.
    if own.ready(state.step) and (now > state.best_score or not state.best):
        state.best_score, state.best_step, state.best = now, state.step, snapshot(parameters)
        state.best_own = own.state()
    checks = [entry["step"] for entry in state.history if entry["step"] > state.best_step]
    return bool(schedule.patience) and bool(state.best) and len(checks) >= schedule.patience


def _line(state: State, schedule: Schedule, measure: Measure) -> str:
    last: dict[str, Any] = state.history[-1]
    loss = sum(state.running.values())
    best = f" (best {measure.score(state.best_score):.4f} after {state.best_step})" if state.best else ""
    return (
        f"{measure.title}: step {state.step} of {schedule.steps}, loss {loss:.4f}, "
        f"{measure.name} {last[measure.name]:.4f}{best}"
    )
