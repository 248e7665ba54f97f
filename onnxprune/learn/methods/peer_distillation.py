"""Heads whose number every attention finds for itself, and whose knowledge goes to their peers when they go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from onnxprune.errors import OptionError
from onnxprune.learn.deciding import check_gates, check_keep, count_of, step_of
from onnxprune.learn.method import Need, Training

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class PeerDistillation:
    """APD-style, a reconstruction from the abstract: heads go where they are missed least, and peers take over.

    Gates choose while weights rest. What closed heads gave is then recycled into the heads that stay, in least squares,
    and training holds each attention to what it gave with all heads. `remove-dead` cuts the closed heads exactly.

    Attributes:
        keep: share of all heads to keep, in (0, 1), or their number from 1; each attention's own count is found.
        peer: weight of what attentions give beside the task; 0: none.
        recycle: whether heads that stay take over in least squares what the others gave.
        gate_lr: learning rate of the gates and of their price.
        decide: share of the steps in which gates choose; the rest trains the weights.
    """

    name: ClassVar[str] = "peer-distillation"
    summary: ClassVar[str] = "automatic head counts, closed heads recycled into their peers (APD-style)"
    source: ClassVar[str] = "Li et al. 2023, Towards Lossless Head Pruning through Automatic Peer Distillation"
    needs: ClassVar[Sequence[Need]] = ("calibration", "samples", "gradients")
    reconstruction: ClassVar[str] = "all of it: from the paper's abstract; its formulas and code are not public"
    training: ClassVar[Training] = Training()
    keep: int | float = 0.5
    peer: float = 1.0
    recycle: bool = True
    gate_lr: float = 0.05
    decide: float = 0.4

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_gates(self.name, self.gate_lr, self.decide)
        check_keep(self.name, self.keep)
        if not self.keep:
            raise OptionError(f"{self.name}: keep must be above 0, got {self.keep}.")
        if not 0 <= self.peer < float("inf"):
            raise OptionError(f"{self.name}: peer must be at least 0, got {self.peer}.")

    def start(self, trainee: Trainee) -> Procedure:
        """Gates on the heads of every attention."""
        from onnxprune.learn.gated import Gates
        from onnxprune.learn.gates import VOITA
        from onnxprune.learn.gating import SizePrice, heads_of, rounded
        from onnxprune.learn.peers import PeerTraining

        places, sites = heads_of(trainee, self.name)
        at = step_of(self.decide, trainee.training.steps)
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
