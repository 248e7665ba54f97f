"""One job, in order: load, run the original, edit with proof, save, time, report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from onnxprune.bench import Bench, Carried, passes_of
from onnxprune.cluster import shared_out
from onnxprune.cost import Cost, cost
from onnxprune.deployment import Form, deploy, fix_shapes, fixed_sizes
from onnxprune.errors import DataError, OptionError
from onnxprune.footprint import footprints
from onnxprune.gradual import with_recovery
from onnxprune.judge import Evidence, unsteady
from onnxprune.loss import check_loss
from onnxprune.measurement import Measurement, measure, not_measured, parse_targets
from onnxprune.memory import job_memory, read_limit
from onnxprune.model import Model, data_files, save, size_on_disk
from onnxprune.packing import unpacked
from onnxprune.plan import Edit, plan_files
from onnxprune.progress import Progress, Turn
from onnxprune.recipes import followed
from onnxprune.replaying import apply, check_destination, replay
from onnxprune.result import Reached, Result, note_of
from onnxprune.runtime import Feeds, observe_shapes
from onnxprune.search.goal import Goal, Metric, read_goal
from onnxprune.search.reaching import Finish, missed
from onnxprune.subject import Subject, load_subject
from onnxprune.synthetic import parse_shapes
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.settings import advise, with_setting
from onnxprune.targets.target import Timer
from onnxprune.targets.together import refusals, together

DEFAULT_FLOOR = 0.95
# Seconds of alternated runs behind the reported speed-up.
TIMING_S = 6.0

# Why nothing is timed.
_NO_ROOM = "not timed: a session of the whole model does not fit in the memory that it may take (--max-memory)"


def optimize(
    model: Path | str,
    *,
    output: Path | str | None = None,
    data: str | None = None,
    passes: Sequence[str] = (),
    recipe: str | None = None,
    fidelity: float | Literal["off"] | None = None,
    target: str | Sequence[str] = "cpu:1",
    shape: Sequence[str] = (),
    seed: int = 0,
    allow_synthetic: bool = False,
    loss: str | None = None,
    mask: str | None = None,
    speedup: float | None = None,
    latency: str | float | None = None,
    size: str | None = None,
    metric: str | Metric | None = None,
    max_drop: float | None = None,
    best: bool = False,
    budget: float | None = None,
    fixed_shapes: Sequence[str] = (),
    ort: bool = False,
    fresh: bool = False,
    portable: bool = False,
    recover: int | None = None,
    gradual: int = 1,
    recover_data: str | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    max_memory: str | int | None = None,
    progress: Progress = lambda _: None,
) -> Result:
    """Compress a model and prove it.

    Args:
        model: the .onnx file.
        output: where the result goes; `NAME.optimized.onnx` beside the input by default.
        data: sample inputs: an .npz, a folder of .npz files, or `module:function`; synthetic inputs without it.
        passes: specs of the passes to run after `simplify`; the default pipeline without them.
        recipe: a named list of passes, see `onnxprune methods`; `recover` is then how long its recovery lasts, 0 none.
        fidelity: the floor under which edits are reverted; 0.95 by default, none with `passes`.
        target: where to time, e.g. `cpu:1`; of several, an edit made for speed must please each.
        shape: `NAME=1x128` for the timed run; the first sample's shapes by default.
        seed: of every random choice.
        allow_synthetic: let passes calibrate on synthetic inputs.
        loss: what scores by loss measure: `next-token`, `labels` or `divergence` from the original's outputs; by
            default the labels' where `data` holds some, else divergence.
        mask: the input that is 0 at padded tokens, which statistics leave out; found by its name by default.
        speedup: times as fast as the original, at least; a plan is searched for, as for the latency and the size.
        latency: of one run, at most: milliseconds, or text such as `5ms`.
        size: of the file, at most: `0.2x` of the original's, or `20MB`.
        metric: a function of outputs and samples (and its name as `module:function`), higher is better; or `labels`,
            the accuracy by the labels in `data`. With it, the fastest model is searched for whose metric holds.
        max_drop: by how much the metric may fall below the original's.
        best: as fast as the floors under the fidelity and the metric allow.
        budget: minutes after which a search begins nothing new.
        fixed_shapes: `NAME=1x128`; the result is written with static inputs, too, as `STEM.fixed.onnx`.
        ort: the result is written in the ORT format, too, with the list of its operators.
        fresh: take nothing over from earlier runs; without it a run that was killed continues where it was.
        portable: the same answer on every processor: passes that have such an option take it.
        recover: steps of distillation after what was cut, before weights become integers; needs torch.
        gradual: so many rounds of cutting and recovering, each a part of the way; the steps are shared among them.
        recover_data: sample inputs to train on; `data` by default.
        scheduler: address of a Dask scheduler whose workers solve layers, or `local` for processes of this machine;
            this process runs the model and keeps the clock, and solves, too, without it.
        workers: processes of a `local` cluster; one less than there are processors by default.
        max_memory: what the job may take beside the program itself: bytes, or text such as `2GB`; what the system can
            spare by default. Above it models run piece by piece, arrays lie in temporary files, and nothing is timed.
        progress: told each stage as it begins.

    Raises:
        OnnxPruneError: the input is at fault; nothing has been written.
    """
    path = Path(model)
    destination = Path(output) if output is not None else path.with_name(f"{path.stem}.optimized.onnx")
    places = parse_targets(target)
    place = together(places)
    check_loss(loss)
    goal = read_goal(
        speedup=speedup, latency=latency, size=size, fidelity=fidelity, metric=metric, max_drop=max_drop, best=best,
        budget_min=budget,
    )  # fmt: skip
    if goal.latency_ms is not None and next(each.latency for each in places if each.latency != "none") != "wall":
        raise OptionError(
            f"A latency goal needs milliseconds, which {place.name} does not give. Name a speed-up instead."
        )
    passes, recover = followed(recipe, passes, recover, gradual)
    _check_goal(goal, passes, gradual)
    chosen = with_recovery(passes_of(passes), recover, gradual)
    floor = _floor(fidelity, free=bool(passes) or goal.searches)
    sizes = parse_shapes(shape)
    fixed_sizes(fixed_shapes)
    check_destination(destination, path)
    limit = read_limit(max_memory)
    with job_memory(limit, size_on_disk(path)) as short, shared_out(path, scheduler, workers, destination, progress):
        progress("load and run the original")
        if short and goal.searches:
            raise OptionError(
                f"{path}: a goal is reached by timing whole models, and this one is too large for the memory it may "
                "take. Allow more with --max-memory, or say with --pass what is to be done."
            )
        subject = load_subject(
            path, data, sizes, seed, loss, mask, allow_synthetic=allow_synthetic, lessons=recover_data
        )
        _check_samples(goal, subject)
        if fixed_shapes:
            # Before the work, not behind it: a name or a size that does not fit.
            fix_shapes(subject.model, subject.session, fixed_sizes(fixed_shapes))
        bench = Bench(subject, place, sizes, seed=seed, fresh=fresh, portable=portable, progress=progress)
        carried = bench.carry_out(chosen, goal, floor, metric if callable(metric) else None, recover=recover)
        outcome = carried.outcome

        progress("save")
        processors = [each for each in places if isinstance(each, CpuTarget)]
        advice = advise(processors[0], outcome.model, subject.timed) if processors and not short else None
        plan = bench.plan(carried, goal, floor, None if advice is None else advice.recommended)
        plan_path = destination.with_name(f"{destination.stem}.plan.json")
        with plan_files(plan, plan_path):
            save(with_setting(outcome.model, plan.options), destination)
        forms: tuple[Form, ...] = ()
        if fixed_shapes or ort:
            progress("write other forms")
            stem = destination.with_suffix("")
            forms = deploy(destination, fixed_shapes=fixed_shapes, ort=ort, output=stem, data=data, seed=seed).forms
        if short:
            measurements = tuple(not_measured(each, _NO_ROOM) for each in places)
        else:
            progress(Turn(f"time both on {place.name}", seconds=TIMING_S * len(places)))
            files = (subject.path, destination)
            measurements = tuple(measure(each, files, subject.timed, budget_s=TIMING_S) for each in places)
        asked = replace(goal, fidelity=floor)
        return Result(
            input=path,
            output=destination,
            plan=plan_path,
            data=note_of(subject),
            before=_cost(subject.model, path, subject.timed),
            after=_cost(outcome.model, destination, subject.timed),
            measurements=measurements,
            shape={name: value.shape for name, value in subject.timed.items()},
            fidelity=outcome.fidelity,
            goal=_reached(asked, subject, measurements, size_on_disk(destination), carried),
            reports=outcome.reports,
            warnings=(
                *_far_off(outcome.fidelity.score, asked, stated=fidelity is not None or floor is not None),
                *_unsteady(subject.evidence),
            ),
            notes=(
                *subject.model.notes,
                *_loss_notes(subject, outcome.edits),
                *_sparsity_notes(outcome.edits),
                *bench.trail.notes(),
                *_refused(place),
                *([] if advice is None else [str(advice)]),
            ),
            forms=forms,
            storage=footprints(destination, outcome.model, subject.timed),
        )


def _check_goal(goal: Goal, passes: Sequence[str], gradual: int) -> None:
    if goal.searches and passes:
        raise OptionError("pass and a goal exclude each other: passes say what is done, a goal has it searched.")
    if goal.searches and gradual > 1:
        raise OptionError("gradual cuts what passes name in rounds. Give passes instead of a goal.")


def _check_samples(goal: Goal, subject: Subject) -> None:
    if subject.loss is None and goal.searches and goal.only_floors:
        name = "best" if goal.best else "metric"
        raise DataError(f"{name} needs sample inputs. Give --data, or --allow-synthetic to search on made-up ones.")


def _reached(
    goal: Goal,
    subject: Subject,
    measurements: Sequence[Measurement],
    size_bytes: int,
    carried: Carried,
) -> Reached:
    aimed, searcher = carried.aimed, carried.searcher
    timed = [each.models[1] for each in measurements if each.models]
    finish = Finish(
        speedup=min((each.speedup.ratio for each in timed), default=math.nan),
        latency_ms=timed[0].latency_ms.median if timed else math.nan,
        size_bytes=size_bytes,
        fidelity=carried.outcome.fidelity.score,
        metric_drop=None if aimed is None else aimed.finish.metric_drop,
    )
    why = missed(goal, finish, size_on_disk(subject.path), None if searcher is None else searcher.ends)
    return Reached(
        asked=goal.asked(),
        met=not why,
        reason=why,
        predicted=aimed.candidate.predicted if aimed is not None and aimed.candidate is not None else None,
        evaluations=0 if searcher is None else searcher.judge.evaluations,
    )


def _floor(fidelity: float | Literal["off"] | None, *, free: bool) -> float | None:
    if fidelity == "off" or (fidelity is None and free):
        return None
    return DEFAULT_FLOOR if fidelity is None else fidelity


def _far_off(score: float, asked: Goal, *, stated: bool) -> tuple[str, ...]:
    """A warning where no floor was stated and less is left than the one that holds by default."""
    if stated or asked.metric is not None or not score < DEFAULT_FLOOR:
        return ()
    warning = (
        f"fidelity {score:.4f} is below {DEFAULT_FLOOR}, the floor where neither passes nor a goal are given: outputs "
        "are not the original's any more. State a floor with --fidelity, ask for less, or train it back with recover."
    )
    return (warning,)


def _unsteady(evidence: Evidence) -> tuple[str, ...]:
    """A warning where the original does not even answer as itself."""
    names = unsteady(evidence)
    if not names:
        return ()
    which = ", ".join(map(repr, names))
    return (f"the original gives another {which} in each run, so fidelity says little. Judge it by a --metric.",)


def _loss_notes(subject: Subject, edits: Sequence[Edit]) -> tuple[str, ...]:
    """What the loss was, where edits were scored by it."""
    if subject.loss is None or all(edit.args.get("score") != "loss" for edit in edits):
        return ()
    return (f"loss: {subject.loss.what}, of {len(subject.loss.feeds)} calibration samples",)


def _refused(place: Timer) -> tuple[str, ...]:
    """Forms that were no choice, since a target would not have them."""
    return tuple(f"a form was given up: {reason}" for reason in refusals(place))


def _sparsity_notes(edits: Sequence[Edit]) -> tuple[str, ...]:
    """What zeros are good for, where some were made."""
    if not any(edit.args.get("sparse") for edit in edits):
        return ()
    return ("sparsity buys file size, not speed: the runtime multiplies zeros too; pack-weights stores them small",)


def _cost(model: Model, path: Path, feeds: Feeds) -> Cost:
    dense, _ = unpacked(model)
    shapes = {name: seen[0] for name, seen in observe_shapes(dense, [feeds]).items()}
    return cost(model, (path, *data_files(path)), shapes)


__all__ = ["apply", "optimize", "replay"]
