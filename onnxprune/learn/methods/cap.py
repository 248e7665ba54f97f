"""Contrastive pruning: vectors stay close to the pre-trained, the fine-tuned and earlier selves of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from onnxprune.errors import DataError
from onnxprune.learn.method import Need, Training
from onnxprune.learn.methods.scheduled import Scored
from onnxprune.ranges import above, at_least, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class Cap(Scored):
    """Prune along a cubic schedule with contrastive terms beside task and distillation.

    Attributes:
        pretrained: the .onnx file that the model was tuned from, of the same inputs; `none` leaves its term out.
        over: how weights are pruned: `movement` (learned scores), `first-order` (|weight · gradient|), or `structured`
            (heads and neurons as a whole, by the gradients of their masks).
        sparsity: share of each matrix, or of all heads and of all neurons, that is zero in the end, in [0, 1).
        unsupervised: weight of the terms of the same sample.
        supervised: weight of the terms of the same class, where samples have classes.
        tau: temperature of the contrast.
        snapshots: how many of the model's own earlier selves it is contrasted with, spread over the schedule.
    """

    name: ClassVar[str] = "cap"
    summary: ClassVar[str] = "contrastive terms against the pre-trained, fine-tuned and earlier selves, while pruning"
    source: ClassVar[str] = "Xu et al. 2022, From Dense to Sparse: Contrastive Pruning"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients", "labels", "pretrained")
    reconstruction: ClassVar[str] = (
        "the student starts from the tuned model; the vector is what the last product before the output reads; "
        "snapshots share one term"
    )
    training: ClassVar[Training] = Training(distill=0.9, temperature=2.0)
    pretrained: str = ""
    over: Literal["first-order", "movement", "structured"] = "movement"
    sparsity: Annotated[float, within("[0, 1)", "a share")] = 0.9
    unsupervised: Annotated[float, at_least(0)] = 0.1
    supervised: Annotated[float, at_least(0)] = 1.0
    tau: Annotated[float, above(0)] = 0.1
    snapshots: Annotated[int, at_least(0)] = 2

    def start(self, trainee: Trainee) -> Procedure:
        """Pruning with banks beside it."""
        from onnxprune.learn.contrasting import Contrasting, Terms
        from onnxprune.learn.first_order import FirstOrderMasks
        from onnxprune.learn.masking import Pattern
        from onnxprune.learn.scored import ScoredMasks, Scoring
        from onnxprune.learn.unit_masks import UnitMasks

        if not self.pretrained:
            raise DataError(
                f"{self.name}: it needs the file that the model was tuned from. Give --option pretrained=FILE, or "
                "pretrained=none to leave its term out."
            )
        schedule = self.schedule(self.sparsity, trainee.training.steps)
        # One before each equal part of the schedule: the first is the model before any zero.
        length = max(1, schedule.end - schedule.begin)
        due = tuple(schedule.begin + at * length // self.snapshots for at in range(self.snapshots))
        terms = Terms(
            unsupervised=self.unsupervised,
            supervised=self.supervised,
            temperature=self.tau,
            snapshots=tuple(dict.fromkeys(due)),
        )
        inner: Procedure
        if self.over == "movement":
            inner = ScoredMasks(trainee, Scoring(schedule=schedule, rate=self.score_rate, head=self.head))
        elif self.over == "structured":
            inner = UnitMasks(trainee, schedule)
        else:
            inner = FirstOrderMasks(trainee, Pattern(), schedule, head=self.head)
        path = None if self.pretrained == "none" else Path(self.pretrained)
        return Contrasting(trainee, inner, terms, path)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model with its zeros."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)
