"""CAP: contrastive terms beside any way of pruning, and the banks that they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onnxprune.errors import DataError
from onnxprune.learn.call import Tensor
from onnxprune.learn.contrast import Contrast, Run, bank_of, contrast, vector_tensor, vectors_of
from onnxprune.learn.module import Gate, Slot
from onnxprune.learn.procedure import Array, Group, Procedure, Seen
from onnxprune.learn.trainee import Trainee
from onnxprune.model import Model, load
from onnxprune.packing import unpacked
from onnxprune.runtime import Feeds, open_session, with_outputs

# Further rows of the banks that a batch is contrasted with.
_OTHERS = 4096


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Weights of the contrastive terms.

    Attributes:
        unsupervised: of the same sample.
        supervised: of the same class.
        temperature: of both.
        snapshots: steps before which the student's own vectors are kept.
    """

    unsupervised: float
    supervised: float
    temperature: float
    snapshots: tuple[int, ...]


class Contrasting(Procedure):
    """A way of pruning with contrastive terms added."""

    def __init__(self, trainee: Trainee, inner: Procedure, terms: Terms, pretrained: Path | None) -> None:
        """Compute the banks of the model as it came, and of the pre-trained one.

        Raises:
            OnnxPruneError: the pre-trained model cannot be read, or takes other inputs.
        """
        self.inner = inner
        self.terms = terms
        self._trainee = trainee
        output = None if trainee.task.output is None else trainee.task.output.name
        self.vector = vector_tensor(trainee.model, output)
        self.wanted = tuple(dict.fromkeys([*inner.wanted, self.vector]))
        self.teaches = inner.teaches
        self.count = len(trainee.samples.calibration)
        self.classes = _classes(trainee)
        self.banks = {"fine-tuned": self._bank(self._of_model(trainee.model, output))}
        if pretrained is not None:
            model, _ = unpacked(load(pretrained))
            self.banks["pre-trained"] = self._bank(self._of_model(model, output, pretrained))
        self.snapshots: list[Tensor] = []

    def _of_model(self, model: Model, output: str | None, path: Path | None = None) -> Run:
        name, ports = vector_tensor(model, output), self._trainee.original.inputs
        session = open_session(with_outputs(model, [name]), threads=torch.get_num_threads())
        if sorted(port.name for port in session.inputs) != sorted(port.name for port in ports):
            raise DataError(
                f"{path}: inputs must be those of the model, {', '.join(sorted(port.name for port in ports))}, got "
                f"{', '.join(sorted(port.name for port in session.inputs))}. Give the model that it was tuned from."
            )
        return lambda feeds: vectors_of(session.run(feeds), name, ports, feeds).to(self._trainee.module.device)

    def _bank(self, run: Run) -> Tensor:
        return bank_of(run, self._trainee.batches.in_order(), self.count)

    def _own(self, feeds: Feeds) -> Tensor:
        module = self._trainee.module
        outputs = module(feeds, wanted=self.wanted, gates=self.inner.gates())
        return vectors_of(outputs, self.vector, self._trainee.original.inputs, feeds)

    def before_step(self, step: int) -> None:
        """Keep the student's vectors where a snapshot is due, before it is pruned further."""
        if step in self.terms.snapshots[len(self.snapshots) :]:
            with self.inner.judging():
                self.snapshots.append(self._bank(self._own))
        self.inner.before_step(step)

    def parts(self, parts: Mapping[str, Tensor], seen: Seen) -> Mapping[str, Tensor]:
        """The task, and a term of each bank; the snapshots are one."""
        queries = vectors_of(seen.outputs, self.vector, self._trainee.original.inputs, seen.feeds)
        rows = torch.tensor(seen.rows, device=queries.device)
        sums = dict(self.inner.parts(parts, seen))
        groups: list[Sequence[Tensor]] = [[bank] for bank in self.banks.values()]
        groups += [self.snapshots] if self.snapshots else []
        found = [self._contrast(queries, banks, rows) for banks in groups]
        sums["contrast"] = self.terms.unsupervised * torch.stack([one.unsupervised for one in found]).sum()
        classed = [one.supervised for one in found if one.supervised is not None]
        if classed:
            sums["classes"] = self.terms.supervised * torch.stack(classed).sum()
        return sums

    def _contrast(self, queries: Tensor, banks: Sequence[Tensor], rows: Tensor) -> Contrast:
        many = max(1, _OTHERS // len(banks))
        drawn = [torch.randperm(self.count)[:many].to(rows) for _ in banks]
        others = [each[~torch.isin(each, rows)] for each in drawn]
        classes = None if self.classes is None else self.classes.to(rows.device)
        return contrast(queries, banks, rows, others, classes, self.terms.temperature)

    def groups(self) -> Sequence[Group]:
        """Of the way of pruning."""
        return self.inner.groups()

    def gates(self) -> Mapping[Slot, Gate]:
        """Of the way of pruning."""
        return self.inner.gates()

    def penalties(self, step: int) -> Mapping[str, Tensor]:
        """Of the way of pruning."""
        return self.inner.penalties(step)

    def after_backward(self, step: int) -> None:
        """As the way of pruning does."""
        self.inner.after_backward(step)

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """As the way of pruning does."""
        self.inner.after_step(step, optimizer)

    def ready(self, step: int) -> bool:
        """As the way of pruning does."""
        return self.inner.ready(step)

    def judging(self) -> AbstractContextManager[None]:
        """As the way of pruning does."""
        return self.inner.judging()

    def state(self) -> dict[str, Array]:
        """Masks, and snapshots, which nothing could compute again."""
        held = {f"snapshot/{at}": bank.cpu().numpy() for at, bank in enumerate(self.snapshots)}
        return {**self.inner.state(), **held}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Both as they were."""
        self.inner.load({name: each for name, each in arrays.items() if not name.startswith("snapshot/")})
        count = sum(name.startswith("snapshot/") for name in arrays)
        device = self._trainee.module.device
        self.snapshots = [torch.from_numpy(arrays[f"snapshot/{at}"]).to(device) for at in range(count)]

    def summary(self) -> dict[str, Any]:
        """The way of pruning's, and where vectors came from."""
        return {
            **self.inner.summary(),
            "vector": self.vector,
            "banks": [*self.banks, *(f"snapshot before step {step}" for step in self.terms.snapshots)],
            "classes": self.classes is not None,
        }


def _classes(trainee: Trainee) -> Tensor | None:
    """[training samples] one class each; None where labels are no such thing."""
    labels = trainee.labels
    if trainee.task.kind != "labels" or labels is None:
        return None
    flat = np.asarray(labels).reshape(len(labels), -1)
    if flat.shape[1] == 1:
        return torch.from_numpy(flat[:, 0].astype(np.int64))
    # One labelled place a sample is a class, too: an answer at the last token.
    single = (flat >= 0).sum(1) == 1
    return torch.from_numpy(flat.max(1).astype(np.int64)) if single.all() else None
