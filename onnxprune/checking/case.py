"""What rules look at: one model file, each view of it computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxprune.checking.budgets import Budgets
from onnxprune.comparison import Comparison, inputs_for, timed_feeds, validate
from onnxprune.data import Samples
from onnxprune.errors import ModelError
from onnxprune.exporting import Export
from onnxprune.graph import circle, constants, is_floating, numbers
from onnxprune.model import Model, RawModel, data_files, load, read_raw
from onnxprune.runtime import Feeds, Session, observe, observe_shapes, open_session
from onnxprune.structure import Structure, read_structure
from onnxprune.synthetic import parse_shapes, probes
from onnxprune.targets.forecast import ForecastTarget, best
from onnxprune.targets.placement import Placement
from onnxprune.targets.target import parse_target
from onnxprune.targets.timing import Timed

# Rows: what must have worked before. Columns: the view that shows whether it did.
_VIEWS = {"bytes": "path", "file": "raw", "graph": "model", "session": "session", "run": "outputs"}
Array = np.ndarray[Any, Any]


class Case:
    """One model file under check.

    Attributes:
        path: the file; it exists.
        budgets: what it must keep to.
        figures: what budgets measured, by name, for the report.
        export: where the file is an export of a torch module, what the preview says of it.
        exports: that of all exporters.
        folded: what of the module could be made part of a weight: name -> how.
        unfolded: what could not: name -> why.
    """

    def __init__(
        self,
        path: Path,
        budgets: Budgets,
        *,
        export: Export | None = None,
        exports: tuple[Export, ...] = (),
        folded: Mapping[str, str] = MappingProxyType({}),
        unfolded: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.path = path
        self.budgets = budgets
        self.export = export
        self.exports = exports
        self.folded = folded
        self.unfolded = unfolded
        self.figures: dict[str, Any] = {}

    def failure(self, stage: str) -> str | None:
        """Why a view is not to be had; None where it is. Errors that are nobody's fault but ours pass through."""
        for name, view in _VIEWS.items():
            reason = self._reason(name, view)
            if reason is not None or name == stage:
                return reason
        return None

    def _reason(self, stage: str, view: str) -> str | None:
        known: dict[str, str | None] = self.__dict__.setdefault("_reasons", {})
        if stage not in known:
            try:
                getattr(self, view)
                known[stage] = None
            except ModelError as error:
                known[stage] = str(error)
        return known[stage]

    @cached_property
    def raw(self) -> RawModel:
        """The messages of the file."""
        return read_raw(self.path)

    @cached_property
    def model(self) -> Model:
        """The model as passes see it; its data flows forward, so that those who follow it come to an end."""
        found = load(self.path)
        node = circle(found.graph)
        if node is not None:
            name = node.name or (node.outputs[0].name if node.outputs else "")
            raise ModelError(f"{self.path}: {node.op} {name!r} reads what follows from it. Export the model anew.")
        return found

    @cached_property
    def session(self) -> Session:
        """The model in onnxruntime, at the default optimization level."""
        return open_session(self.path)

    @cached_property
    def samples(self) -> Samples:
        """The user's samples, or made-up ones."""
        return inputs_for(self.model, self.session, self.budgets.data, self._sizes, self.budgets.seed)

    @cached_property
    def feeds(self) -> Feeds:
        """The first sample, at the sizes that were asked for."""
        return timed_feeds(self.model, self.session, self.samples, self._sizes)

    @cached_property
    def outputs(self) -> Mapping[str, Any]:
        """Of one run on the first sample."""
        return self.session.run(self.feeds)

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return parse_shapes(self.budgets.shape)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The model file and those beside it that hold its weights."""
        return (self.path, *data_files(self.path))

    @cached_property
    def floats(self) -> tuple[tuple[str, Array], ...]:
        """Floating-point constants by name, bodies included."""
        return tuple((t.name, numbers(t)) for t in constants(self.model.graph) if is_floating(t))

    @cached_property
    def structure(self) -> Structure:
        """Dimensions, as two runs of other sizes show them."""
        return read_structure(self.model, observe_shapes(self.model, self.probes))

    @cached_property
    def probes(self) -> tuple[Feeds, ...]:
        """Two feeds of other sizes."""
        return probes(self.model, self.session, self.feeds)

    @property
    def observe(self) -> Callable[..., Mapping[str, Array]]:
        """Values of intermediate tensors in one run."""
        return lambda names: observe(self.model, self.probes[0], names)

    def timed(self, target: str) -> tuple[Timed, ...]:
        """This model, after the reference where there is one, on a target in alternation."""
        paths = (self.path,) if self.budgets.reference is None else (self.budgets.reference, self.path)
        known: dict[str, tuple[Timed, ...]] = self.__dict__.setdefault("_timed", {})
        if target not in known:
            place = parse_target(target)
            known[target] = place.time(paths, self.feeds, budget_s=self.budgets.seconds * len(paths))
        return known[target]

    def values(self, names: Sequence[str]) -> Mapping[str, Any]:
        """Intermediate tensors of one run on the first sample."""
        return observe(self.model, self.feeds, names)

    def placement(self, target: str) -> tuple[Placement, bool]:
        """Which node runs where on a target, and whether that is a forecast."""
        known: dict[str, Placement] = self.__dict__.setdefault("_placements", {})
        place = parse_target(target)
        if target not in known:
            known[target] = place.place([self.path], self.feeds)[0]
            self.figures.setdefault("placement", {})[target] = {
                "kind": "forecast" if isinstance(place, ForecastTarget) else "ran",
                "counts": known[target].counts,
                "partitions": known[target].partitions,
            }
        return known[target], isinstance(place, ForecastTarget)

    def verdict(self, target: str) -> str:
        """A forecast's own verdict: yes, maybe or no."""
        place = parse_target(target)
        return best(place.forecast(self.path)).verdict if isinstance(place, ForecastTarget) else "yes"

    @cached_property
    def comparison(self) -> Comparison:
        """This model against the reference, on the samples.

        Raises:
            ModelError: there is no reference, or the two cannot be compared.
        """
        budgets = self.budgets
        if budgets.reference is None:
            raise ModelError("There is no reference to compare with. Name one with --reference.")
        return validate(
            budgets.reference, self.path, data=budgets.data, fidelity=budgets.min_fidelity or 0.0, seed=budgets.seed
        )
