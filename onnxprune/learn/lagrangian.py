"""A constraint on an expected size, whose price finds itself.

    loss + l1 (e - t) + l2 (e - t)^2,  e = 1 - size / whole,  t = target min(1, step / warmup)

is minimised over weights and gates and maximised over l1 and l2, which start at 0: as long as too little is gone,
l1 falls below 0 and makes what is gone worth something.

Source: Wang, Wohlwend and Lei 2020, Structured Pruning of Large Language Models, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from onnxprune.learn.call import Tensor


@dataclass(eq=False)
class Lagrangian:
    """The price of missing a share that is to go.

    Attributes:
        target: share of the whole that is to go, in [0, 1).
        warmup: steps over which the target rises from 0.
        prices: l1 and l2, over which the loss is maximised.
    """

    target: float
    warmup: int
    prices: torch.nn.Parameter = field(default_factory=lambda: torch.nn.Parameter(torch.zeros(2)))

    def target_at(self, step: int) -> float:
        """The share that is to be gone after so many steps."""
        return self.target * min(1.0, step / self.warmup) if self.warmup else self.target

    def penalty(self, gone: Tensor, step: int) -> Tensor:
        """What is added to the loss of a step.

        Args:
            gone: the expected share that is gone, with a gradient to the gates.
            step: how many have been taken.
        """
        missed = gone - self.target_at(step)
        return self.prices[0] * missed + self.prices[1] * missed.square()
