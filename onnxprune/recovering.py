"""A finished candidate trained towards its original: `onnxprune recover`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune import spec
from onnxprune.errors import DataError, ModelError
from onnxprune.fidelity import Fidelity
from onnxprune.judge import Broken, judge
from onnxprune.latency import Clock
from onnxprune.learn import require_torch
from onnxprune.model import Model, load, save
from onnxprune.packing import unpacked
from onnxprune.passes import PackWeights, Recover
from onnxprune.plan import Edit
from onnxprune.protocol import Pass
from onnxprune.replaying import check_destination
from onnxprune.result import DataNote
from onnxprune.resuming import trail_of
from onnxprune.sites import find_sites
from onnxprune.steps import take
from onnxprune.subject import Subject, context_for, load_subject
from onnxprune.targets.target import parse_target

Progress = Callable[[str], None]

# Training takes many samples; of those held out so many judge.
_JUDGES = 256


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
    destination = Path(output) if output is not None else path.with_name(f"{path.stem}.recovered.onnx")
    check_destination(destination, path)
    check_destination(destination, original)
    if data is None and not allow_synthetic:
        raise DataError("recover: it needs sample inputs. Give --data, or --allow-synthetic to train on made-up ones.")
    progress("load and run the original")
    subject = load_subject(original, data, {}, seed, None, mask, allow_synthetic=allow_synthetic, most_judges=_JUDGES)
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
        data=DataNote(
            source=subject.samples.source,
            samples=len(subject.samples.feeds),
            calibration=len(subject.samples.calibration),
            held_out=len(subject.evidence.held_out),
            synthetic=subject.samples.synthetic,
        ),
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
    try:
        return judge(model, subject.evidence, lossless=False)
    except Broken as reason:
        raise ModelError(f"{path}: it does not stand beside its original: {reason}. Give the right pair.") from reason


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
