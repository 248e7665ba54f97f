"""Stochastic gates on attention heads: those that the loss does not hold open close while training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from onnxprune.learn.deciding import KEEP, GateOptions, count_of
from onnxprune.learn.method import Need, Training
from onnxprune.ranges import at_least, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class HeadGates(GateOptions):
    """Learn which attention heads can go; their rows of the output projection are zero in the end.

    `remove-dead` then cuts them exactly.

    Attributes:
        price: of an open head, in units of the loss, times the mean over layers of the open ones; where keep is 0.
        keep: instead, the share of all heads to keep, in (0, 1), or their number from 1; 0: as the price has it.
        decide: share of the steps after which gates are rounded to 0 or 1; the rest trains the weights alone.
    """

    name: ClassVar[str] = "head-gates"
    summary: ClassVar[str] = "stochastic L0 gates on attention heads"
    source: ClassVar[str] = "Voita et al. 2019, Analyzing Multi-Head Self-Attention"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients")
    reconstruction: ClassVar[str] = "a number of heads by FLOP's Lagrangian; weights alone are trained in the end"
    training: ClassVar[Training] = Training()
    price: Annotated[float, at_least(0)] = 0.05
    keep: Annotated[int | float, KEEP] = 0
    decide: Annotated[float, within("(0, 1)", "a share")] = 0.7

    def start(self, trainee: Trainee) -> Procedure:
        """Gates on the heads of every attention."""
        from onnxprune.learn.gated import Gates
        from onnxprune.learn.gates import VOITA
        from onnxprune.learn.gating import FixedPrice, GateTraining, Price, SizePrice, heads_of, rounded

        places, _ = heads_of(trainee, self.name)
        at = self.decision(trainee.training.steps)
        gates = Gates(places, VOITA, start=0.0, spread=0.01, seed=trainee.seed)
        whole = sum(place.units for place in places)
        count = count_of(self.name, self.keep, whole)
        price: Price = FixedPrice(self.price)
        if count:
            # Heads of one model cost the same, or nearly: their number is the size.
            price = SizePrice(gates.whole_cost, 1 - count / whole, at // 2)
        return GateTraining(trainee, gates, price, rounded(count), rate=self.gate_lr, at=at)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model whose closed heads reach nothing."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)
