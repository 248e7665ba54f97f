"""What `optimize` gives back: the figures of DESIGN's JSON as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.cost import Cost
from onnxprune.deployment import Form
from onnxprune.errors import OptionError
from onnxprune.fidelity import Fidelity
from onnxprune.footprint import Footprints
from onnxprune.measurement import Measurement
from onnxprune.plan import Report
from onnxprune.subject import Subject
from onnxprune.targets.timing import Timed


@dataclass(frozen=True, kw_only=True)
class DataNote:
    """Where the sample inputs came from."""

    source: str
    samples: int
    calibration: int
    held_out: int
    synthetic: bool


def note_of(subject: Subject) -> DataNote:
    """What a job's inputs were."""
    samples = subject.samples
    return DataNote(
        source=samples.source,
        samples=len(samples.feeds),
        calibration=len(samples.calibration),
        held_out=len(subject.evidence.held_out),
        synthetic=samples.synthetic,
    )


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What was asked, and whether the result meets it.

    Attributes:
        asked: by the names of the options.
        reason: what is missed and what would have to give; empty where all is met.
        predicted: times as fast as the original, by the search's latency table; None where nothing was searched.
        evaluations: whole models that the search judged.
    """

    asked: Mapping[str, Any]
    met: bool
    reason: str
    predicted: float | None = None
    evaluations: int = 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished optimization.

    Attributes:
        measurements: of the input and the output, one a target; the first that gives figures is what `speedup` tells.
        shape: of every input of the timed run, by name.
        warnings: what to know before the output is used.
        notes: what loading left out and other remarks.
        forms: other files that the result was written to: static inputs, the ORT format.
        storage: the output with its weights dense and packed; None where none is packed.
    """

    input: Path
    output: Path
    plan: Path
    data: DataNote
    before: Cost
    after: Cost
    measurements: tuple[Measurement, ...]
    shape: Mapping[str, tuple[int, ...]]
    fidelity: Fidelity
    goal: Reached
    reports: tuple[Report, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    forms: tuple[Form, ...] = ()
    storage: Footprints | None = None

    @property
    def measured(self) -> Measurement | None:
        """On the first target that gives figures; None where memory was too short to time anything."""
        return next((each for each in self.measurements if each.models), None)

    @property
    def target(self) -> str:
        """That target's name; the first one's where nothing was timed."""
        return (self.measured or self.measurements[0]).target

    @property
    def timed(self) -> tuple[Timed, Timed] | None:
        """Of the input and the output, there."""
        return None if self.measured is None else (self.measured.models[0], self.measured.models[1])

    @property
    def timed_before(self) -> Timed:
        """Of the input, where it was timed."""
        return self._timed()[0]

    @property
    def timed_after(self) -> Timed:
        """Of the output, where it was timed."""
        return self._timed()[1]

    def _timed(self) -> tuple[Timed, Timed]:
        if self.timed is None:
            raise OptionError("nothing was timed: the model is larger than the memory it may take. Allow more.")
        return self.timed

    def to_json(self) -> dict[str, Any]:
        """DESIGN section 6; the keys are stable."""
        return {
            "input": str(self.input),
            "output": str(self.output),
            "plan": str(self.plan),
            "data": asdict(self.data),
            "before": _figures(self.before, None if self.timed is None else self.timed[0]),
            "after": _figures(self.after, None if self.timed is None else self.timed[1]),
            "speedup": None
            if self.timed is None
            else {
                "target": self.target,
                "shape": {name: list(shape) for name, shape in self.shape.items()},
                **self.timed[1].speedup.to_json(),
            },
            "targets": [each.to_json((self.input, self.output)) for each in self.measurements],
            "fidelity": self.fidelity.to_json(),
            "goal": asdict(self.goal),
            "passes": [
                {
                    "pass": report.pass_spec,
                    "changes": [asdict(change) for change in report.changes],
                    "skips": [asdict(skip) for skip in report.skips],
                    "reverted": [asdict(skip) for skip in report.reverted],
                }
                for report in self.reports
            ],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "forms": [form.to_json() for form in self.forms],
            "storage": None if self.storage is None else self.storage.to_json(),
        }


def _figures(cost: Cost, timed: Timed | None) -> dict[str, Any]:
    if timed is None:
        return asdict(cost) | {"load_ms": None, "latency_ms": None}
    figures = {key: value for key, value in timed.to_json().items() if key != "speedup"}
    return asdict(cost) | figures
