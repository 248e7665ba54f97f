"""Two models side by side: `validate` and `time`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.data import Samples, load_samples
from onnxprune.divergence import Divergence, first_divergence
from onnxprune.errors import ModelError, OptionError
from onnxprune.fidelity import Fidelity, compare
from onnxprune.measurement import Measurement, measure, parse_targets
from onnxprune.memory import job_memory, read_limit
from onnxprune.model import Model, load, size_on_disk
from onnxprune.packing import unpacked
from onnxprune.runtime import Feeds, Session, open_session
from onnxprune.synthetic import parse_shapes, shaped, synthesise
from onnxprune.targets.timing import Timed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer of `onnxprune validate`."""

    reference: Path
    candidate: Path
    source: str
    synthetic: bool
    fidelity: Fidelity
    floor: float
    divergence: Divergence | None

    @property
    def passed(self) -> bool:
        """Whether the fidelity reaches the floor."""
        return self.fidelity.score >= self.floor

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "reference": str(self.reference),
            "candidate": str(self.candidate),
            "data": {"source": self.source, "samples": self.fidelity.samples, "synthetic": self.synthetic},
            "fidelity": self.fidelity.to_json(),
            "floor": self.floor,
            "passed": self.passed,
            "divergence": None if self.divergence is None else asdict(self.divergence),
        }


@dataclass(frozen=True, kw_only=True)
class Timings:
    """The answer of `onnxprune time`: the first model is what the others are compared with.

    Attributes:
        measurements: one a target, in the order in which they were named.
    """

    shape: Mapping[str, tuple[int, ...]]
    measurements: tuple[Measurement, ...]
    paths: tuple[Path, ...]

    @property
    def target(self) -> str:
        """The first target."""
        return self.measurements[0].target

    @property
    def models(self) -> tuple[Timed, ...]:
        """Figures on the first target."""
        return self.measurements[0].models

    def to_json(self) -> dict[str, Any]:
        """The keys are stable; `target` and `models` are the first of `targets`."""
        targets = [measured.to_json(self.paths) for measured in self.measurements]
        return {
            "target": self.target,
            "shape": {name: list(size) for name, size in self.shape.items()},
            "models": targets[0]["models"],
            "targets": targets,
        }


def validate(
    reference: Path | str,
    candidate: Path | str,
    *,
    data: str | None = None,
    fidelity: float = 0.95,
    seed: int = 0,
    max_memory: str | int | None = None,
) -> Comparison:
    """Compare a candidate's outputs with a reference's on the same inputs, and find where they first part.

    Args:
        reference: the model that is right.
        candidate: the model that is judged.
        data: sample inputs; synthetic ones without it. All of them judge.
        fidelity: the score below which the verdict is no.
        seed: of synthetic inputs.
        max_memory: as for `optimize`.

    Raises:
        OnnxPruneError: a file, the data or an option is at fault.
    """
    if not fidelity <= 1:
        raise OptionError(f"fidelity must be at most 1 (a perfect copy), got {fidelity}. Give a share such as 0.95.")
    largest = max(size_on_disk(reference), size_on_disk(candidate))
    with job_memory(read_limit(max_memory), largest):
        session = open_session(reference)
        other = open_session(candidate)
        missing = {port.name for port in session.outputs} - {port.name for port in other.outputs}
        if missing:
            raise ModelError(
                f"{candidate}: lacks the outputs {', '.join(sorted(missing))} of {reference}. Compare equals."
            )
        original, _ = unpacked(load(reference))
        samples = inputs_for(original, session, data, {}, seed)
        figures = compare(session, other, samples.feeds)
        # A candidate that does not even run has no tensor where it parts.
        parted = math.isfinite(figures.score) and figures.score < 1
        return Comparison(
            reference=Path(reference),
            candidate=Path(candidate),
            source=samples.source,
            synthetic=samples.synthetic,
            fidelity=figures,
            floor=fidelity,
            divergence=first_divergence(original, unpacked(load(candidate))[0], samples.feeds[0]) if parted else None,
        )


def time(
    models: Sequence[Path | str],
    *,
    data: str | None = None,
    shape: Sequence[str] = (),
    target: str | Sequence[str] = "cpu:1",
    seconds: float = 4.0,
    seed: int = 0,
) -> Timings:
    """Time models in alternation on the same input.

    Args:
        models: the first is what the others are compared with.
        data: sample inputs, the first of which is timed; a synthetic one without it.
        shape: `NAME=1x128`.
        target: where to time, one or several.
        seconds: of timed runs for each model on each target.
        seed: of synthetic inputs.

    Raises:
        OnnxPruneError: a file, the data or an option is at fault.
    """
    if not 0 < seconds < math.inf:
        raise OptionError(f"seconds must be above 0, got {seconds}.")
    paths = tuple(Path(model) for model in models)
    places = parse_targets(target)
    first, session = unpacked(load(paths[0]))[0], open_session(paths[0])
    sizes = parse_shapes(shape)
    feeds = timed_feeds(first, session, inputs_for(first, session, data, sizes, seed), sizes)
    del session
    return Timings(
        shape={name: value.shape for name, value in feeds.items()},
        measurements=tuple(measure(place, paths, feeds, budget_s=seconds * len(paths)) for place in places),
        paths=paths,
    )


def inputs_for(
    model: Model, session: Session, data: str | None, sizes: Mapping[str, tuple[int, ...]], seed: int
) -> Samples:
    """The user's samples, or synthetic ones where there are none.

    Raises:
        OptionError: the seed is none.
        OnnxPruneError: the samples are at fault, or none that were made up run.
    """
    if seed < 0:
        raise OptionError(f"seed must be a whole number from 0 on, got {seed}.")
    if data is not None:
        return load_samples(data, session.inputs)
    return synthesise(model, session, seed=seed, shapes=sizes or None)


def timed_feeds(model: Model, session: Session, samples: Samples, sizes: Mapping[str, tuple[int, ...]]) -> Feeds:
    """What is timed: the first sample, at the asked sizes where some were asked."""
    like = samples.feeds[0]
    return shaped(model, session, sizes, like) if sizes else like
