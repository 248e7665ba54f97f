"""What each target says of models: figures where it gives some, where their nodes run, and what is to be minded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxprune.errors import OptionError, TargetError
from onnxprune.runtime import Feeds
from onnxprune.targets.forecast import Forecast, ForecastTarget
from onnxprune.targets.placement import CPU, Placement, unused
from onnxprune.targets.target import Target, parse_target
from onnxprune.targets.timing import Timed


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One target's answer about some models.

    Attributes:
        latency: what its figures are: wall milliseconds, instructions, or none.
        models: figures of each model against the first; empty for a forecast.
        placements: which node of each model runs where; empty where that is not known.
        forecasts: of each model in each of the provider's formats; empty where models run.
        notes: what a reader must mind.
    """

    target: str
    latency: Literal["wall", "instructions", "none"]
    models: tuple[Timed, ...]
    placements: tuple[Placement, ...]
    forecasts: tuple[tuple[Forecast, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self, paths: Sequence[Path]) -> dict[str, Any]:
        """By name, a row for each model; figures only of the kind that was measured."""
        rows = []
        for at, path in enumerate(paths):
            row: dict[str, Any] = {"model": str(path)}
            if self.models:
                row |= self.models[at].to_json()
            if self.placements:
                row["placement"] = self.placements[at].to_json()
            if self.forecasts:
                row["forecasts"] = [each.to_json() for each in self.forecasts[at]]
            rows.append(row)
        return {"target": self.target, "latency": self.latency, "models": rows, "notes": list(self.notes)}


def parse_targets(texts: str | Sequence[str]) -> tuple[Target, ...]:
    """The targets named, one at least, each once and set up.

    Raises:
        OptionError: no such target, or one named twice.
        TargetError: one is not set up.
    """
    named = (texts,) if isinstance(texts, str) else tuple(texts)
    if not named:
        raise OptionError("At least one target must be named, for example cpu:1.")
    places = tuple(parse_target(text) for text in named)
    for place in places:
        if [other.name for other in places].count(place.name) > 1:
            raise OptionError(f"Target {place.name} is named twice.")
        missing = place.probe()
        if missing is not None:
            raise TargetError(f"Target {place.name} cannot be used: {missing}.")
    return places


def measure(place: Target, paths: Sequence[Path], feeds: Feeds, *, budget_s: float) -> Measurement:
    """Time models on a target, and find out where their nodes run.

    Args:
        place: the target.
        paths: of the models; the first is what others are compared with.
        feeds: one call's inputs.
        budget_s: seconds of timed runs altogether.

    Raises:
        OnnxPruneError: a model is declined or fails there, or the target itself does.
    """
    if isinstance(place, ForecastTarget):
        forecasts = tuple(place.forecast(path) for path in paths)
        placements = place.place(paths, feeds)
        notes = (f"{place.name}: {place.lists.caution}",)
        return Measurement(
            target=place.name, latency="none", models=(), placements=placements, forecasts=forecasts, notes=notes
        )
    placements = place.place(paths, feeds)
    return Measurement(
        target=place.name,
        latency=place.latency,
        models=place.time(paths, feeds, budget_s=budget_s),
        placements=placements,
        notes=_remarks(place, placements),
    )


def not_measured(place: Target, why: str) -> Measurement:
    """No figures, and the reason."""
    return Measurement(target=place.name, latency="none", models=(), placements=(), notes=(f"{place.name}: {why}",))


def _remarks(place: Target, placements: Sequence[Placement]) -> tuple[str, ...]:
    notes = []
    if place.latency == "instructions":
        notes.append(f"{place.name}: executed instructions of an emulated processor, a proxy: they are no time")
    if placements[0].provider != CPU and unused(placements):
        short = placements[0].provider.removesuffix("ExecutionProvider")
        notes.append(f"{place.name}: {short} takes no node of any model, so the figures are the CPU provider's")
    return tuple(notes)
