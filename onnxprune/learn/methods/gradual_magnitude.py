"""Gradual magnitude pruning: more and more of the smallest weights are zero while training goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxprune.errors import OptionError
from onnxprune.learn.method import Need, Training
from onnxprune.learn.methods.scheduled import Scheduled
from onnxprune.quantizing.recipes import parse_sparsity
from onnxprune.solvers.wanda import Blocks

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model

_BLOCK = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude(Scheduled):
    """Prune by magnitude along a cubic schedule, within each matrix, while training goes on.

    Attributes:
        sparsity: share of each matrix that is zero in the end, in [0, 1), or `N:M`: N of M consecutive inputs stay.
        block: tiles `INPUTSxOUTPUTS` that are zero or not as a whole, by their mean magnitude.
        end: share of the steps after which masks stay as they are.
        int8: round to int8 in training: `no`, `weights`, or `yes`, what products read, too. Weights end on the grid.
    """

    name: ClassVar[str] = "gradual-magnitude"
    summary: ClassVar[str] = "zeros by magnitude along a cubic schedule, while training goes on"
    source: ClassVar[str] = "Zhu and Gupta 2017, To Prune, or Not to Prune"
    needs: ClassVar[Sequence[Need]] = ("samples", "gradients")
    reconstruction: ClassVar[str] = "int8 together with pruning is the paper's open question"
    training: ClassVar[Training] = Training()
    sparsity: float | str = 0.8
    block: str = "1x1"
    head: bool = True
    int8: Literal["no", "weights", "yes"] = "no"

    def __post_init__(self) -> None:
        """Reject values out of range."""
        super().__post_init__()
        if parse_sparsity(self.sparsity) is None:
            raise OptionError(
                f"{self.name}: sparsity must be a share in [0, 1) or N:M with N below M, got {self.sparsity!r}."
            )
        if _BLOCK.fullmatch(self.block) is None:
            raise OptionError(f"{self.name}: block must be INPUTSxOUTPUTS such as 4x1, got {self.block!r}.")
        if self.block != "1x1" and isinstance(self.sparsity, str):
            raise OptionError(f"{self.name}: sparsity {self.sparsity} has blocks of its own. Leave block out.")

    def start(self, trainee: Trainee) -> Procedure:
        """Masks that grow along the schedule."""
        from onnxprune.learn.gradual import GradualMasks
        from onnxprune.learn.masking import Pattern

        wanted = parse_sparsity(self.sparsity)
        rows, columns = (int(size) for size in self.block.split("x"))
        pattern = Pattern(wanted if isinstance(wanted, Blocks) else None, rows, columns)
        final = wanted.zeros / wanted.of if isinstance(wanted, Blocks) else float(wanted or 0.0)
        schedule = self.schedule(final, trainee.training.steps)
        return GradualMasks(trainee, pattern, schedule, self.int8, head=self.head)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model with its zeros."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)
