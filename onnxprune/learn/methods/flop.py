"""Linears as products P·diag(z)·Q whose components close under a size that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from onnxprune.learn.deciding import GateOptions
from onnxprune.learn.method import Need, Training
from onnxprune.ranges import at_least, within

if TYPE_CHECKING:
    from onnxprune.learn.gated import Gates
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model
    from onnxprune.runtime import Array


@dataclass(frozen=True, kw_only=True)
class Flop(GateOptions):
    """Learn the rank of every linear: pairs of low rank whose components have gates and pay for their size.

    Pairs start from the SVD, with as many numbers as the linear has. Where gates are decided, the most open components
    fill the size exactly; their soft gates are folded into the right factor, and a linear without any is its bias.

    Attributes:
        keep: share of the numbers of all factored weights, in (0, 1).
        tables: also tables of embeddings and heads tied to them, as codes in clusters by frequency.
        drop: rate of dropping that gates start from, in (0, 1).
        order: how far logits start apart by the logarithms of singular values; 0: not at all, as the paper has it.
        sites: these linears only; all of them by default.
    """

    name: ClassVar[str] = "flop"
    summary: ClassVar[str] = "low-rank pairs whose ranks are learned under a size"
    source: ClassVar[str] = "Wang, Wohlwend and Lei 2020, Structured Pruning of Large Language Models"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients")
    reconstruction: ClassVar[str] = "pairs and the order of gates start from an SVD; gates are ranked to the exact size"
    training: ClassVar[Training] = Training()
    keep: Annotated[float, within("(0, 1)", "a share")] = 0.5
    tables: bool = False
    drop: Annotated[float, within("(0, 1)", "a share")] = 0.1
    order: Annotated[float, at_least(0)] = 1.0
    sites: tuple[str, ...] = ()

    def start(self, trainee: Trainee) -> Procedure:
        """Factor the model and gate it."""
        from onnxprune.learn.factored import factored, filling
        from onnxprune.learn.gated import Gates
        from onnxprune.learn.gates import FLOP
        from onnxprune.learn.gating import FactoredTraining, SizePrice

        form = factored(trainee, tables=self.tables, sites=self.sites, method=self.name)
        trainee.work_on(form.form)
        at = self.decision(trainee.training.steps)
        places = [one.gated for one in form.components]
        apart = [self.order * one.order() for one in form.components]
        gates = Gates(places, FLOP, start=FLOP.logit_for(self.drop), spread=0.01, seed=trainee.seed, apart=apart)
        price = SizePrice(form.whole, 1 - self.keep, at // 2)
        keep = filling(form, self.keep)

        def decide(gates: Gates) -> list[Array]:
            # A gate far closed is 0 to float32; what has to stay is not.
            soft = [value.clip(min=1e-6) for value in gates.soft()]
            return [value * stays for value, stays in zip(soft, keep(soft), strict=True)]

        return FactoredTraining(trainee, gates, price, decide, rate=self.gate_lr, at=at, form=form)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model with pairs of what stayed."""
        from onnxprune.learn.gating import FactoredTraining
        from onnxprune.learn.module import write_back

        del model
        if not isinstance(procedure, FactoredTraining):
            raise TypeError(procedure)
        return procedure.form.result(write_back(trainee.form, trainee.module), procedure.values or [])
