"""What a student is taught: its teacher's outputs, each by its role, and the hidden states behind its blocks.

Logits by the forward Kullback-Leibler divergence, the teacher's distribution first (Muralidharan et al. 2024, Compact
Language Models via Pruning and Knowledge Distillation, section 3: no labels, temperature 1); everything else by
relative squares, 1 - the share of variance that survives, which is what fidelity measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from onnxprune.learn.call import Tensor
from onnxprune.roles import padding_masks, state_outputs, valid_positions
from onnxprune.runtime import Feeds, Port, Session

Array = np.ndarray[Any, Any]
Kind = Literal["kl", "squares", "cosine"]
# Names that exporters give to what a softmax follows.
_LOGITS = re.compile(r"logit|(^|[._/])(scores?|probs?|probabilit|prediction|class)", re.IGNORECASE)
_SUM_TOLERANCE = 1e-3
_TINY = 1e-12


@dataclass(frozen=True)
class Target:
    """An output that is taught.

    Attributes:
        kind: how the distance is measured.
        classes: the axis that a softmax is taken over, or that a vector runs along.
        probabilities: whether the output is a softmax already.
    """

    port: Port
    kind: Kind
    classes: int = -1
    probabilities: bool = False


def targets_of(session: Session, feeds: Feeds, asked: str, *, language: str | None = None) -> tuple[Target, ...]:
    """Every float output that is no state, with the distance that suits its role.

    Args:
        session: of the teacher.
        feeds: one sample.
        asked: a kind for all outputs, or `auto`.
        language: the output that is known to hold logits of next tokens.
    """
    states = state_outputs(session.inputs, session.outputs)
    found = []
    values = session.run(feeds)
    # A graph may give one output twice.
    for port in {port.name: port for port in session.outputs}.values():
        value = values[port.name]
        if port.name in states or not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
            continue
        classes = 1 if value.ndim > 3 else -1
        many = value.ndim > 1 and value.shape[classes] > 1
        soft = many and bool(value.min() >= 0) and bool(np.abs(value.sum(axis=classes) - 1).max() < _SUM_TOLERANCE)
        kind: Kind = "kl" if soft or (many and (port.name == language or _LOGITS.search(port.name))) else "squares"
        if asked in {"kl", "squares", "cosine"}:
            kind = asked  # type: ignore[assignment]
        found.append(Target(port, kind, classes, soft))
    return tuple(found)


def descend(loss: Tensor) -> None:
    """Add the gradients of a loss; none where no weight was read on the way, as in the other branch of an If."""
    if loss.requires_grad:
        loss.backward()


def valid(ports: Sequence[Port], feeds: Feeds, port: Port, shape: tuple[int, ...]) -> Tensor | None:
    """Where an output's positions are real, as it broadcasts; None where all are."""
    where = valid_positions(padding_masks(ports), feeds, port, shape)
    return None if where is None else torch.from_numpy(np.ascontiguousarray(where))


def distance(target: Target, student: Tensor, teacher: Tensor, where: Tensor | None, temperature: float) -> Tensor:
    """How far an output is from the teacher's, a mean over real positions; 0 is perfect."""
    if target.kind == "kl":
        return divergence(target, student, teacher, where, temperature)
    if target.kind == "cosine":
        return _cosine_distance(student, teacher, target.classes, where)
    return relative_squares(student, teacher, target.classes, where)


def divergence(target: Target, student: Tensor, teacher: Tensor, where: Tensor | None, temperature: float) -> Tensor:
    """KL(teacher ‖ student) in nats, times temperature²."""
    if target.probabilities:
        log_p, log_q = (torch.log(torch.clamp(x, min=_TINY)) for x in (teacher, student))
    else:
        log_p, log_q = (torch.log_softmax(x / temperature, target.classes) for x in (teacher, student))
    each = (log_p.exp() * (log_p - log_q)).sum(target.classes, keepdim=True)
    return _mean(each, where) * temperature**2


def relative_squares(student: Tensor, teacher: Tensor, features: int, where: Tensor | None) -> Tensor:
    """Σ‖y - ŷ‖² / Σ‖y - ȳ‖² over real positions; ȳ is each feature's mean, and 0 for a lone position."""
    weight = torch.ones((), device=teacher.device) if where is None else where.to(teacher)
    axes = tuple(axis for axis in range(teacher.dim()) if axis != features % teacher.dim())
    whole = weight.expand_as(teacher)
    count = whole.sum(axes, keepdim=True).clamp(min=1)
    mean = (teacher * weight).sum(axes, keepdim=True) / count
    mean = torch.where(count > 1, mean, torch.zeros_like(mean))
    scale = ((teacher - mean).square() * weight).sum()
    return ((student - teacher).square() * weight).sum() / scale.clamp(min=_TINY)


def _cosine_distance(student: Tensor, teacher: Tensor, features: int, where: Tensor | None) -> Tensor:
    cosine = torch.cosine_similarity(student, teacher, dim=features).unsqueeze(features)
    return _mean(1 - cosine, where)


def _mean(each: Tensor, where: Tensor | None) -> Tensor:
    if where is None:
        return each.mean()
    weight = where.to(each).expand_as(each)
    return (each * weight).sum() / weight.sum().clamp(min=1)


def pooled_distance(student: Tensor, teacher: Tensor, where: Tensor) -> Tensor:
    """1 - cosine of the means over real positions of [batch, sequence, features], as sentence encoders are used."""
    weight = where.to(teacher)
    count = weight.sum(1).clamp(min=1)
    mine, theirs = ((x * weight).sum(1) / count for x in (student, teacher))
    return (1 - torch.cosine_similarity(mine, theirs, dim=-1)).mean()


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of what a step loses."""
    return torch.stack([part.reshape(()) for part in parts.values()]).sum()
