"""The original and what a pass may look at: loaded, run, with inputs, statistics and clocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration import Needs, Statistics, collect
from onnxprune.comparison import inputs_for, timed_feeds
from onnxprune.cosines import Pair, mean_cosines
from onnxprune.data import Samples, load_samples
from onnxprune.decoding import Decoding
from onnxprune.errors import DataError, ModelError
from onnxprune.graph import constants, numbers
from onnxprune.inputs import Inputs, Source, compare_inputs
from onnxprune.judge import Evidence, gather_evidence
from onnxprune.latency import Clock
from onnxprune.loss import Loss, choose_loss, few
from onnxprune.masks import mask_input
from onnxprune.memory import release
from onnxprune.model import Model, digest, load
from onnxprune.packing import unpacked
from onnxprune.protocol import Context, Gradients, Pass, Trained
from onnxprune.reverting import Race
from onnxprune.runtime import Feeds, Session, observe, observe_shapes, open_session, written
from onnxprune.sites import find_sites
from onnxprune.store import Kept, Tables
from onnxprune.structure import read_structure
from onnxprune.synthetic import probes
from onnxprune.targets.target import Timer
from onnxprune.targets.timing import Ratio
from onnxprune.targets.together import signs_of

# Seconds a model when forms are raced against each other.
RACE_S = 0.5


@dataclass(frozen=True)
class Subject:
    """The original: loaded, run, with inputs to run it on.

    Attributes:
        model: with dense weights, however they are stored.
        packed: weights that are stored packed.
        lessons: samples to train on, where they are others than those that calibrate.
    """

    path: Path
    model: Model
    session: Session
    samples: Samples
    timed: Feeds
    evidence: Evidence
    loss: Loss | None = None
    mask: str | None = None
    packed: int = 0
    lessons: Samples | None = None

    @property
    def measure(self) -> Loss:
        """The loss, where there are samples to measure it on."""
        if self.loss is None:
            raise DataError(f"{self.path}: its loss is measured on sample inputs. Give --data, or --allow-synthetic.")
        return self.loss


def load_subject(
    path: Path,
    data: str | None,
    sizes: Mapping[str, tuple[int, ...]],
    seed: int,
    loss: str | None,
    mask: str | None,
    *,
    allow_synthetic: bool,
    lessons: str | None = None,
    most_judges: int | None = None,
) -> Subject:
    """Load a model, run it once on everything, and choose what losses measure.

    `lessons` names samples to train on, if not `data`; of the held-out samples at most `most_judges` judge.

    Raises:
        OnnxPruneError: the model, the data or an option is at fault.
    """
    model, packed = unpacked(load(path))
    _refuse_nan(model, path)
    session = open_session(path)
    mask_input(session.inputs, mask)
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
    judges = samples.held_out if most_judges is None else few(samples.held_out, most_judges)
    evidence = gather_evidence(path, session, probe_feeds, judges)
    further = None if lessons is None else load_samples(lessons, session.inputs)
    return Subject(path, model, session, samples, timed, evidence, measure, mask, packed, further)


def race_on(place: Timer, feeds: Feeds, tables: Tables | None = None) -> Race:
    """Times models in alternation on the target, each written as it would be saved; the same ones only once."""
    shapes = {name: [str(value.dtype), *value.shape] for name, value in sorted(feeds.items())}

    def race(models: Sequence[Model]) -> tuple[Ratio, ...]:
        with ExitStack() as stack:
            paths = [stack.enter_context(written(model)) for model in models]
            key = json.dumps(["race", shapes, [digest(path) for path in paths]]) if tables is not None else ""
            known = tables.load(key) if tables is not None else None
            if known is None:
                timed = place.time(paths, feeds, budget_s=RACE_S * len(paths))
                known = [astuple(one.speedup) for one in timed]
                if tables is not None:
                    tables.save(key, known)
            return tuple(Ratio(*one) for one in known)

    return race


def _refuse_nan(model: Model, path: Path) -> None:
    for tensor in constants(model.graph):
        values = numbers(tensor)
        if values.dtype.kind == "f" and values.size and np.isnan(np.min(values)):
            raise ModelError(f"{path}: weight {tensor.name!r} contains NaN. Export the model from a sound checkpoint.")
        release(values)


Collect = Callable[[Model, Needs, Subject], Statistics]


def collected(
    model: Model, needs: Needs, subject: Subject, progress: Callable[[str], None] = lambda _: None
) -> Statistics:
    """Statistics over the samples that calibrate."""
    return collect(model, needs, subject.samples.calibration, mask=subject.mask, progress=progress)


def context_for(
    one: Pass,
    model: Model,
    baseline: Model,
    subject: Subject,
    clock: Clock,
    *,
    seed: int,
    statistics_of: Collect = collected,
    kept: Kept | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Context:
    """What a pass may look at: structure where it asks for it, statistics where there are samples.

    Args:
        one: the pass whose turn it is.
        model: as earlier passes left it.
        baseline: the model before any lossy edit.
        subject: the original and its inputs.
        clock: times single linears on the target.
        seed: of random choices.
        statistics_of: collects statistics, or knows them already.
        kept: where training keeps its checkpoints.
        progress: told each step of training, and each part of what else takes long.
    """
    probe_feeds = subject.evidence.probes
    structure, shapes = None, None
    if getattr(one, "structural", False) or getattr(one, "observant", False):
        shapes = observe_shapes(model, probe_feeds)
    if shapes is not None and getattr(one, "structural", False):
        structure = read_structure(model, shapes, interface=bool(getattr(one, "cut_interface", False)))
    statistics, compare, cosines, gradients, recover = None, None, None, None, None
    if subject.loss is not None:
        samples = subject.samples.calibration

        def compare(current: Model, original: Model, sources: Collection[Source]) -> Mapping[Source, Inputs]:
            return compare_inputs(current, original, sources, samples, mask=subject.mask)

        def cosines(first: Model, second: Model, pairs: Sequence[Pair]) -> tuple[float, ...]:
            return mean_cosines(first, second, pairs, few(samples), mask=subject.mask)

        measure = subject.loss

        def gradients(what: str) -> Gradients:
            from onnxprune.learn import require_torch

            require_torch(what)
            from onnxprune.learn.sensitivity import Sensitivity

            return Sensitivity(measure, subject.session, seed)

        def recover(candidate: Model, settings: Any) -> Trained:
            from onnxprune.learn import require_torch

            require_torch("recover")
            from onnxprune.learn.recovery import recover as train

            return train(
                candidate,
                settings,
                teacher=subject.model,
                samples=subject.lessons or subject.samples,
                probes=probe_feeds,
                mask=subject.mask,
                seed=seed,
                kept=kept,
                progress=progress,
            )

        needs = one.needs(model, find_sites(model, structure))
        if needs.tensors:
            statistics = statistics_of(model, needs, subject)
    return Context(
        statistics=statistics,
        structure=structure,
        shapes=shapes,
        observe=lambda names: observe(model, probe_feeds[0], names),
        compare_inputs=compare,
        cosines=cosines,
        loss=subject.loss,
        original=baseline,
        latency=clock.of(model, subject.timed),
        decoding=partial(Decoding, feeds=probe_feeds[0]),
        gradients=gradients,
        recover=recover,
        signs=signs_of(clock.target),
        progress=progress,
        seed=seed,
    )
