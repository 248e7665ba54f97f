"""What a training method loses on its task: labels, next tokens, or the divergence from the original, as torch sees it.

Which task a model has is chosen by `onnxprune.loss`, distances of outputs are those of `objectives`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from onnxprune.errors import DataError
from onnxprune.learn import objectives
from onnxprune.learn.call import Tensor
from onnxprune.loss import Kind, Loss, class_axis
from onnxprune.runtime import Array, Feeds, Port, Session

_TINY = 1e-12
# Places without a label.
_NONE = -100


def cross_entropy(scores: Tensor, target: Tensor, *, soft: bool) -> Tensor:
    """Mean over the places that have a label, in nats.

    Args:
        scores: [..., classes] logits, or probabilities where `soft`.
        target: [...] class numbers; negative where there is none.
        soft: whether the scores are probabilities.
    """
    log_p = torch.log(torch.clamp(scores, min=_TINY)) if soft else torch.log_softmax(scores, -1)
    loss = torch.nn.functional.nll_loss(
        log_p.reshape(-1, log_p.shape[-1]), target.reshape(-1), ignore_index=_NONE, reduction="sum"
    )
    return loss / max(1, int((target >= 0).sum()))


def of_labels(output: Tensor, labels: Array, port: Port, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scores [..., classes], class numbers [...]) of an output and the labels of its samples."""
    axis = class_axis(port)
    logits = output.movedim(axis, -1)
    target = torch.from_numpy(np.asarray(labels).astype(np.int64)).to(output.device)
    target = target.reshape(logits.shape[:-1]).clone()
    target[target < 0] = _NONE
    if (largest := int(target.max())) >= logits.shape[-1]:
        raise DataError(
            f"--loss labels: output {port.name!r} has classes 0 to {logits.shape[-1] - 1}, got label {largest}. "
            "Mend the labels or choose --loss divergence."
        )
    if where is not None and target.numel() > target.shape[0]:
        target[~where.movedim(axis, -1)[..., 0].expand(target.shape)] = _NONE
    return logits, target


def of_next_tokens(logits: Tensor, tokens: Array, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """(logits [batch, sequence - 1, vocabulary], tokens that follow [batch, sequence - 1])."""
    target = torch.from_numpy(np.asarray(tokens).astype(np.int64))[:, 1:].clone().to(logits.device)
    if where is not None:
        real = where[..., 0].expand(logits.shape[:2])
        target[~(real[:, 1:] & real[:, :-1])] = _NONE
    return logits[:, :-1], target


@dataclass(frozen=True, eq=False)
class Task:
    """What a model is trained for.

    Attributes:
        kind: which loss.
        what: one phrase for reports.
        original: gives outputs to distil, and tells roles.
        targets: outputs that can be distilled.
        output: whose labels or next tokens are learned; None for divergence.
        tokens: the input whose next tokens are learned.
        soft: whether that output is a softmax already.
    """

    kind: Kind
    what: str
    original: Session
    targets: tuple[objectives.Target, ...]
    output: Port | None = None
    tokens: Port | None = None
    soft: bool = False

    def loss(
        self, outputs: Mapping[str, Tensor], feeds: Feeds, labels: Array | None, teacher: Mapping[str, Tensor]
    ) -> Tensor:
        """The mean over a run's samples; `teacher` is read for divergence alone."""
        if self.kind == "divergence" or self.output is None:
            return self.divergence(outputs, teacher, feeds, 1.0)
        output = outputs[self.output.name].float()
        where = objectives.valid(self.original.inputs, feeds, self.output, tuple(output.shape))
        if self.kind == "next-token" and self.tokens is not None:
            scores, target = of_next_tokens(output, np.asarray(feeds[self.tokens.name]), where)
        elif labels is not None:
            scores, target = of_labels(output, labels, self.output, where)
        else:
            raise DataError("train: samples must hold labels for this task. Add an array named 'labels'.")
        return cross_entropy(scores, target, soft=self.soft)

    def right(self, outputs: Mapping[str, Tensor], labels: Array) -> tuple[int, int]:
        """(places whose highest score is the label's, places that have a label)."""
        if self.output is None:
            return 0, 0
        scores, target = of_labels(outputs[self.output.name], labels, self.output, None)
        hits = (scores.argmax(-1) == target) & (target >= 0)
        return int(hits.sum()), int((target >= 0).sum())

    def divergence(
        self, outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor], feeds: Feeds, temperature: float
    ) -> Tensor:
        """The mean distance of outputs from the original's, each by its role."""
        distances = []
        for target in self.targets:
            student, wanted = outputs[target.port.name].float(), teacher[target.port.name].float()
            where = objectives.valid(self.original.inputs, feeds, target.port, tuple(wanted.shape))
            distances.append(objectives.distance(target, student, wanted, where, temperature))
        return torch.stack(distances).mean()

    def teach(self, feeds: Feeds, device: torch.device) -> dict[str, Tensor]:
        """The original's float outputs."""
        return {
            name: torch.from_numpy(np.asarray(value)).to(device)
            for name, value in self.original.run(feeds).items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        }


def task_of(loss: Loss, original: Session, feeds: Sequence[Feeds]) -> Task:
    """The task that a model's loss stands for.

    Raises:
        DataError: there is no float output to learn.
    """
    language = None if loss.output is None else loss.output.name
    targets = objectives.targets_of(original, feeds[0], "auto", language=language)
    if not targets:
        raise DataError("train: the model must have a float output to teach. It has none.")
    soft = any(target.probabilities for target in targets if target.port.name == language)
    return Task(loss.kind, loss.what, original, targets, loss.output, loss.tokens, soft)
