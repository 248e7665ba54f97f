"""Static model pruning: weights stay as they are, a mask for each task is learned and stored beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from onnxprune.learn.method import Need, Training
from onnxprune.learn.methods.scheduled import Scored
from onnxprune.ranges import at_least, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class MaskOnly(Scored):
    """Learn which weights to keep and change none of them: one base file, a bit a weight for each task.

    Attributes:
        shares: `matrix` keeps as much of each matrix (SMP-L); `type` shares it out among matrices of one shape by
            their scores (SMP-S).
        penalty: in the end, of mean sigmoid(score), which the loss adds; `type` lives by it.
        end: share of the steps after which the share of zeros stays; which they are may still change.
    """

    name: ClassVar[str] = "mask-only"
    summary: ClassVar[str] = "learned bit masks over weights that stay as they are; one base file, many tasks"
    source: ClassVar[str] = "Jiang et al. 2023, Pruning Pre-trained Language Models Without Fine-Tuning (SMP)"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients", "pretrained")
    reconstruction: ClassVar[str] = (
        "a graph does not name its queries and keys: matrices of one shape are one type; the model's own output is the "
        "task's, no label words are chosen"
    )
    training: ClassVar[Training] = Training(warmup=0.0)
    sparsity: Annotated[float, within("[0, 1)", "a share")] = 0.5
    shares: Literal["matrix", "type"] = "matrix"
    penalty: Annotated[float, at_least(0)] = 0.0
    score_rate: Annotated[float, at_least(0)] = 2e-2
    begin: float = 0.0
    end: float = 0.6

    def start(self, trainee: Trainee) -> Procedure:
        """Scores over frozen weights."""
        from onnxprune.learn.scored import ScoredMasks, Scoring

        scoring = Scoring(
            schedule=self.schedule(self.sparsity, trainee.training.steps),
            rate=self.score_rate,
            penalty=self.penalty,
            by_type=self.shares == "type",
            frozen=True,
            head=self.head,
        )
        return ScoredMasks(trainee, scoring)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The base file with the mask applied; the mask stands beside it."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)

    def files(self, model: Model, procedure: Procedure) -> dict[str, bytes]:
        """The packed mask, by the ending of its file."""
        from onnxprune.bitmasks import to_bytes
        from onnxprune.learn.scored import ScoredMasks

        held = procedure.kept() if isinstance(procedure, ScoredMasks) else {}
        return {".masks": to_bytes(model, held)}
