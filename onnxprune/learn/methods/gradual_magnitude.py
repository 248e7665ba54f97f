"""Gradual magnitude pruning: more and more of the smallest weights are zero while training goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxprune.errors import OptionError
from onnxprune.learn.method import Need, Training
from onnxprune.quantizing.recipes import parse_sparsity
from onnxprune.solvers.wanda import Blocks

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model

_BLOCK = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude:
    """Prune by magnitude along a cubic schedule, within each matrix, while training goes on.

    Attributes:
        sparsity: share of each matrix that is zero in the end, in [0, 1), or `N:M`: N of M consecutive inputs stay.
        block: tiles `INPUTSxOUTPUTS` that are zero or not as a whole, by their mean magnitude.
        begin: share of the steps before the first zero.
        end: share of the steps after which masks stay as they are.
        every: steps between masks.
        head: prune products that stand straight before an output, too.
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
    begin: float = 0.1
    end: float = 0.7
    every: int = 10
    head: bool = True
    int8: Literal["no", "weights", "yes"] = "no"

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if parse_sparsity(self.sparsity) is None:
            raise OptionError(
                f"{self.name}: sparsity must be a share in [0, 1) or N:M with N below M, got {self.sparsity}."
            )
        if _BLOCK.fullmatch(self.block) is None:
            raise OptionError(f"{self.name}: block must be INPUTSxOUTPUTS such as 4x1, got {self.block!r}.")
        if self.block != "1x1" and isinstance(self.sparsity, str):
            raise OptionError(f"{self.name}: sparsity {self.sparsity} has blocks of its own. Leave block out.")
        if not 0 <= self.begin <= self.end <= 1:
            raise OptionError(
                f"{self.name}: begin and end must be shares with 0 <= begin <= end <= 1, got {self.begin} and "
                f"{self.end}."
            )
        if self.every < 1:
            raise OptionError(f"{self.name}: every must be at least 1 step, got {self.every}.")
        if self.int8 not in {"no", "weights", "yes"}:
            raise OptionError(f"{self.name}: int8 must be one of no, weights, yes, got {self.int8!r}.")

    def start(self, trainee: Trainee) -> Procedure:
        """Masks that grow along the schedule."""
        from onnxprune.learn.gradual import GradualMasks
        from onnxprune.learn.masking import Pattern
        from onnxprune.learn.schedules import within

        wanted = parse_sparsity(self.sparsity)
        rows, columns = (int(size) for size in self.block.split("x"))
        pattern = Pattern(wanted if isinstance(wanted, Blocks) else None, rows, columns)
        final = wanted.zeros / wanted.of if isinstance(wanted, Blocks) else float(wanted or 0.0)
        schedule = within(final, self.begin, self.end, self.every, trainee.training.steps)
        return GradualMasks(trainee, pattern, schedule, self.int8, head=self.head)

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model with its zeros."""
        from onnxprune.learn.module import write_back

        del procedure
        return write_back(model, trainee.module)
