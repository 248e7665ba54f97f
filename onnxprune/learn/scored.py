"""Masks of the highest learned scores: each score follows how its weight's contribution to the loss moves.

The graph reads W·M(S). The mask M is 1 where a score is among the highest, and its gradient passes straight through to
the score: dL/dS = dL/d(W·M)·W. Weights that move away from zero gain score, whatever their size.

Sources: Sanh, Wolf and Rush 2020, Movement Pruning; Jiang et al. 2023, Pruning Pre-trained Language Models Without
Fine-Tuning (shares by type, and weights that stay as they are).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from onnxprune.learn.call import Tensor
from onnxprune.learn.masking import Masks, Pattern
from onnxprune.learn.matrices import Matrix, some_matrices
from onnxprune.learn.procedure import Array, Group, Procedure
from onnxprune.learn.schedules import Cubic
from onnxprune.learn.trainee import Trainee

# Scores begin as good as equal; so little noise decides between them before any gradient has.
_NOISE = 1e-6
# A threshold leaves at least this share of a matrix (the authors' code).
_LEAST = 0.005


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How scores become masks.

    Attributes:
        schedule: share of zeros at each step.
        rate: highest learning rate of the scores.
        pattern: where zeros may stand.
        threshold: keep what has sigmoid(S) above it, instead of a share; None: a share.
        penalty: in the end, of the mean over matrices of mean sigmoid(S), added to the loss; grows cubically from 0.
        by_type: share a type's numbers out among its matrices by mean sigmoid(S), rather than evenly.
        frozen: weights stay as they are, scores alone learn.
        head: whether products straight before an output are pruned, too.
    """

    schedule: Cubic
    rate: float
    pattern: Pattern = field(default_factory=Pattern)
    threshold: float | None = None
    penalty: float = 0.0
    by_type: bool = False
    frozen: bool = False
    head: bool = False


class ScoredMasks(Procedure):
    """Scores as a method's own parameters, and the masks that they stand for."""

    def __init__(self, trainee: Trainee, scoring: Scoring) -> None:
        """Find the matrices and let the graph read them through masks.

        Raises:
            DataError: the model has none that are trained.
        """
        self.matrices = some_matrices(trainee.model, trainee.parameters, head=scoring.head)
        self.scoring = scoring
        self._module = trainee.module
        self._steps = trainee.training.steps
        generator = torch.Generator().manual_seed(trainee.seed)
        self.scores = {
            one.name: torch.nn.Parameter(
                (_NOISE * torch.randn(one.shape, generator=generator)).to(trainee.module.device)
            )
            for one in self.matrices
        }
        self.masks = Masks({one.name: trainee.parameters[one.name] for one in self.matrices}, {})
        for one in self.matrices:
            self.masks.set(one.name, np.ones(one.shape, np.bool_))
            trainee.module.views[one.name] = self._view(one.name)
        if scoring.frozen:
            trainee.module.requires_grad_(requires_grad=False)
            trainee.parameters = {}

    def _view(self, name: str) -> Callable[[Tensor], Tensor]:
        def masked(weight: Tensor) -> Tensor:
            score, kept = self.scores[name], self.masks.kept[name].to(weight)
            if not torch.is_grad_enabled():
                return weight * kept
            # Adds nothing, and lets the mask's gradient through to the score.
            return weight * (kept + (score - score.detach()))

        return masked

    def groups(self) -> Sequence[Group]:
        """The scores."""
        named = {f"{name}.score": score for name, score in self.scores.items()}
        return (Group(parameters=named, rate=self.scoring.rate),)

    def before_step(self, step: int) -> None:
        """Set masks anew where the schedule says so; thresholds move all the time."""
        schedule = self.scoring.schedule
        if self.scoring.threshold is None and (schedule.changes(step) or self._learning(step)):
            kept = self.shares(1 - schedule(step))
            for one in self.matrices:
                scores = self.scores[one.name].detach().cpu().numpy()
                self.masks.set(one.name, self.scoring.pattern.mask(one, scores, 1 - kept[one.name]))
        elif self.scoring.threshold is not None:
            for one in self.matrices:
                self.masks.kept[one.name] = over(self.scores[one.name].detach(), self.scoring.threshold)

    def _learning(self, step: int) -> bool:
        """Whether the share stands but scores still learn which numbers it is made of."""
        schedule = self.scoring.schedule
        return step > schedule.end and (step - schedule.end) % schedule.every == 0

    def shares(self, kept: float) -> dict[str, float]:
        """Which share of each matrix stays when `kept` of all do."""
        if not self.scoring.by_type:
            return {one.name: kept for one in self.matrices}
        with torch.no_grad():
            means = {name: float(torch.sigmoid(score).mean()) for name, score in self.scores.items()}
        return shares_by_type(self.matrices, means, kept)

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        """What scores cost, so that those without a gradient fall behind."""
        if not self.scoring.penalty:
            return {}
        weight = Cubic(final=self.scoring.penalty, begin=0, end=self._steps)(step)
        means = [torch.sigmoid(score).mean() for score in self.scores.values()]
        return {"penalty": weight * torch.stack(means).mean()}

    def ready(self, step: int) -> bool:
        """Whether the share of zeros is what was asked for."""
        return step > max(self.scoring.schedule.begin, self.scoring.schedule.end)

    def state(self) -> dict[str, Array]:
        """The masks; scores are parameters."""
        return self.masks.state()

    def load(self, arrays: Mapping[str, Array]) -> None:
        """The masks as they were."""
        self.masks.load(arrays)

    def kept(self) -> dict[str, Array]:
        """Masks by matrix, True where a number stays."""
        return {name: mask.cpu().numpy() for name, mask in self.masks.kept.items()}

    def summary(self) -> dict[str, Any]:
        """What stays of each matrix."""
        left = {name: int(mask.sum()) for name, mask in self.masks.kept.items()}
        return {
            "sparsity": 1 - sum(left.values()) / sum(one.size for one in self.matrices),
            "matrices": {one.name: {"numbers": one.size, "zeros": one.size - left[one.name]} for one in self.matrices},
        }


def over(scores: Tensor, threshold: float) -> Tensor:
    """Where sigmoid(S) is above a threshold, at least half a per cent of all."""
    kept = torch.sigmoid(scores) > threshold
    least = max(1, round(_LEAST * scores.numel()))
    if int(kept.sum()) >= least:
        return kept
    best = torch.topk(scores.reshape(-1), least).indices
    return (
        torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
        .index_fill(0, best, value=True)
        .reshape(scores.shape)
    )


def shares_by_type(matrices: Sequence[Matrix], means: Mapping[str, float], kept: float) -> dict[str, float]:
    """SMP-S: of a type's L matrices, number l keeps the share kept·L·R_l / Σ R, at most all of it.

    Matrices of one shape are one type: a graph does not name its queries and keys.

    Args:
        matrices: whose shares are asked for.
        means: mean sigmoid(S) of each, by name: R.
        kept: share that stays of all.
    """
    types: dict[tuple[int, ...], list[Matrix]] = {}
    for one in matrices:
        types.setdefault(one.shape, []).append(one)
    shares: dict[str, float] = {}
    for group in types.values():
        total = sum(means[one.name] for one in group)
        shares |= {one.name: min(1.0, kept * len(group) * means[one.name] / total) for one in group}
    return shares
