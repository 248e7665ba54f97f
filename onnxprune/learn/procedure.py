"""What a training method does around each step of the loop; what it does not say is as in plain training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from onnxprune.learn.call import Tensor
from onnxprune.learn.module import Gate, Slot
from onnxprune.runtime import Feeds

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A method's own parameters: gates, scores, multipliers.

    Attributes:
        parameters: by names that no stored tensor has.
        rate: highest learning rate.
        decay: weight decay.
        ascends: whether the loss is maximised over them, as over Lagrange multipliers.
        scheduled: whether the rate rises and falls as that of the weights does.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    rate: float
    decay: float = 0.0
    ascends: bool = False
    scheduled: bool = True


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One forward run of a step.

    Attributes:
        step: of the optimizer, from 0.
        outputs: of the module, tensors that the method wanted among them.
        teacher: outputs of the original on the same, where they were computed.
        feeds: what was read.
        rows: which samples these are.
    """

    step: int
    outputs: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    feeds: Feeds
    rows: tuple[int, ...]


class Procedure:
    """One run of a method. Every hook does nothing unless a method says otherwise.

    Attributes:
        wanted: tensors of the graph that the method looks at.
        teaches: whether it looks at the original's outputs.
    """

    wanted: Collection[str] = ()
    teaches: bool = False

    def groups(self) -> Sequence[Group]:
        """Parameters of its own."""
        return ()

    def gates(self) -> Mapping[Slot, Gate]:
        """What multiplies the inputs of nodes in the next run."""
        return MappingProxyType({})

    def before_step(self, step: int) -> None:
        """Set masks and targets, draw gates."""

    def parts(self, parts: Mapping[str, Tensor], seen: Seen) -> Mapping[str, Tensor]:
        """The loss of one run in parts that add up: those of the task, changed or with more."""
        del seen
        return parts

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        """Further parts of a step's loss, which no sample changes."""
        del step
        return MappingProxyType({})

    def after_backward(self, step: int) -> None:
        """Look at gradients, before they are clipped and stepped along."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Put back what the optimizer may not move."""

    def ready(self, step: int) -> bool:
        """Whether the model has the structure that was asked for, after so many steps, and so may be kept."""
        del step
        return True

    def judging(self) -> AbstractContextManager[None]:
        """Within it the model is as it would be written: no chance in its gates."""
        return nullcontext()

    def state(self) -> dict[str, Array]:
        """Arrays that it needs to continue, besides its parameters."""
        return {}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Continue from `state`."""

    def summary(self) -> dict[str, Any]:
        """What came out, as JSON."""
        return {}
