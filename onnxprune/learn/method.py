"""What a training method is: a frozen dataclass of options that starts a procedure. No torch: methods can be listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from onnxprune.ranges import above, at_least, check_ranges, within

if TYPE_CHECKING:
    from onnxprune.learn.procedure import Procedure
    from onnxprune.learn.trainee import Trainee
    from onnxprune.model import Model

Need = Literal["calibration", "gradients", "labels", "pretrained", "samples"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options that every training method has.

    Attributes:
        steps: of the optimizer.
        batch: samples of a step.
        lr: highest learning rate of the weights, reached after `warmup` and then let down along a cosine.
        warmup: share of the steps, in [0, 1).
        decay: weight decay of matrices.
        clip: largest norm of a step's gradient.
        distill: share of the loss that is the divergence from the original's outputs, in [0, 1]; the rest is the task.
        temperature: of that divergence.
        embeddings: train tables of embeddings, too.
        check: steps between checks of the loss on held-out samples.
        patience: checks without a better one after which it stops; 0: never.
        mixed: multiply in bfloat16, weights stay float32: `auto` (on a GPU), `yes`, `no`.
    """

    steps: Annotated[int, at_least(1)] = 400
    batch: Annotated[int, at_least(1)] = 32
    lr: Annotated[float, at_least(0)] = 5e-4
    warmup: Annotated[float, within("[0, 1)")] = 0.1
    decay: Annotated[float, at_least(0)] = 0.01
    clip: Annotated[float, above(0)] = 1.0
    distill: Annotated[float, within("[0, 1]")] = 0.0
    temperature: Annotated[float, above(0)] = 2.0
    embeddings: bool = False
    check: Annotated[int, at_least(1)] = 50
    patience: Annotated[int, at_least(0)] = 0
    mixed: Literal["auto", "no", "yes"] = "auto"

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_ranges(self, "train")


class Method(Protocol):
    """A training method: its fields are its options.

    A method that has more to write than a model may offer `files(model, procedure)`: bytes by the ending of their name.

    Attributes:
        name: as it is typed.
        summary: one line.
        source: author, year, title.
        needs: what must be given besides the model; `samples` are inputs to train on.
        reconstruction: what of it is ours rather than published; empty where nothing is.
        training: defaults of the options that every method has.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Sequence[Need]]
    reconstruction: ClassVar[str]
    training: ClassVar[Training]

    def start(self, trainee: Trainee) -> Procedure:
        """Start on a model. Here torch is imported.

        Raises:
            OnnxPruneError: the model or the data do not serve.
        """
        ...

    def finish(self, model: Model, trainee: Trainee, procedure: Procedure) -> Model:
        """The model as it is written: `write_back` where no structure changes."""
        ...
