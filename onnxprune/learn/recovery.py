"""Distillation: a cut model is trained on its original's outputs and hidden states, without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from onnxprune.data import Samples
from onnxprune.errors import DataError
from onnxprune.fidelity import Fidelity, compare
from onnxprune.learn import objectives
from onnxprune.learn.batching import Batch, Batches
from onnxprune.learn.call import Tensor
from onnxprune.learn.checkpoint import Checkpoint
from onnxprune.learn.matching import Pairing, match_blocks
from onnxprune.learn.module import OnnxModule, changed
from onnxprune.learn.trained import prepare, trainable
from onnxprune.learn.training import Measure, Schedule, train
from onnxprune.loss import few
from onnxprune.masks import mask_input
from onnxprune.model import Model, to_bytes
from onnxprune.padding import may_crop, padded_one
from onnxprune.passes import Recover
from onnxprune.protocol import Trained
from onnxprune.runtime import Feeds, Session, open_session, with_outputs
from onnxprune.store import Kept, key_of

Array = np.ndarray[Any, Any]


def recover(
    candidate: Model,
    settings: Recover,
    *,
    teacher: Model,
    samples: Samples,
    probes: Sequence[Feeds],
    mask: str | None = None,
    seed: int = 0,
    kept: Kept | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train a model's weights towards its original's outputs; every structure stays as it is.

    Args:
        candidate: the model to train; its inputs and outputs are the teacher's.
        settings: options of the pass.
        teacher: the original.
        samples: of which those that calibrate train, and held-out ones steer.
        probes: feeds of two shapes, in which hidden states are matched.
        mask: the input that is 0 at padded tokens.
        seed: of the order of samples.
        kept: where an interrupted run is kept; None: nowhere.
        progress: told each step.

    Raises:
        DataError: there is nothing to teach.
        ModelError: the model has operators that torch does not compute.
    """
    torch.manual_seed(seed)
    lesson = _lesson(candidate, teacher, settings, samples, probes, mask, seed)
    module = OnnxModule(candidate)
    if torch.cuda.is_available():
        module = module.to("cuda")
    names = trainable(module, candidate, with_embeddings=settings.embeddings)
    if not names:
        raise DataError("recover: no weight of the model can be trained. Leave recover out.")
    parameters = prepare(module, names, rank=settings.rank, seed=seed)
    checkpoint = None
    if kept is not None:
        parts = (_digest(candidate), _digest(teacher), asdict(settings), seed, kept.key, torch.__version__)
        checkpoint = Checkpoint(kept.store, key_of(*parts), kept.fresh)
    state = train(
        parameters,
        Schedule.of(settings, seed, settings.steps),
        lesson.batches.from_step,
        lambda _, batch: lesson.loss(module, batch),
        Measure("recover", "fidelity", lambda: lesson.score(module).score),
        checkpoint=checkpoint,
        progress=progress,
    )
    module.merge_updates()
    return Trained(
        weights=changed(candidate, module),
        steps=state.step,
        best_step=state.best_step,
        before=float(state.history[0]["fidelity"]),
        after=state.best_score,
        cpu_seconds=state.cpu_seconds,
        history=tuple(state.history),
        objective=lesson.words(),
    )


def _digest(model: Model) -> str:
    import hashlib

    return hashlib.sha256(to_bytes(model)).hexdigest()


@dataclass(frozen=True)
class Lesson:
    """What a student is taught on, by whom, and how it is judged.

    Attributes:
        teacher: gives outputs and hidden states.
        steering: held-out samples that choose the best checkpoint.
        wanted: the teacher's outputs on them.
    """

    settings: Recover
    teacher: Session
    interface: Session
    batches: Batches
    pairs: tuple[Pairing, ...]
    targets: tuple[objectives.Target, ...]
    steering: Sequence[Feeds]
    wanted: tuple[Mapping[str, Any], ...]

    def loss(self, module: OnnxModule, batch: Batch) -> dict[str, Tensor]:
        """Parts of a batch's loss; gradients of their sum are in place."""
        sums: dict[str, Tensor] = {}
        for feeds, share in batch.parts:
            theirs = {
                name: torch.from_numpy(np.asarray(value)).to(module.device)
                for name, value in self.teacher.run(feeds).items()
                if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            }
            kind = module.device.type
            mixed = {"auto": kind == "cuda", "yes": True, "no": False}[self.settings.mixed]
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=mixed):
                mine = module(feeds, wanted=[pair.student for pair in self.pairs])
            parts = {name: value * share for name, value in self._parts(mine, theirs, feeds).items()}
            objectives.descend(objectives.total(parts))
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach().cpu()
        return sums

    def _parts(self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], feeds: Feeds) -> dict[str, Tensor]:
        inputs, settings = self.interface.inputs, self.settings
        parts: dict[str, Tensor] = {}
        outputs, pooled, hidden = [], [], []
        for target in self.targets:
            name = target.port.name
            student, teacher = mine[name].float(), theirs[name].float()
            where = objectives.valid(inputs, feeds, target.port, tuple(teacher.shape))
            outputs.append(objectives.distance(target, student, teacher, where, settings.temperature))
            if target.kind == "squares" and where is not None and teacher.dim() == 3:
                pooled.append(objectives.pooled_distance(student, teacher, where))
        parts["output"] = torch.stack(outputs).mean()
        if pooled and settings.pooled:
            parts["pooled"] = settings.pooled * torch.stack(pooled).mean()
        for pair in self.pairs:
            student, teacher = mine[pair.student].float(), theirs[pair.teacher].float()
            port = next(iter(self.targets)).port
            where = objectives.valid(inputs, feeds, _like(port, pair, teacher), tuple(teacher.shape))
            hidden.append(objectives.relative_squares(student, teacher, pair.features, where))
        if hidden and settings.hidden:
            mean = torch.stack(hidden).mean()
            # Logits: as large as the loss of the outputs, whatever its unit (Minitron's alpha).
            scale = (parts["output"] / mean.clamp(min=1e-6)).detach() if self.has_logits else 1.0
            parts["hidden"] = settings.hidden * scale * mean
        return parts

    @property
    def has_logits(self) -> bool:
        """Whether an output is taught by its divergence."""
        return any(target.kind == "kl" for target in self.targets)

    def score(self, module: OnnxModule) -> Fidelity:
        """Fidelity on the samples that steer."""

        def run(feeds: Feeds) -> dict[str, Array]:
            with torch.no_grad():
                return {name: value.cpu().numpy() for name, value in module(feeds).items()}

        return compare(self.wanted, run, self.steering, inputs=self.interface.inputs, outputs=self.interface.outputs)

    def words(self) -> str:
        """The objective in one line."""
        kinds = {"kl": "divergence of logits", "squares": "relative squares", "cosine": "cosine"}
        taught = ", ".join(f"{target.port.name} by {kinds[target.kind]}" for target in self.targets)
        behind = f", hidden states behind {len(self.pairs)} blocks" if self.pairs and self.settings.hidden else ""
        return f"{taught}{behind}"


def _like(port: Any, pair: Pairing, teacher: Tensor) -> Any:
    """A hidden state as a port: its sequence runs along an axis without a name."""
    from onnxprune.runtime import Port

    return Port(pair.teacher, port.dtype, (None,) * teacher.dim())


def _lesson(
    candidate: Model,
    teacher: Model,
    settings: Recover,
    samples: Samples,
    probes: Sequence[Feeds],
    mask: str | None,
    seed: int,
) -> Lesson:
    interface = open_session(teacher)
    pairs = match_blocks(teacher, candidate, list(probes)) if settings.hidden else ()
    session = open_session(with_outputs(teacher, [pair.teacher for pair in pairs]), threads=torch.get_num_threads())
    ports = interface.inputs
    feeds = samples.calibration
    chosen = mask_input(ports, mask)
    crops = chosen is not None and may_crop(interface.run, padded_one(feeds, chosen), chosen, ports)
    batches = Batches(feeds, ports, settings.batch, seed, run=interface.run, mask=chosen if crops else None)
    targets = objectives.targets_of(interface, feeds[0], settings.objective)
    if not targets:
        raise DataError("recover: the model must have a float output to teach. It has none.")
    steering = few(samples.held_out)
    wanted = tuple(interface.run(one) for one in steering)
    return Lesson(settings, session, interface, batches, pairs, targets, steering, wanted)
