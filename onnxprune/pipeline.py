"""One job, in order: load, run the original, edit with proof, save, time, report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxprune import spec
from onnxprune.calibration import collect
from onnxprune.comparison import inputs_for, timed_feeds
from onnxprune.cosines import Pair, mean_cosines
from onnxprune.cost import Cost, cost
from onnxprune.data import Samples
from onnxprune.errors import DataError, Declined, ModelError, OnnxPruneError, OptionError, OutputError, PlanError
from onnxprune.fidelity import Fidelity
from onnxprune.graph import constants, numbers
from onnxprune.inputs import Inputs, Source, compare_inputs
from onnxprune.judge import Broken, Evidence, gather_evidence, judge
from onnxprune.latency import Clock
from onnxprune.loss import Loss, check_loss, choose_loss, few
from onnxprune.model import Model, data_files, digest, load, save
from onnxprune.passes import known
from onnxprune.plan import Edit, Plan, plan_files, read_plan
from onnxprune.protocol import Context, Pass
from onnxprune.result import DataNote, Goal, Result
from onnxprune.runtime import Feeds, Session, observe, observe_shapes, open_session
from onnxprune.sites import find_sites
from onnxprune.steps import take
from onnxprune.structure import read_structure
from onnxprune.synthetic import parse_shapes, probes
from onnxprune.targets.target import Target, parse_target

# Without a goal or a pass: lossless edits and round-to-nearest int8, which needs no data.
DEFAULT_PASSES = ("simplify", "remove-dead", "sparse-int8")
DEFAULT_FLOOR = 0.95
# Seconds of alternated runs behind the reported speed-up.
TIMING_S = 6.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Subject:
    """The original: loaded, run, with inputs to run it on."""

    path: Path
    model: Model
    session: Session
    samples: Samples
    timed: Feeds
    evidence: Evidence
    loss: Loss | None = None


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
    _check_destination(destination, path)
    progress("load and run the original")
    subject = _subject(path, data, sizes, seed, loss, allow_synthetic=allow_synthetic)

    clock = Clock(place)
    current = baseline = subject.model
    edits: list[Edit] = []
    reports = []
    fidelity_now: Fidelity | None = None
    for one in chosen:
        progress(spec.format(one))
        context = _context(one, current, baseline, subject, clock, seed=seed)
        step = take(one, current, find_sites(current, context.structure), context, subject.evidence, floor)
        # What refits aim at: the model as lossless edits have left it.
        baseline = step.model if baseline is current and one.lossless else baseline
        current = step.model
        edits += step.edits
        reports.append(step.report)
        fidelity_now = step.fidelity or fidelity_now

    progress("save")
    final = fidelity_now or _unchanged(current, subject)
    plan = Plan(
        model_sha256=digest(path),
        versions=_versions(),
        options={
            "passes": [spec.format(one) for one in chosen],
            "fidelity": floor,
            "target": place.name,
            "shape": {name: list(size) for name, size in sizes.items()},
            "loss": subject.loss.kind if subject.loss is not None else None,
        },
        seed=seed,
        edits=tuple(edits),
    )
    plan_path = destination.with_name(f"{destination.stem}.plan.json")
    with plan_files(plan, plan_path):
        save(current, destination)
    progress(f"time both on {place.name}")
    notes = _loss_notes(subject, edits)
    return _result(subject, current, destination, plan_path, place, final, floor, tuple(reports), notes)


def apply(model: Path | str, plan: Path | str, output: Path | str, *, force: bool = False) -> None:
    """Replay a plan on the model it was made for; the result has the same bytes.

    Args:
        model: the original .onnx file.
        plan: the .json file that `optimize` wrote; its tensors lie beside it.
        output: where the result goes.
        force: replay on another model than the plan's.

    Raises:
        PlanError: the plan belongs to another model or does not fit it.
    """
    path, destination = Path(model), Path(output)
    _check_destination(destination, path)
    loaded = load(path)
    read = read_plan(Path(plan))
    actual = digest(path)
    if read.model_sha256 != actual and not force:
        raise PlanError(
            f"{plan}: made for the model with sha256 {read.model_sha256[:12]}…, {path} has {actual[:12]}…. "
            "Give the original model."
        )
    result = replay(loaded, read.edits)
    try:
        open_session(result)
    except ModelError as error:
        raise PlanError(f"{plan}: its result does not load: {error} Make the plan again with optimize.") from error
    save(result, destination)


def replay(model: Model, edits: Sequence[Edit]) -> Model:
    """The model with a plan's edits carried out in order.

    Raises:
        PlanError: an edit names an unknown pass, or does not fit the model.
    """
    passes = known()
    for name, group in groupby(edits, key=lambda edit: edit.pass_name):
        if name not in passes:
            raise PlanError(f"The plan needs pass {name!r}. Known: {', '.join(sorted(passes))}.")
        try:
            model, _ = passes[name]().apply(model, tuple(group))
        except Declined as reason:
            raise PlanError(f"The plan does not fit the model: {reason}.") from reason
        except OnnxPruneError:
            raise
        except Exception as error:
            # A plan is a stranger's file; whatever its numbers trip over is its own fault.
            raise PlanError(f"The plan is damaged: pass {name!r} failed with {error!r}.") from error
    return model


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


def _check_destination(destination: Path, source: Path) -> None:
    if not destination.parent.is_dir():
        raise OutputError(f"{destination.parent}: no such folder. Make it or choose another place with --output.")
    if destination.is_dir():
        raise OutputError(f"{destination}: is a folder. Name a file with --output.")
    if source.exists() and destination.exists() and destination.samefile(source):
        raise OutputError(f"{destination}: is the input itself. Choose another place with --output.")


def _subject(
    path: Path,
    data: str | None,
    sizes: Mapping[str, tuple[int, ...]],
    seed: int,
    loss: str | None,
    *,
    allow_synthetic: bool,
) -> _Subject:
    model = load(path)
    _refuse_nan(model, path)
    session = open_session(path)
    samples = inputs_for(model, session, data, sizes, seed)
    measure = None
    if allow_synthetic or not samples.synthetic:
        measure = choose_loss(model, session, samples, loss)
    elif loss is not None:
        raise DataError(
            f"--loss {loss} needs sample inputs. Give --data, or --allow-synthetic to calibrate on made-up ones."
        )
    timed = timed_feeds(model, session, samples, sizes)
    probe_feeds = probes(model, session, samples.feeds[0], seed=seed)
    evidence = gather_evidence(path, session, probe_feeds, samples.held_out)
    return _Subject(path, model, session, samples, timed, evidence, measure)


def _refuse_nan(model: Model, path: Path) -> None:
    for tensor in constants(model.graph):
        values = numbers(tensor)
        if values.dtype.kind == "f" and values.size and np.isnan(np.min(values)):
            raise ModelError(f"{path}: weight {tensor.name!r} contains NaN. Export the model from a sound checkpoint.")


def _context(one: Pass, model: Model, baseline: Model, subject: _Subject, clock: Clock, *, seed: int) -> Context:
    probe_feeds = subject.evidence.probes
    structure = None
    if getattr(one, "structural", False):
        shapes = observe_shapes(model, probe_feeds)
        structure = read_structure(model, shapes, interface=bool(getattr(one, "cut_interface", False)))
    statistics, compare, cosines = None, None, None
    if subject.loss is not None:
        samples = subject.samples.calibration

        def compare(current: Model, original: Model, sources: Collection[Source]) -> Mapping[Source, Inputs]:
            return compare_inputs(current, original, sources, samples)

        def cosines(first: Model, second: Model, pairs: Sequence[Pair]) -> tuple[float, ...]:
            return mean_cosines(first, second, pairs, few(samples))

        needs = one.needs(model, find_sites(model, structure))
        if needs.tensors:
            statistics = collect(model, needs, subject.samples.calibration)
    return Context(
        statistics=statistics,
        structure=structure,
        observe=lambda names: observe(model, probe_feeds[0], names),
        compare_inputs=compare,
        cosines=cosines,
        loss=subject.loss,
        original=baseline,
        latency=clock.of(model, subject.timed),
        seed=seed,
    )


def _result(
    subject: _Subject,
    model: Model,
    output: Path,
    plan: Path,
    place: Target,
    fidelity: Fidelity,
    floor: float | None,
    reports: tuple[Any, ...],
    notes: tuple[str, ...],
) -> Result:
    timed_before, timed_after = place.time((subject.path, output), subject.timed, budget_s=TIMING_S)
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
        after=_cost(model, output, subject.timed),
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
        reports=reports,
        notes=(*subject.model.notes, *notes),
    )


def _loss_notes(subject: _Subject, edits: Sequence[Edit]) -> tuple[str, ...]:
    """What the loss was, where edits were scored by it."""
    if subject.loss is None or all(edit.args.get("score") != "loss" for edit in edits):
        return ()
    return (f"loss: {subject.loss.what}, of {len(subject.loss.feeds)} calibration samples",)


def _unchanged(model: Model, subject: _Subject) -> Fidelity:
    """Fidelity of a model that no edit stands in; less than 1 where the original answers differently each time."""
    try:
        return judge(model, subject.evidence, lossless=False)
    except Broken as reason:
        raise ModelError(
            f"{subject.path}: not even an unchanged copy of it passes: {reason}. Export it anew."
        ) from reason


def _cost(model: Model, path: Path, feeds: Feeds) -> Cost:
    shapes = {name: seen[0] for name, seen in observe_shapes(model, [feeds]).items()}
    return cost(model, (path, *data_files(path)), shapes)


def _versions() -> dict[str, str]:
    packages = ("onnxprune", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


__all__ = ["apply", "optimize", "replay"]
