"""Masks by magnitude that grow along a schedule, re-applied after each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onnxprune.learn.fake_quantization import int8_activation, int8_weight
from onnxprune.learn.masking import Masks, Pattern
from onnxprune.learn.matrices import Matrix, some_matrices
from onnxprune.learn.module import Gate, Slot
from onnxprune.learn.procedure import Array, Procedure
from onnxprune.learn.schedules import Cubic
from onnxprune.learn.trainee import Trainee
from onnxprune.model import Model
from onnxprune.weights import find_weights


class GradualMasks(Procedure):
    """Zhu and Gupta's schedule over the magnitudes of each matrix apart."""

    def __init__(
        self, trainee: Trainee, pattern: Pattern, schedule: Cubic, int8: str = "no", *, head: bool = True
    ) -> None:
        """Find the matrices.

        Raises:
            DataError: the model has none that are trained.
        """
        self.matrices = some_matrices(trainee.model, trainee.parameters, head=head)
        self._pattern = pattern
        self._schedule = schedule
        self._module = trainee.module
        self.masks = Masks({one.name: trainee.parameters[one.name] for one in self.matrices}, {})
        if int8 != "no":
            trainee.module.views.update({one.name: int8_weight(one) for one in self.matrices})
        self._gates = activations(trainee.model, self.matrices) if int8 == "yes" else {}

    def gates(self) -> Mapping[Slot, Gate]:
        """Activations rounded, if they are to be."""
        return self._gates

    def before_step(self, step: int) -> None:
        """Set masks anew where the schedule says so."""
        if not self._schedule.changes(step):
            return
        share = self._schedule(step)
        for one in self.matrices:
            self.masks.set(one.name, self._pattern.mask(one, self.scores(one), share))
        self.masks.hold()

    def scores(self, one: Matrix) -> Array:
        """What decides which numbers of a matrix go."""
        return self.masks.parameters[one.name].detach().abs().cpu().numpy()

    def after_backward(self, step: int) -> None:
        """Masked weights get no gradient."""
        del step
        self.masks.drop_gradients()

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Zeros again, whatever momentum did."""
        del step
        self.masks.hold(optimizer)

    def ready(self, step: int) -> bool:
        """Whether all zeros are there: after the step that begins with the last masks."""
        return step > max(self._schedule.begin, self._schedule.end)

    def state(self) -> dict[str, Array]:
        """The masks."""
        return self.masks.state()

    def load(self, arrays: Mapping[str, Array]) -> None:
        """The masks as they were."""
        self.masks.load(arrays)

    def summary(self) -> dict[str, Any]:
        """Zeros of each matrix, as they are written."""
        zeros = {one.name: int(np.count_nonzero(self._module.stored(one.name) == 0)) for one in self.matrices}
        sizes = {one.name: one.size for one in self.matrices}
        return {
            "sparsity": sum(zeros.values()) / sum(sizes.values()),
            "matrices": {name: {"numbers": sizes[name], "zeros": zeros[name]} for name in zeros},
        }


def activations(model: Model, some: Sequence[Matrix]) -> dict[Slot, Gate]:
    """What some matrices' products read, rounded as products of integers read it."""
    names = {one.name for one in some}
    return {
        (use.name, 1 - use.slot if use.slot < 2 else 0): int8_activation
        for weight in find_weights(model.graph, model.overridable)
        if weight.constant.name in names
        for use in weight.uses
    }
