"""One job, in order: load, run the original, edit with proof, save, time, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from onnxprune import spec
from onnxprune.cost import Cost, cost
from onnxprune.deployment import Form, deploy, fixed_sizes
from onnxprune.errors import OptionError
from onnxprune.loss import check_loss
from onnxprune.model import Model, data_files, save
from onnxprune.packing import unpacked
from onnxprune.passes import PackWeights, known
from onnxprune.plan import Edit, Plan, plan_files
from onnxprune.protocol import Pass
from onnxprune.replaying import apply, check_destination, replay
from onnxprune.result import DataNote, Goal, Result
from onnxprune.resuming import trail_of, versions
from onnxprune.runtime import Feeds, observe_shapes
from onnxprune.stages import Outcome, run_passes
from onnxprune.subject import Subject, load_subject
from onnxprune.synthetic import parse_shapes
from onnxprune.targets.target import Target, parse_target

# Without a goal or a pass: lossless edits and round-to-nearest int8, which needs no data.
DEFAULT_PASSES = ("simplify", "remove-dead", "sparse-int8", "pack-weights")
DEFAULT_FLOOR = 0.95
# Seconds of alternated runs behind the reported speed-up.
TIMING_S = 6.0

Progress = Callable[[str], None]


def optimize(
    model: Path | str,
    *,
    output: Path | str | None = None,
    data: str | None = None,
    passes: Sequence[str] = (),
    fidelity: float | Literal["off"] | None = None,
    target: str = "cpu:1",
    shape: Sequence[str] = (),
    seed: int = 0,
    allow_synthetic: bool = False,
    loss: str | None = None,
    mask: str | None = None,
    fixed_shapes: Sequence[str] = (),
    ort: bool = False,
    fresh: bool = False,
    progress: Progress = lambda _: None,
) -> Result:
    """Compress a model and prove it.

    Args:
        model: the .onnx file.
        output: where the result goes; `NAME.optimized.onnx` beside the input by default.
        data: sample inputs: an .npz, a folder of .npz files, or `module:function`; synthetic inputs without it.
        passes: specs of the passes to run after `simplify`; the default pipeline without them.
        fidelity: the floor under which edits are reverted; 0.95 by default, none with `passes`.
        target: where to time, e.g. `cpu:1`.
        shape: `NAME=1x128` for the timed run; the first sample's shapes by default.
        seed: of every random choice.
        allow_synthetic: let passes calibrate on synthetic inputs.
        loss: what scores by loss measure: `next-token`, `labels` or `divergence` from the original's outputs; by
            default the labels' where `data` holds some, else divergence.
        mask: the input that is 0 at padded tokens, which statistics leave out; found by its name by default.
        fixed_shapes: `NAME=1x128`; the result is written with static inputs, too, as `STEM.fixed.onnx`.
        ort: the result is written in the ORT format, too, with the list of its operators.
        fresh: take nothing over from earlier runs; without it a run that was killed continues where it was.
        progress: told each stage as it begins.

    Raises:
        OnnxPruneError: the input is at fault; nothing has been written.
    """
    path = Path(model)
    destination = Path(output) if output is not None else path.with_name(f"{path.stem}.optimized.onnx")
    place = parse_target(target)
    check_loss(loss)
    chosen = _passes(passes)
    floor = _floor(fidelity, passes)
    sizes = parse_shapes(shape)
    fixed_sizes(fixed_shapes)
    check_destination(destination, path)
    progress("load and run the original")
    subject = load_subject(path, data, sizes, seed, loss, mask, allow_synthetic=allow_synthetic)
    if subject.packed and all(one.name != PackWeights.name for one in chosen):
        # What came packed goes packed.
        chosen = (*chosen, PackWeights())

    trail = trail_of(path, subject, place, seed, fresh=fresh)
    outcome = run_passes(chosen, subject, place, trail, floor, seed=seed, progress=progress)

    progress("save")
    plan = Plan(
        model_sha256=str(trail.base["model"]),
        versions=versions(),
        options={
            "passes": [spec.format(one) for one in chosen],
            "fidelity": floor,
            "target": place.name,
            "shape": {name: list(size) for name, size in sizes.items()},
            "loss": subject.loss.kind if subject.loss is not None else None,
        },
        seed=seed,
        edits=outcome.edits,
    )
    plan_path = destination.with_name(f"{destination.stem}.plan.json")
    with plan_files(plan, plan_path):
        save(outcome.model, destination)
    forms: tuple[Form, ...] = ()
    if fixed_shapes or ort:
        progress("write other forms")
        stem = destination.with_suffix("")
        forms = deploy(destination, fixed_shapes=fixed_shapes, ort=ort, output=stem, data=data, seed=seed).forms
    progress(f"time both on {place.name}")
    notes = (*_loss_notes(subject, outcome.edits), *_sparsity_notes(outcome.edits), *trail.notes())
    result = _result(subject, outcome, destination, plan_path, place, floor, notes)
    return replace(result, forms=forms)


def _passes(specs: Sequence[str]) -> tuple[Pass, ...]:
    passes = known()
    if not specs:
        return tuple(spec.parse(text, passes) for text in DEFAULT_PASSES)
    chosen = [spec.parse(text, passes) for text in specs]
    if chosen[0].name != "simplify":
        chosen.insert(0, spec.parse("simplify", passes))
    return tuple(chosen)


def _floor(fidelity: float | Literal["off"] | None, specs: Sequence[str]) -> float | None:
    if fidelity == "off" or (fidelity is None and specs):
        return None
    if fidelity is None:
        return DEFAULT_FLOOR
    if not fidelity <= 1:
        raise OptionError(f"fidelity must be at most 1 (a perfect copy), got {fidelity}. Give a share such as 0.95.")
    return fidelity


def _result(
    subject: Subject,
    outcome: Outcome,
    output: Path,
    plan: Path,
    place: Target,
    floor: float | None,
    notes: tuple[str, ...],
) -> Result:
    timed_before, timed_after = place.time((subject.path, output), subject.timed, budget_s=TIMING_S)
    fidelity = outcome.fidelity
    met = floor is None or fidelity.score >= floor
    return Result(
        input=subject.path,
        output=output,
        plan=plan,
        data=DataNote(
            source=subject.samples.source,
            samples=len(subject.samples.feeds),
            calibration=len(subject.samples.calibration),
            held_out=len(subject.samples.held_out),
            synthetic=subject.samples.synthetic,
        ),
        before=_cost(subject.model, subject.path, subject.timed),
        after=_cost(outcome.model, output, subject.timed),
        timed_before=timed_before,
        timed_after=timed_after,
        target=place.name,
        shape={name: value.shape for name, value in subject.timed.items()},
        fidelity=fidelity,
        goal=Goal(
            asked={} if floor is None else {"fidelity": floor},
            met=met,
            reason="" if met else f"fidelity {fidelity.score:.4f} is under the floor {floor}",
        ),
        reports=outcome.reports,
        notes=(*subject.model.notes, *notes),
    )


def _loss_notes(subject: Subject, edits: Sequence[Edit]) -> tuple[str, ...]:
    """What the loss was, where edits were scored by it."""
    if subject.loss is None or all(edit.args.get("score") != "loss" for edit in edits):
        return ()
    return (f"loss: {subject.loss.what}, of {len(subject.loss.feeds)} calibration samples",)


def _sparsity_notes(edits: Sequence[Edit]) -> tuple[str, ...]:
    """What zeros are good for, where some were made."""
    if not any(edit.args.get("sparse") for edit in edits):
        return ()
    return ("sparsity buys file size, not speed: the runtime multiplies zeros too; pack-weights stores them small",)


def _cost(model: Model, path: Path, feeds: Feeds) -> Cost:
    dense, _ = unpacked(model)
    shapes = {name: seen[0] for name, seen in observe_shapes(dense, [feeds]).items()}
    return cost(dense, (path, *data_files(path)), shapes)


__all__ = ["apply", "optimize", "replay"]
