"""Contrastive terms: a student's vectors are drawn towards what other models make of the same samples, and classes.

Source: Xu et al. 2022, From Dense to Sparse: Contrastive Pruning for Better Pre-trained Language Model Compression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from onnxprune.learn import objectives
from onnxprune.learn.batching import Batch
from onnxprune.learn.call import Tensor
from onnxprune.learn.matrices import last_product
from onnxprune.model import Model
from onnxprune.runtime import Array, Feeds, Port

# What a query's own vector scores among the candidates: never chosen.
_NEVER = -1e6
Run = Callable[[Feeds], Tensor]


@dataclass(frozen=True)
class Contrast:
    """What the terms of one bank, or of several snapshots together, come to.

    Attributes:
        unsupervised: -mean log-probability of the same sample in the banks.
        supervised: of samples of the same class, in the batch and the banks; None without classes.
    """

    unsupervised: Tensor
    supervised: Tensor | None


def contrast(
    queries: Tensor,
    banks: Sequence[Tensor],
    rows: Tensor,
    others: Sequence[Tensor],
    classes: Tensor | None,
    temperature: float,
) -> Contrast:
    """Contrast a batch with banks of other models' vectors.

    A query's candidates are the batch itself, detached, and of each bank the batch's rows and some others. With
    similarities z·c / temperature of unit vectors, both terms are means over the log-softmax of positive candidates.

    Args:
        queries: [n, d] of the student.
        banks: [samples, d] each, unit vectors.
        rows: [n] which samples the queries are.
        others: [k] further rows of each bank.
        classes: [samples]; negative where there is none.
        temperature: above 0.
    """
    queries = torch.nn.functional.normalize(queries, dim=-1)
    n = len(queries)
    candidates, samples = [queries.detach()], [rows]
    for bank, more in zip(banks, others, strict=True):
        candidates += [bank[rows], bank[more]]
        samples += [rows, more]
    similarity = queries @ torch.cat(candidates).to(queries).T / temperature
    own = torch.zeros_like(similarity, dtype=torch.bool)
    own[:, :n] = torch.eye(n, dtype=torch.bool, device=own.device)
    log_p = torch.log_softmax(similarity.masked_fill(own, _NEVER), dim=-1)
    same = rows[:, None] == torch.cat(samples)[None, :]
    in_bank = torch.arange(same.shape[1], device=same.device) >= n
    supervised = None
    if classes is not None:
        mine, theirs = classes[rows][:, None], classes[torch.cat(samples)][None, :]
        supervised = _mean_over((mine == theirs) & (mine >= 0) & ~own, log_p)
    return Contrast(_mean_over(same & in_bank, log_p), supervised)


def _mean_over(positive: Tensor, log_p: Tensor) -> Tensor:
    """-mean over each query's positives, then over the queries that have any."""
    count = positive.sum(1)
    each = -(log_p * positive).sum(1) / count.clamp(min=1)
    return (each * (count > 0)).sum() / (count > 0).sum().clamp(min=1)


def bank_of(run: Run, batches: Iterator[Batch], samples: int) -> Tensor:
    """[samples, d] unit vectors of all samples, by whatever gives a run's vectors."""
    held: Tensor | None = None
    with torch.no_grad():
        for batch in batches:
            for (feeds, _), rows in zip(batch.parts, batch.rows, strict=True):
                vectors = torch.nn.functional.normalize(run(feeds).float(), dim=-1)
                if held is None:
                    held = torch.zeros(samples, vectors.shape[-1], device=vectors.device)
                held[list(rows)] = vectors
    return torch.zeros(samples, 1) if held is None else held


def vector_tensor(model: Model, output: str | None) -> str:
    """The tensor that a sample's vector is read from: what the last product before an output reads.

    Where no product with a stored weight stands straight before the output, it is the output itself.
    """
    names = [tensor.name for tensor in model.graph.outputs]
    name = str(output if output in names else names[0])
    use = last_product(model, name)
    return name if use is None else str(use.node.inputs[0 if use.slot else 1].name)


def pooled(value: Tensor, ports: Sequence[Port], feeds: Feeds, name: str) -> Tensor:
    """[n, d] one vector a sample: the mean over real tokens, or over an image's places."""
    if value.dim() < 3:
        return value
    if value.dim() > 3:
        return value.flatten(2).mean(2)
    port = Port(name, np.dtype(np.float32), (None,) * value.dim())
    where = objectives.valid(ports, feeds, port, tuple(value.shape))
    if where is None:
        return value.mean(1)
    weight = where.to(value)
    return (value * weight).sum(1) / weight.sum(1).clamp(min=1)


def vectors_of(outputs: Mapping[str, Tensor | Array], name: str, ports: Sequence[Port], feeds: Feeds) -> Tensor:
    """One vector a sample, of the outputs of a module or a session."""
    value = outputs[name]
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))
    return pooled(tensor.float(), ports, feeds, name)
