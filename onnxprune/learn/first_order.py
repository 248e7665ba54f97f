"""Masks by what the loss would lose, to first order: |w · dL/dw|, summed up between masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from onnxprune.learn.gradual import GradualMasks
from onnxprune.learn.masking import Pattern
from onnxprune.learn.matrices import Matrix
from onnxprune.learn.procedure import Array
from onnxprune.learn.schedules import Cubic
from onnxprune.learn.trainee import Trainee


class FirstOrderMasks(GradualMasks):
    """The schedule of gradual pruning over first-order scores.

    Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference, section 2.2.
    """

    def __init__(self, trainee: Trainee, pattern: Pattern, schedule: Cubic, *, head: bool = False) -> None:
        """Scores begin at zero."""
        super().__init__(trainee, pattern, schedule, head=head)
        self._sums = {one.name: torch.zeros_like(self.masks.parameters[one.name]) for one in self.matrices}

    def after_backward(self, step: int) -> None:
        """Take in a step's gradients."""
        super().after_backward(step)
        for name, total in self._sums.items():
            parameter = self.masks.parameters[name]
            if parameter.grad is not None:
                total.add_((parameter.detach() * parameter.grad).abs())

    def scores(self, one: Matrix) -> Array:
        """What was summed up since the last masks; what is masked has none."""
        total = self._sums[one.name]
        # Before any step there is nothing to go by but magnitude.
        found = super().scores(one) if not bool(total.any()) else total.cpu().numpy().copy()
        total.zero_()
        kept = self.masks.kept.get(one.name)
        # What is zero already goes before what merely had no gradient.
        return np.asarray(found) if kept is None else np.where(kept.cpu().numpy(), found, -1.0)

    def state(self) -> dict[str, Array]:
        """Masks and sums."""
        return {**super().state(), **{f"sum/{name}": each.cpu().numpy() for name, each in self._sums.items()}}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Both as they were."""
        super().load(arrays)
        for name, total in self._sums.items():
            total.copy_(torch.from_numpy(arrays[f"sum/{name}"]))
