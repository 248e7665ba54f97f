"""Movement pruning: what training moves towards zero goes, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from onnxprune.errors import OptionError
from onnxprune.learn.method import Need, Training
from onnxprune.learn.methods.scheduled import Scored
from onnxprune.ranges import at_least, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class Movement(Scored):
    """Learn a score for each weight beside the weight itself; the highest of each matrix stay.

    Attributes:
        sparsity: share of each matrix that is zero in the end, in [0, 1); with `soft` the penalty decides instead.
        soft: keep what has sigmoid(score) above `threshold`, rather than a share.
        threshold: of `soft`, in (0, 1).
        penalty: in the end, of mean sigmoid(score), which the loss adds.
        end: share of the steps after which the share of zeros stays; which they are may still change.
    """

    name: ClassVar[str] = "movement"
    summary: ClassVar[str] = "zeros where training moves weights towards zero, by learned scores"
    source: ClassVar[str] = "Sanh, Wolf and Rush 2020, Movement Pruning"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients")
    reconstruction: ClassVar[str] = ""
    training: ClassVar[Training] = Training()
    soft: bool = False
    threshold: Annotated[float, within("(0, 1)")] = 0.1
    penalty: Annotated[float, at_least(0)] = 0.0

    def __post_init__(self) -> None:
        """Reject values out of range."""
        super().__post_init__()
        if self.soft and not self.penalty:
            raise OptionError(f"{self.name}: soft needs a penalty above 0, got 0. Give --option penalty=10 or so.")

    def start(self, trainee: Trainee) -> Procedure:
        """Scores, masks, and weights that go on learning."""
        from onnxprune.learn.scored import ScoredMasks, Scoring

        schedule = self.schedule(self.sparsity, trainee.training.steps)
        threshold = self.threshold if self.soft else None
        return ScoredMasks(
            trainee,
            Scoring(schedule=schedule, rate=self.score_rate, threshold=threshold, penalty=self.penalty, head=self.head),
        )

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model with its zeros."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)
