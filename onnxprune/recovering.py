"""A finished candidate trained towards its original: `onnxprune recover`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune import spec
from onnxprune.errors import ModelError
from onnxprune.fidelity import Fidelity
from onnxprune.latency import Clock
from onnxprune.learn import require_torch
from onnxprune.model import Model, load, save
from onnxprune.packing import unpacked
from onnxprune.passes import PackWeights, Recover
from onnxprune.plan import Edit
from onnxprune.protocol import Pass
from onnxprune.result import DataNote, note_of
from onnxprune.resuming import trail_of
from onnxprune.sites import find_sites
from onnxprune.steps import take
from onnxprune.subject import Subject, context_for
from onnxprune.targets.target import parse_target
from onnxprune.teaching import check_samples, judged, load_teacher, place_for

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """The answer of `onnxprune recover`.

    Attributes:
        before: fidelity of the candidate on all held-out samples.
        after: of the result, on the same.
        steps: of the optimizer.
        best_step: the step that is kept; 0: the candidate itself.
        steering: fidelity at the start and of what is kept, on the held-out samples that chose it.
        history: one entry a check: step, parts of the loss, fidelity.
    """

    candidate: Path
    teacher: Path
    output: Path
    settings: str
    data: DataNote
    before: Fidelity
    after: Fidelity
    steps: int
    best_step: int
    steering: tuple[float, float]
    weights: int
    cpu_seconds: float
    objective: str
    history: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "candidate": str(self.candidate),
            "teacher": str(self.teacher),
            "output": str(self.output),
            "settings": self.settings,
            "data": vars(self.data),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "steps": self.steps,
            "best_step": self.best_step,
            "steering": list(self.steering),
            "weights": self.weights,
            "cpu_seconds": self.cpu_seconds,
            "objective": self.objective,
            "history": [dict(entry) for entry in self.history],
            "notes": list(self.notes),
        }


def recover(
    candidate: Path | str,
    teacher: Path | str,
    *,
    data: str | None = None,
    output: Path | str | None = None,
    settings: Recover | None = None,
    seed: int = 0,
    mask: str | None = None,
    fresh: bool = False,
    allow_synthetic: bool = False,
    progress: Progress = lambda _: None,
) -> Recovered:
    """Train a candidate's weights towards its original, on sample inputs without labels; structure stays.

    Args:
        candidate: the pruned, factored, sparse, quantized or packed model.
        teacher: the original that it was made from.
        data: sample inputs as for `optimize`; every fourth is held out.
        output: where the result goes; `NAME.recovered.onnx` beside the candidate by default.
        settings: of the training.
        seed: of the order of samples.
        mask: the input that is 0 at padded tokens; found by its name by default.
        fresh: begin anew where an earlier run was interrupted.
        allow_synthetic: train on made-up inputs.
        progress: told each step.

    Raises:
        OnnxPruneError: an input is at fault, or torch is missing; nothing has been written.
    """
    require_torch("recover")
    one = settings or Recover()
    path, original = Path(candidate), Path(teacher)
    destination = place_for(output, path, "recovered", original)
    check_samples("recover", data, allow_synthetic=allow_synthetic)
    progress("load and run the original")
    subject = load_teacher(original, data, seed, mask)
    model, packed = unpacked(load(path))
    _refuse_another(model, path, subject)
    trail = trail_of(original, subject, parse_target("cpu:1"), seed, fresh=fresh)
    before = _judged(model, subject, path)
    edits, result = _taken(one, model, subject, trail.kept(), seed, progress)
    if packed:
        progress("pack")
        _, result = _taken(PackWeights(), result, subject, None, seed, progress)
    progress("save")
    after = _judged(result, subject, path)
    save(result, destination)
    args: Mapping[str, Any] = edits[0].args if edits else {}
    return Recovered(
        candidate=path,
        teacher=original,
        output=destination,
        settings=spec.format(one),
        data=note_of(subject),
        before=before,
        after=after,
        steps=int(args.get("steps", one.steps)),
        best_step=int(args.get("best_step", 0)),
        steering=tuple(args.get("fidelity", (before.score, before.score))),
        weights=len(args.get("weights", ())),
        cpu_seconds=float(args.get("cpu_seconds", 0.0)),
        objective=str(args.get("objective", "")),
        history=tuple(args.get("history", ())),
        notes=(*model.notes, *trail.notes()),
    )


def _taken(
    one: Pass, model: Model, subject: Subject, kept: Any, seed: int, progress: Progress
) -> tuple[tuple[Edit, ...], Model]:
    clock = Clock(parse_target("cpu:1"))
    context = context_for(one, model, subject.model, subject, clock, seed=seed, kept=kept, progress=progress)
    step = take(one, model, find_sites(model, context.structure), context, subject.evidence, None)
    return step.edits, step.model


def _judged(model: Model, subject: Subject, path: Path) -> Fidelity:
    return judged(model, subject, path, "it does not stand beside its original", "Give the right pair.")


def _refuse_another(model: Model, path: Path, subject: Subject) -> None:
    """Raise where inputs or outputs are not those of the teacher."""
    for what, own, theirs in (
        ("inputs", model.graph.inputs, subject.session.inputs),
        ("outputs", model.graph.outputs, subject.session.outputs),
    ):
        names, wanted = [tensor.name for tensor in own], [port.name for port in theirs]
        missing = sorted(set(wanted).symmetric_difference(names))
        if missing:
            raise ModelError(
                f"{path}: {what} must be those of {subject.path}, {', '.join(map(repr, missing))} differ. "
                "Give the original that it was made from."
            )
