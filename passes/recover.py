"""Train a model's weights towards its original, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from onnxprune.calibration import Needs
from onnxprune.errors import DataError, Declined
from onnxprune.graph import constants
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal, Trained
from onnxprune.ranges import above, at_least, check_ranges, within
from onnxprune.sites import GRAPH, Site

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recover:
    """Distil the original into the model: weights are trained on sample inputs without labels, structure stays.

    What is cut stays cut, zeros stay zeros, int8 stays on its grid. The best of all checks is kept, the start among
    them. Needs torch.

    Attributes:
        steps: of the optimizer.
        batch: samples of a step.
        lr: highest learning rate, reached after `warmup` and then let down along a cosine.
        warmup: share of the steps, in [0, 1).
        decay: weight decay of matrices.
        clip: largest norm of a step's gradient.
        objective: how outputs are compared: `kl` (logits), `squares` (relative), `cosine`; `auto`: by role.
        temperature: of `kl`.
        hidden: weight of the hidden states behind residual blocks; 0: outputs alone.
        pooled: weight of the cosine of mean-pooled outputs, where tokens are given out and a mask tells padding.
        rank: change matrices by products of this rank alone, merged at the end; 0: whole matrices.
        embeddings: train tables of embeddings, too.
        check: steps between checks of the fidelity on held-out samples.
        patience: checks without a better one after which it stops; 0: never.
        mixed: multiply in bfloat16, weights stay float32: `auto` (on a GPU), `yes`, `no`. Processors with matrix units
            for bfloat16 gain as well, others lose.

    Source: Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation, section 3.
    """

    name: ClassVar[str] = "recover"
    lossless: ClassVar[bool] = False
    steps: Annotated[int, at_least(1)] = 400
    batch: Annotated[int, at_least(1)] = 32
    lr: Annotated[float, above(0)] = 5e-4
    warmup: Annotated[float, within("[0, 1)")] = 0.1
    decay: Annotated[float, at_least(0)] = 0.01
    clip: Annotated[float, above(0)] = 1.0
    objective: Literal["auto", "cosine", "kl", "squares"] = "auto"
    temperature: Annotated[float, above(0)] = 1.0
    hidden: Annotated[float, at_least(0)] = 1.0
    pooled: Annotated[float, at_least(0)] = 10.0
    rank: Annotated[int, at_least(0)] = 0
    embeddings: bool = False
    check: Annotated[int, at_least(1)] = 50
    patience: Annotated[int, at_least(0)] = 0
    mixed: Literal["auto", "no", "yes"] = "auto"

    def __post_init__(self) -> None:
        """Reject values out of range."""
        check_ranges(self, self.name)

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing up front."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit with every weight that changed."""
        del sites
        if context.recover is None:
            raise DataError(f"{self.name}: it needs sample inputs. Give --data, or --allow-synthetic.")
        trained = context.recover(model, self)
        if not trained.weights:
            why = f"no step was better than the start (fidelity {trained.before:.4f})"
            return Proposal((), (Skip(site=GRAPH, why=why),))
        return Proposal((self._edit(trained),))

    def _edit(self, trained: Trained) -> Edit:
        names = sorted(trained.weights)
        return Edit(
            id=f"{self.name}.{GRAPH}",
            pass_name=self.name,
            site=GRAPH,
            kind="set-weights",
            args={
                "weights": names,
                "steps": trained.steps,
                "best_step": trained.best_step,
                "fidelity": [trained.before, trained.after],
                "cpu_seconds": trained.cpu_seconds,
                "objective": trained.objective,
                "history": [dict(entry) for entry in trained.history],
            },
            tensors={f"weight.{at}": trained.weights[name] for at, name in enumerate(names)},
        )

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with the trained numbers in its stored tensors.

        Raises:
            Declined: a tensor is missing or of another shape or type.
        """
        copy = model.copy()
        held = {tensor.name: tensor for tensor in constants(copy.graph)}
        changes = []
        for edit in edits:
            names = [str(name) for name in edit.args["weights"]]
            for at, name in enumerate(names):
                values, tensor = edit.tensors[f"weight.{at}"], held.get(name)
                if tensor is None or tuple(tensor.shape) != values.shape or tensor.dtype != values.dtype:
                    raise Declined(f"{edit.site}: the model has no {values.dtype} {name!r} {list(values.shape)}")
                tensor.values = values
            before, after = edit.args["fidelity"]
            steps = f"{edit.args['best_step']} of {edit.args['steps']} steps"
            what = f"{len(names)} weights trained: fidelity {before:.4f} to {after:.4f} after {steps}"
            changes.append(Change(site=edit.site, what=what))
        return copy, tuple(changes)
