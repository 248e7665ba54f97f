"""Cut by activations to uniform widths, then distil logits without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from onnxprune.errors import OptionError
from onnxprune.learn.method import Need, Training
from onnxprune.ranges import at_least, check_ranges, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model


@dataclass(frozen=True, kw_only=True)
class Minitron:
    """Cut the same share of heads and neurons in every layer, the least active first, and distil the original's logits.

    Attributes:
        heads: share of the heads of every attention that stay, in (0, 1]; 1: all.
        neurons: share of the neurons of every feed-forward pair that stay, in (0, 1]; 1: all.
        multiple: counts of neurons are rounded up to a multiple of this.
        score: by which units are ranked, as in `remove-heads`; `minitron` is the paper's.
        refit: refit what remains to the original's outputs before training, which the paper does not.
    """

    name: ClassVar[str] = "minitron"
    summary: ClassVar[str] = "uniform widths by activations, then distillation of logits without labels"
    source: ClassVar[str] = "Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation"
    needs: ClassVar[Sequence[Need]] = ("calibration", "samples", "gradients")
    reconstruction: ClassVar[str] = "the width of the residual stream stays; no search over shapes"
    training: ClassVar[Training] = Training(distill=1.0, temperature=1.0)
    heads: Annotated[float, within("(0, 1]", "a share")] = 0.5
    neurons: Annotated[float, within("(0, 1]", "a share")] = 0.5
    multiple: Annotated[int, at_least(1)] = 1
    score: Literal["magnitude", "minitron", "obs", "output-norm", "random", "wanda"] = "minitron"
    refit: bool = False

    def __post_init__(self) -> None:
        """Reject shares that cut nothing, or all."""
        check_ranges(self, self.name)
        if self.heads == self.neurons == 1:
            raise OptionError(f"{self.name}: heads and neurons are both 1, so that nothing goes. Give a share below 1.")

    def start(self, trainee: Trainee) -> Procedure:
        """Cut; what follows is plain training with the original's outputs as the loss."""
        from onnxprune.learn.cutting import cut
        from onnxprune.learn.procedure import Procedure
        from onnxprune.passes import RemoveHeads, RemoveNeurons

        score, form = self.score, trainee.model
        if self.heads < 1:
            form = cut(trainee, form, RemoveHeads(keep=self.heads, score=score, refit=self.refit), self.name)
        if self.neurons < 1:
            one = RemoveNeurons(keep=self.neurons, score=score, refit=self.refit, multiple=self.multiple)
            form = cut(trainee, form, one, self.name)
        trainee.work_on(form)
        return Procedure()

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The cut model with its trained weights."""
        from onnxprune.learn.module import write_back

        del model, procedure
        return write_back(trainee.form, trainee.module)
