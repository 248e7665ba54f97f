"""Movement pruning: what training moves towards zero goes, whatever its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxprune.errors import OptionError
from onnxprune.learn.method import Need, Training

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Learn a score for each weight beside the weight itself; the highest of each matrix stay.

    Attributes:
        sparsity: share of each matrix that is zero in the end, in [0, 1); with `soft` the penalty decides instead.
        soft: keep what has sigmoid(score) above `threshold`, rather than a share.
        threshold: of `soft`, in (0, 1).
        penalty: in the end, of mean sigmoid(score), which the loss adds.
        score_rate: highest learning rate of the scores.
        begin: share of the steps before the first zero.
        end: share of the steps after which the share of zeros stays; which they are may still change.
        every: steps between masks.
        head: prune products that stand straight before an output, too.
    """

    name: ClassVar[str] = "movement"
    summary: ClassVar[str] = "zeros where training moves weights towards zero, by learned scores"
    source: ClassVar[str] = "Sanh, Wolf and Rush 2020, Movement Pruning"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients")
    reconstruction: ClassVar[str] = ""
    training: ClassVar[Training] = Training()
    sparsity: float = 0.8
    soft: bool = False
    threshold: float = 0.1
    penalty: float = 0.0
    score_rate: float = 1e-2
    begin: float = 0.1
    end: float = 0.7
    every: int = 10
    head: bool = False

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_scores(self)
        if self.soft and not self.penalty:
            raise OptionError(f"{self.name}: soft needs a penalty above 0, got 0. Give --option penalty=10 or so.")

    def start(self, trainee: Trainee) -> Procedure:
        """Scores, masks, and weights that go on learning."""
        from onnxprune.learn.schedules import within
        from onnxprune.learn.scored import ScoredMasks, Scoring

        schedule = within(self.sparsity, self.begin, self.end, self.every, trainee.training.steps)
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


def check_scores(method: object) -> None:
    """Reject options of scored masks that are out of range.

    Raises:
        OptionError: one is.
    """
    name, values = method.name, vars(method)  # type: ignore[attr-defined]
    if not 0 <= values["sparsity"] < 1:
        raise OptionError(f"{name}: sparsity must be a share in [0, 1), got {values['sparsity']}.")
    if not 0 < values.get("threshold", 0.5) < 1:
        raise OptionError(f"{name}: threshold must be in (0, 1), got {values['threshold']}.")
    for option in ("penalty", "score_rate"):
        if not 0 <= values.get(option, 0.0) < float("inf"):
            raise OptionError(f"{name}: {option} must be at least 0, got {values[option]}.")
    if not 0 <= values["begin"] <= values["end"] <= 1:
        raise OptionError(
            f"{name}: begin and end must be shares with 0 <= begin <= end <= 1, got {values['begin']} and "
            f"{values['end']}."
        )
    if values["every"] < 1:
        raise OptionError(f"{name}: every must be at least 1 step, got {values['every']}.")
