"""Gradual structured pruning for a speed: search by the clock, cut, distil tokens, and again a little further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from onnxprune.errors import DataError
from onnxprune.learn.method import Need, Training
from onnxprune.ranges import above, at_least, check_ranges

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class ZipLM:
    """Cut heads, neurons and blocks so that a speed is met with the least loss, in rounds with distillation between.

    Each round times the levels of every place, weighs their losses, searches (knapsack and coefficients), cuts with the
    optimal update of what remains, and trains towards the original's outputs and hidden states.

    Attributes:
        speedup: times as fast as the model that came, on one thread of this processor.
        rounds: each takes an equal part of the way, as a ratio.
        between: steps of training after every round but the last, which takes `steps`.
        hidden: weight of the hidden states behind blocks; 0: outputs alone.
    """

    name: ClassVar[str] = "ziplm"
    summary: ClassVar[str] = "structured pruning for a measured speed, in rounds with token distillation"
    source: ClassVar[str] = "Kurtic, Frantar and Alistarh 2023, ZipLM"
    needs: ClassVar[Sequence[Need]] = ("calibration", "samples", "gradients")
    reconstruction: ClassVar[str] = "weights of the three losses are ours; the search is that of goals"
    training: ClassVar[Training] = Training(distill=0.5, temperature=1.0)
    speedup: Annotated[float, above(1)] = 2.0
    rounds: Annotated[int, at_least(1)] = 2
    between: Annotated[int, at_least(1)] = 100
    hidden: Annotated[float, at_least(0)] = 1.0

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_ranges(self, self.name)

    def targets(self) -> tuple[float, ...]:
        """The speed of every round."""
        return tuple(self.speedup ** (turn / self.rounds) for turn in range(1, self.rounds + 1))

    def start(self, trainee: Trainee) -> Procedure:
        """Every round up to the last cut; the loop trains what is left."""
        from onnxprune.learn.hidden import TokenDistillation
        from onnxprune.learn.module import write_back
        from onnxprune.learn.trainee import school

        if trainee.search is None:
            raise DataError(f"{self.name}: it searches by the clock, and none is at hand. Use onnxprune.train.")
        form, found = trainee.model, list[dict[str, Any]]()
        for turn, target in enumerate(self.targets()):
            trainee.progress(f"round {turn + 1} of {self.rounds}: cut to {target:.2f} x the speed")
            form, figures = trainee.search(form, target)
            found.append(dict(figures))
            trainee.work_on(form)
            if turn + 1 < self.rounds:
                school(trainee, TokenDistillation(trainee, self.hidden), self.between)
                form = write_back(form, trainee.module)
        return TokenDistillation(trainee, self.hidden, found)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The cut model with its trained weights."""
        from onnxprune.learn.module import write_back

        del model, procedure
        return write_back(trainee.form, trainee.module)
