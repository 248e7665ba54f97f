"""What a job has done so far, kept stage by stage, so that a killed run continues where it was.

A stage is kept under a key of everything it depends on: the model's bytes, the samples, the options, the versions of
the packages and of this code, and the edits before it. What is found under a key is therefore what would come out
again; what a clock decided is kept too, since it would not.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxprune import spec
from onnxprune.calibration import Columns, Needs, Statistics
from onnxprune.data import Samples
from onnxprune.errors import Declined, OnnxPruneError
from onnxprune.flattening import flattened, unflattened
from onnxprune.model import Model, digest
from onnxprune.plan import Edit, Report, Skip, edit_from_json, edits_to_json, tensors_of
from onnxprune.protocol import Pass
from onnxprune.solvers.histogram import Histogram
from onnxprune.steps import Step
from onnxprune.store import Held, Kept, Store, Tables, digest_of, key_of, open_store
from onnxprune.subject import Subject
from onnxprune.targets.machine import machine_of
from onnxprune.targets.target import Timer

# What statistics are made of.
_HELD = (Statistics, Columns, Histogram)
# Gram matrices up to so many bytes are kept: reading them back is faster than running the samples again.
_KEPT_STATISTICS = 2**28


@dataclass(eq=False)
class Trail:
    """The stages of one job on disk.

    Attributes:
        base: digests and options that all stages depend on.
        place: where it is timed, on what machine: what a clock said holds there only.
        fresh: keep everything, find nothing.
        resumed: specs of passes that were taken from an earlier run.
    """

    store: Store
    base: Mapping[str, Any]
    place: str
    fresh: bool = False
    resumed: list[str] = field(default_factory=list)

    def tables(self, kind: str, **more: Any) -> Tables:
        """JSON values that depend on the job's base, and on what more is named."""
        return Tables(self.store, kind, key_of(self.base, self.place, more), self.fresh)

    def kept(self) -> Kept:
        """Where training keeps its checkpoints; what came before it is in the models that it is given."""
        return Kept(self.store, key_of(self.base), self.fresh)

    def timings(self) -> Tables:
        """What a clock said of files and products; it depends on the place alone."""
        return Tables(self.store, "timing", key_of(code(), self.place), self.fresh)

    def step(self, one: Pass, model: Model, before: Sequence[Edit], floor: float | None) -> Step | None:
        """A pass as an earlier run took it on this model; None where none did."""
        held = None if self.fresh else self.store.get("step", self._step_key(one, before, floor))
        if held is None:
            return None
        try:
            step = _step_of(one, model, held)
        except (Declined, OnnxPruneError, KeyError, TypeError, ValueError, AttributeError) as error:
            self.store.notes.append(f"cache: a saved step of {one.name} does not fit ({error!r:.80}) and is taken anew")
            return None
        self.resumed.append(spec.format(one))
        return step

    def keep(self, one: Pass, before: Sequence[Edit], floor: float | None, step: Step) -> None:
        """Keep a pass that was taken."""
        document = {
            "edits": edits_to_json(step.edits),
            "skips": [[skip.site, skip.why] for skip in step.report.skips],
            "reverted": [[skip.site, skip.why] for skip in step.report.reverted],
        }
        self.store.put("step", self._step_key(one, before, floor), document, tensors_of(step.edits))

    def statistics(self, model_edits: Sequence[Edit], needs: Needs) -> Statistics | None:
        """Statistics of tensors of the model that some edits have made; None where no run has collected them."""
        held = None if self.fresh else self.store.get("statistics", self._needs_key(model_edits, needs))
        try:
            found = None if held is None else unflattened(held.document, held.tensors, _HELD)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            self.store.notes.append(f"cache: saved statistics do not fit ({error!r:.80}) and are collected anew")
            return None
        return found if isinstance(found, Statistics) else None

    def keep_statistics(self, model_edits: Sequence[Edit], needs: Needs, found: Statistics) -> None:
        """Keep statistics, unless they are so large that collecting them anew costs less."""
        grams = [one.gram.nbytes for one in found.columns.values() if one.gram is not None]
        if sum(grams) <= _KEPT_STATISTICS:
            self.store.put("statistics", self._needs_key(model_edits, needs), *flattened(found))

    def distrust(self) -> None:
        """Find nothing any more: what was found did not pass."""
        self.fresh = True
        self.resumed.clear()
        self.store.notes.append("cache: what an earlier run left does not pass any more, so all was done anew")

    def notes(self) -> tuple[str, ...]:
        """What the report should say."""
        names = ", ".join(self.resumed)
        taken = f"taken over from an earlier run: {names}; --fresh does all anew"
        return (*((taken,) if self.resumed else ()), *self.store.notes)

    def _step_key(self, one: Pass, before: Sequence[Edit], floor: float | None) -> str:
        return key_of(self.base, self.place, _code_of(one), spec.format(one), floor, edits_digest(before))

    def _needs_key(self, edits: Sequence[Edit], needs: Needs) -> str:
        wanted = {one.name: sorted(getattr(needs, one.name)) for one in fields(needs)}
        return key_of(self.base, wanted, edits_digest(edits))


def trail_of(path: Path, subject: Subject, place: Timer, seed: int, *, fresh: bool) -> Trail:
    """The trail of a job on one model, in the user's store."""
    samples = subject.samples
    base = {
        "model": digest(path),
        "samples": fingerprint(samples),
        "lessons": None if subject.lessons is None else fingerprint(subject.lessons),
        "shapes": {name: list(value.shape) for name, value in sorted(subject.timed.items())},
        "loss": subject.loss.kind if subject.loss is not None else None,
        "mask": subject.mask,
        "seed": seed,
        "versions": versions(),
        "code": code(),
    }
    return Trail(open_store(), base, f"{place.name} on {machine_of(place)}", fresh)


def versions() -> dict[str, str]:
    """Of the packages that a plan depends on."""
    packages = ("onnxprune", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def edits_digest(edits: Sequence[Edit]) -> str:
    """SHA-256 of edits with their tensors."""
    return digest_of(json.dumps(edits_to_json(edits), sort_keys=True), tensors_of(edits))


def fingerprint(samples: Samples) -> str:
    """SHA-256 of every sample's arrays and of the labels."""
    state = hashlib.sha256()
    for feeds in samples.feeds:
        state.update(_arrays_digest(feeds).encode())
    if samples.labels is not None:
        state.update(_arrays_digest({"labels": samples.labels}).encode())
    return state.hexdigest()


def _arrays_digest(arrays: Mapping[str, Any]) -> str:
    # Texts have no bytes of their own.
    plain = {name: array for name, array in arrays.items() if array.dtype.kind != "O"}
    return digest_of(json.dumps({name: array.tolist() for name, array in arrays.items() if name not in plain}), plain)


@cache
def code() -> str:
    """SHA-256 of this package's own source: a version that no one forgets to raise."""
    folder = Path(__file__).parent
    files = sorted([*folder.rglob("*.py"), *(folder / "passes").glob("*.py")])
    state = hashlib.sha256()
    for path in dict.fromkeys(files):
        state.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


def _code_of(one: Pass) -> str:
    """Source of a pass that came from elsewhere; ours is in `code`."""
    kind = type(one)
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    own = kind.__module__.partition(".")[0] == __package__
    return "" if own or path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _step_of(one: Pass, model: Model, held: Held) -> Step:
    edits = tuple(edit_from_json(entry, held.tensors) for entry in held.document["edits"])
    skips, reverted = (
        tuple(Skip(site=str(site), why=str(why)) for site, why in held.document[name]) for name in ("skips", "reverted")
    )
    report = Report(pass_spec=spec.format(one), skips=skips, reverted=reverted)
    if not edits:
        return Step(model, (), report, None)
    edited, changes = one.apply(model, edits)
    return Step(edited, edits, replace(report, changes=changes), None)
