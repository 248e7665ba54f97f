"""Heads whose number every attention finds for itself, and whose knowledge goes to their peers when they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from onnxprune.errors import OptionError
from onnxprune.learn.deciding import KEEP, GateOptions, count_of
from onnxprune.learn.method import Need, Training
from onnxprune.ranges import at_least, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class PeerDistillation(GateOptions):
    """APD-style, a reconstruction from the abstract: heads go where they are missed least, and peers take over.

    Gates choose while weights rest. What closed heads gave is then recycled into the heads that stay, in least squares,
    and training holds each attention to what it gave with all heads. `remove-dead` cuts the closed heads exactly.

    Attributes:
        keep: share of all heads to keep, in (0, 1), or their number from 1; each attention's own count is found.
        peer: weight of what attentions give beside the task; 0: none.
        recycle: whether heads that stay take over in least squares what the others gave.
        decide: share of the steps in which gates choose; the rest trains the weights.
    """

    name: ClassVar[str] = "peer-distillation"
    summary: ClassVar[str] = "automatic head counts, closed heads recycled into their peers (APD-style)"
    source: ClassVar[str] = "Li et al. 2023, Towards Lossless Head Pruning through Automatic Peer Distillation"
    needs: ClassVar[Sequence[Need]] = ("calibration", "samples", "gradients")
    reconstruction: ClassVar[str] = "all of it: from the paper's abstract; its formulas and code are not public"
    training: ClassVar[Training] = Training()
    keep: Annotated[int | float, KEEP] = 0.5
    peer: Annotated[float, at_least(0)] = 1.0
    recycle: bool = True
    decide: Annotated[float, within("(0, 1)", "a share")] = 0.4

    def __post_init__(self) -> None:
        """Reject values out of range."""
        super().__post_init__()
        if not self.keep:
            raise OptionError(f"{self.name}: keep must be above 0, got {self.keep}.")

    def start(self, trainee: Trainee) -> Procedure:
        """Gates on the heads of every attention."""
        from onnxprune.learn.gated import Gates
        from onnxprune.learn.gates import VOITA
        from onnxprune.learn.gating import SizePrice, heads_of, rounded
        from onnxprune.learn.peers import PeerTraining

        places, sites = heads_of(trainee, self.name)
        at = self.decision(trainee.training.steps)
        whole = sum(place.units for place in places)
        count = count_of(self.name, self.keep, whole)
        gates = Gates(places, VOITA, start=0.0, spread=0.01, seed=trainee.seed)
        price = SizePrice(gates.whole_cost, 1 - count / whole, at // 2)
        return PeerTraining(
            trainee, sites, gates, price, rounded(count), rate=self.gate_lr, at=at, peer=self.peer,
            recycle=self.recycle,
        )  # fmt: skip

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model whose closed heads reach nothing."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)
