"""A model trained by one of the methods: `onnxprune train`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune import spec
from onnxprune.errors import OptionError
from onnxprune.fidelity import Fidelity
from onnxprune.files import atomic
from onnxprune.graph import constants, numbers
from onnxprune.learn import require_torch
from onnxprune.learn.method import Method, Training
from onnxprune.learn.methods import METHODS
from onnxprune.loss import check_loss
from onnxprune.model import Model, save, to_bytes
from onnxprune.result import DataNote, note_of
from onnxprune.resuming import Trail, trail_of
from onnxprune.search.finding import reach
from onnxprune.search.goal import Goal
from onnxprune.search.memory import Forgetful
from onnxprune.search.searcher import Searcher
from onnxprune.subject import Subject
from onnxprune.targets.target import parse_target
from onnxprune.teaching import check_samples, judged, load_teacher, place_for

if TYPE_CHECKING:
    from onnxprune.learn.trainee import Search

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The answer of `onnxprune train`.

    Attributes:
        method: its name with the options that differ from their defaults.
        training: the options that every method has.
        task: what was learned, in words.
        loss: on held-out samples at the start and of what is kept, those that chose it; the lower the better.
        fidelity: of the result beside the model as it came. Training for labels may move outputs on purpose.
        steps: of the optimizer.
        best_step: the step that is kept.
        numbers: stored floats with two axes or more, before and after.
        nonzero: of those.
        history: one entry a check: step, parts of the loss, held-out loss.
        details: what the method says of itself.
        files: what stands beside the result.
    """

    input: Path
    output: Path
    method: str
    training: Training
    data: DataNote
    kind: str
    task: str
    loss: tuple[float, float]
    fidelity: Fidelity
    steps: int
    best_step: int
    numbers: tuple[int, int]
    nonzero: tuple[int, int]
    cpu_seconds: float
    history: tuple[Mapping[str, Any], ...]
    details: Mapping[str, Any]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "input": str(self.input),
            "output": str(self.output),
            "method": self.method,
            "training": asdict(self.training),
            "data": vars(self.data),
            "task": {"kind": self.kind, "what": self.task},
            "loss": {"before": self.loss[0], "after": self.loss[1]},
            "fidelity": self.fidelity.to_json(),
            "steps": self.steps,
            "best_step": self.best_step,
            "numbers": {"before": self.numbers[0], "after": self.numbers[1]},
            "nonzero": {"before": self.nonzero[0], "after": self.nonzero[1]},
            "cpu_seconds": self.cpu_seconds,
            "history": [dict(entry) for entry in self.history],
            "details": dict(self.details),
            "files": [str(file) for file in self.files],
            "notes": list(self.notes),
        }


def settings_of(name: str, options: Sequence[str] = ()) -> tuple[Method, Training]:
    """A method and the options that every method has, from texts `option=value`.

    Raises:
        OptionError: no such method or option, or a value out of range.
    """
    if name not in METHODS:
        raise OptionError(f"No training method named {name!r}. Known: {', '.join(sorted(METHODS))}.")
    kind: Any = METHODS[name]
    values = spec.values_of(name, options, (Training, kind))
    own = {field.name for field in fields(kind)}
    shared = {key: value for key, value in values.items() if key not in own}
    method: Method = kind(**{key: value for key, value in values.items() if key in own})
    return method, replace(kind.training, **shared)


def train(model: Any, method: str | Method, **rest: Any) -> Trained:
    """Train a model by a method that makes it smaller.

    Args:
        model: an .onnx file, trained as `train_file` says; or a torch.nn.Module, as `torch_training.train_module` says.
        method: its name, or itself.
        rest: as those take it.

    Raises:
        OnnxPruneError: an input is at fault, or torch is missing; nothing has been written.
    """
    require_torch("train")
    if isinstance(model, Path | str):
        return train_file(model, method, **rest)
    from onnxprune.torch_training import train_module

    return train_module(model, method, **rest)


def train_file(
    model: Path | str,
    method: str | Method,
    *,
    data: str | None = None,
    output: Path | str | None = None,
    options: Sequence[str] = (),
    training: Training | None = None,
    seed: int = 0,
    loss: str | None = None,
    mask: str | None = None,
    fresh: bool = False,
    allow_synthetic: bool = False,
    progress: Progress = lambda _: None,
) -> Trained:
    """Train a model by a method that makes it smaller; what comes out is an ONNX file that the passes then cut.

    Args:
        model: an .onnx file.
        method: its name, or itself.
        data: sample inputs as for `optimize`, with `labels` where they are learned; every fourth is held out.
        output: where the result goes; `NAME.trained.onnx` beside the model by default.
        options: `option=value` of the method, and of what every method has.
        training: what every method has, where the method is given itself.
        seed: of every random choice.
        loss: the task: `labels`, `next-token` or `divergence`; by default labels where there are any that fit.
        mask: the input that is 0 at padded tokens; found by its name by default.
        fresh: begin anew where an earlier run was interrupted.
        allow_synthetic: train on made-up inputs.
        progress: told each step.

    Raises:
        OnnxPruneError: an input is at fault, or torch is missing; nothing has been written.
    """
    require_torch("train")
    one, shared = settings_of(method, options) if isinstance(method, str) else (method, training or method.training)
    check_loss(loss)
    path = Path(model)
    destination = place_for(output, path, "trained")
    check_samples("train", data, allow_synthetic=allow_synthetic)
    progress("load and run the model")
    subject = load_teacher(path, data, seed, mask, loss)
    task = subject.measure
    trail = trail_of(path, subject, parse_target("cpu:1"), seed, fresh=fresh)

    from onnxprune.learn.trainee import teach

    taught = teach(
        one,
        shared,
        subject.model,
        task,
        subject.samples,
        subject.evidence.probes,
        mask=mask,
        seed=seed,
        kept=trail.kept(),
        search=_search(subject, trail, seed, progress),
        progress=progress,
    )
    progress("judge and save")
    fidelity = judged(taught.model, subject, path, "what training made of it cannot stand", "Try a lower lr.")
    beside = {destination.with_suffix(ending): content for ending, content in taught.files.items()}
    for place, content in beside.items():
        with atomic(place) as file:
            file.write(content)
    save(taught.model, destination)
    before, after = _counts(subject.model), _counts(taught.model)
    return Trained(
        input=path,
        output=destination,
        method=spec.format(one),
        training=shared,
        data=note_of(subject),
        kind=task.kind,
        task=task.what,
        loss=(taught.before, taught.after),
        fidelity=fidelity,
        steps=taught.steps,
        best_step=taught.best_step,
        numbers=(before[0], after[0]),
        nonzero=(before[1], after[1]),
        cpu_seconds=taught.cpu_seconds,
        history=taught.history,
        details=taught.summary,
        files=tuple(beside),
        notes=(*subject.model.notes, *trail.notes()),
    )


def _search(subject: Subject, trail: Trail, seed: int, progress: Progress) -> Search:
    """Cuts a form of the original to a speed on one thread, by its own latency and error tables."""

    def search(model: Model, speedup: float) -> tuple[Model, Mapping[str, Any]]:
        searcher = Searcher(
            subject=subject,
            model=model,
            target=parse_target("cpu:1"),
            identity=f"{trail.base['model']}.{hashlib.sha256(to_bytes(model)).hexdigest()}",
            memory=Forgetful(),
            timings=trail.timings(),
            seed=seed,
            structural=True,
            progress=progress,
        )
        best = reach(searcher, Goal(speedup=speedup)).best
        figures = {
            "asked": speedup,
            "predicted": best.predicted,
            "measured": best.measured,
            "loss": best.loss,
            "levels": {name: str(level) for name, level in best.choice.items()},
            "evaluations": searcher.judge.evaluations,
        }
        return searcher.builder.build(best.choice), figures

    return search


def _counts(model: Model) -> tuple[int, int]:
    """(numbers, those that are not zero) of stored floats with two axes or more."""
    held = [numbers(constant) for constant in constants(model.graph)]
    floats = [values for values in held if values.dtype.kind == "f" and values.ndim > 1]
    return sum(values.size for values in floats), sum(int(np.count_nonzero(values)) for values in floats)
