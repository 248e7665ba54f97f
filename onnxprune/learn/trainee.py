"""A model in training by a method: what it is made of, the step's loss, and the run from its start to its file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from onnxprune import spec
from onnxprune.data import Samples
from onnxprune.errors import DataError
from onnxprune.learn import objectives
from onnxprune.learn.batching import Batch, Batches
from onnxprune.learn.call import Tensor
from onnxprune.learn.checkpoint import Checkpoint, State
from onnxprune.learn.losses import Task, task_of
from onnxprune.learn.method import Method, Training
from onnxprune.learn.module import OnnxModule
from onnxprune.learn.procedure import Procedure, Seen
from onnxprune.learn.trained import prepare, trainable
from onnxprune.learn.training import Measure, Schedule, train
from onnxprune.loss import Loss, few, spread
from onnxprune.masks import mask_input
from onnxprune.model import Model, to_bytes
from onnxprune.padding import may_crop, padded_one
from onnxprune.runtime import Feeds, Session, observe_shapes, open_session
from onnxprune.store import Kept, key_of
from onnxprune.structure import Structure, read_structure

Array = np.ndarray[Any, Any]
# (model, times as fast as the one that came) -> (a cut model, figures).
Search = Callable[[Model, float], tuple[Model, Mapping[str, Any]]]
# So many held-out samples choose what is kept.
_STEERING = 256


@dataclass(eq=False)
class Trainee:
    """What a method is given to work on.

    Attributes:
        model: as it came; a method never edits it.
        form: of it that is trained: itself, or what a method has made of it.
        module: that form as torch computes it; its parameters are what is trained.
        training: options that every method has.
        task: what is learned, and from whom it can be distilled.
        samples: inputs, of which those that calibrate train and held-out ones choose what is kept.
        batches: of the training samples.
        steering: of the held-out ones.
        probes: feeds of two shapes.
        parameters: what the optimizer steps, by the names of stored tensors.
        mask: the input that is 0 at padded tokens; None: found by its name.
        seed: of every random choice.
        search: a model cut to be so many times as fast as the one that came, and what was found; None: not at hand.
        progress: told what is done.
    """

    model: Model
    form: Model
    module: OnnxModule
    training: Training
    task: Task
    samples: Samples
    batches: Batches
    steering: Batches
    probes: Sequence[Feeds]
    parameters: Mapping[str, torch.nn.Parameter]
    steering_labels: Array | None
    mask: str | None = None
    seed: int = 0
    search: Search | None = None
    progress: Callable[[str], None] = lambda _: None

    def work_on(self, form: Model) -> None:
        """Train another form of the model from now on: cut, or factored. Its teacher stays the model that came."""
        self.form = form
        self.module, self.parameters = _module_of(form, self.training)

    @property
    def original(self) -> Session:
        """The model as it came, in onnxruntime."""
        return self.task.original

    @cached_property
    def structure(self) -> Structure:
        """Dimensions of the model as it came: where heads, neurons and channels are."""
        return read_structure(self.model, observe_shapes(self.model, self.probes))

    @cached_property
    def labels(self) -> Array | None:
        """[training samples, …]."""
        return self.samples.calibration_labels

    def loss(self, procedure: Procedure, step: int, batch: Batch) -> dict[str, Tensor]:
        """Parts of a step's loss; gradients of their sum are in place."""
        sums: dict[str, Tensor] = {}

        def add(parts: Mapping[str, Tensor]) -> None:
            if not parts:
                return
            objectives.descend(objectives.total(parts))
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach().cpu()

        for (feeds, share), rows in zip(batch.parts, batch.rows, strict=True):
            parts = self._parts(procedure, step, feeds, rows)
            add({name: value * share for name, value in parts.items()})
        add(procedure.penalties(step))
        return sums

    def _parts(self, procedure: Procedure, step: int, feeds: Feeds, rows: tuple[int, ...]) -> Mapping[str, Tensor]:
        one, task, kind = self.training, self.task, self.module.device.type
        mixed = {"auto": kind == "cuda", "yes": True, "no": False}[one.mixed]
        teaches = procedure.teaches or one.distill > 0 or task.kind == "divergence"
        teacher = task.teach(feeds, self.module.device) if teaches else {}
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=mixed):
            outputs = self.module(feeds, wanted=procedure.wanted, gates=procedure.gates())
        labels = None if self.labels is None else self.labels[list(rows)]
        parts = {"task": task.loss(outputs, feeds, labels, teacher)}
        if one.distill and task.kind != "divergence":
            distance = task.divergence(outputs, teacher, feeds, one.temperature)
            parts = {"task": (1 - one.distill) * parts["task"], "distill": one.distill * distance}
        return procedure.parts(parts, Seen(step=step, outputs=outputs, teacher=teacher, feeds=feeds, rows=rows))

    def held_out(self, procedure: Procedure) -> float:
        """The task's loss on held-out samples that steer, the lower the better."""
        total, count = 0.0, 0
        with torch.no_grad():
            for (feeds, share), rows, samples in _runs(self.steering.in_order()):
                outputs = self.module(feeds, gates=procedure.gates())
                teacher = self.task.teach(feeds, self.module.device) if self.task.kind == "divergence" else {}
                labels = None if self.steering_labels is None else self.steering_labels[list(rows)]
                total += float(self.task.loss(outputs, feeds, labels, teacher)) * share * samples
                count += len(rows)
        return total / max(1, count)


def _runs(batches: Iterator[Batch]) -> Iterator[tuple[tuple[Feeds, float], tuple[int, ...], int]]:
    for batch in batches:
        yield from ((part, rows, batch.samples) for part, rows in zip(batch.parts, batch.rows, strict=True))


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a method made of a model.

    Attributes:
        model: as it is written.
        steps: how many were taken.
        best_step: after which what is kept stood.
        before: loss on held-out samples that steer, at the start.
        after: of what is kept.
        history: one entry a check: step, parts of the loss, held-out loss.
        summary: what the method says of itself.
        files: what stands beside the model, by the ending of its name.
    """

    model: Model
    steps: int
    best_step: int
    before: float
    after: float
    cpu_seconds: float
    history: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    files: Mapping[str, bytes]


def teach(
    method: Method,
    training: Training,
    model: Model,
    loss: Loss,
    samples: Samples,
    probes: Sequence[Feeds],
    *,
    mask: str | None = None,
    seed: int = 0,
    kept: Kept | None = None,
    search: Search | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Taught:
    """Run a method on a model, from its first step or from where an earlier run was interrupted.

    Args:
        method: with its options.
        training: options that every method has.
        model: with dense weights.
        loss: which task it has.
        samples: to train on.
        probes: feeds of two shapes.
        mask: the input that is 0 at padded tokens.
        seed: of every random choice.
        kept: where an interrupted run is kept; None: nowhere.
        search: for methods that cut by the clock.
        progress: told each step.

    Raises:
        OnnxPruneError: the model or the samples do not serve the method.
    """
    torch.manual_seed(seed)
    trainee = trainee_of(training, model, loss, samples, probes, mask=mask, seed=seed)
    trainee.search, trainee.progress = search, progress
    procedure = method.start(trainee)
    checkpoint = None
    if kept is not None:
        digest = hashlib.sha256(to_bytes(model)).hexdigest()
        parts = ("train", digest, spec.format(method), vars(training), seed, kept.key, torch.__version__)
        checkpoint = Checkpoint(kept.store, key_of(*parts), kept.fresh)
    state = school(trainee, procedure, training.steps, checkpoint)
    with procedure.judging():
        after = trainee.held_out(procedure)
        result = method.finish(model, trainee, procedure)
        # A method may have more to write than a model.
        beside = getattr(method, "files", None)
        files = {} if beside is None else beside(model, procedure)
    return Taught(
        model=result,
        steps=state.step,
        best_step=state.best_step,
        before=float(state.history[0]["held_out_loss"]),
        after=after,
        cpu_seconds=state.cpu_seconds,
        history=tuple(state.history),
        summary=procedure.summary(),
        files=files,
    )


def school(trainee: Trainee, procedure: Procedure, steps: int, checkpoint: Checkpoint | None = None) -> State:
    """Take so many steps; afterwards the parameters are the best that a check saw."""
    return train(
        trainee.parameters,
        Schedule.of(trainee.training, trainee.seed, steps),
        trainee.batches.from_step,
        lambda step, batch: trainee.loss(procedure, step, batch),
        Measure("train", "held_out_loss", lambda: trainee.held_out(procedure), falls=True),
        procedure,
        checkpoint,
        trainee.progress,
    )


def _module_of(model: Model, training: Training) -> tuple[OnnxModule, dict[str, torch.nn.Parameter]]:
    """A model as torch computes it, and what of it is trained."""
    module = OnnxModule(model)
    if torch.cuda.is_available():
        module = module.to("cuda")
    names = trainable(module, model, with_embeddings=training.embeddings)
    if not names:
        raise DataError("train: no weight of the model can be trained. Give a model with float weights.")
    return module, prepare(module, names)


def trainee_of(
    training: Training,
    model: Model,
    loss: Loss,
    samples: Samples,
    probes: Sequence[Feeds],
    *,
    mask: str | None = None,
    seed: int = 0,
) -> Trainee:
    """A model made ready to be trained."""
    original = open_session(model, threads=torch.get_num_threads())
    ports, feeds = original.inputs, samples.calibration
    module, parameters = _module_of(model, training)
    # Labels of single tokens stand beside the padding.
    chosen = mask_input(ports, mask) if loss.labels is None or loss.labels.ndim < 2 else None
    crops = chosen is not None and may_crop(original.run, padded_one(feeds, chosen), chosen, ports)
    cropped = chosen if crops else None
    held_out = few(samples.held_out, _STEERING)
    labels = samples.held_out_labels
    return Trainee(
        model=model,
        form=model,
        module=module,
        training=training,
        task=task_of(loss, original, feeds),
        samples=samples,
        batches=Batches(feeds, ports, training.batch, seed, run=original.run, mask=cropped),
        steering=Batches(held_out, ports, training.batch, seed, run=original.run, mask=cropped),
        probes=probes,
        parameters=parameters,
        steering_labels=None if labels is None else labels[spread(len(labels), _STEERING)],
        mask=mask,
        seed=seed,
    )
