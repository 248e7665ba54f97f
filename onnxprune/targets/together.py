"""Several targets as one: what is faster is faster on the slowest of them, and what breaks one of them is no choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.errors import OptionError, TargetError
from onnxprune.runtime import Feeds
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.forecast import ForecastTarget, best
from onnxprune.targets.placement import summary
from onnxprune.targets.runtime_target import UNSIGNED
from onnxprune.targets.target import Target, Timer
from onnxprune.targets.timing import REFUSED, SLOWER, Latency, Ratio, Timed

# The speed of a model that a target refuses or fails on: none, by which can be divided.
_NEVER = Ratio(1e-6, 1e-6, 1e-6, 0)
# What a forecast has nothing against: some other target says how fast it is.
_ALWAYS = Ratio(math.inf, math.inf, math.inf, 0)
_NO_MS = Latency(math.nan, math.nan, math.nan)
# Which edits a target refuses is found by trial: most reasons are of forms that were there for that alone.
_TOLD = 3


def together(places: Sequence[Target]) -> Timer:
    """One timer for all of them.

    Raises:
        OptionError: none of them runs anything.
    """
    if all(isinstance(place, ForecastTarget) for place in places):
        names = " and ".join(place.name for place in places)
        raise OptionError(
            f"Nothing runs on {names}: a forecast. Name a target that runs as well, for example --target cpu:1."
        )
    if len(places) == 1 and isinstance(places[0], CpuTarget):
        return places[0]
    return Together(tuple(places))


@dataclass(frozen=True)
class Together:
    """Targets that a plan must please all.

    Attributes:
        places: the first that runs gives the figures; each model's speed-up is its least over all of them.
        refused: why a model was no choice, as each target told it, in the order of the first time.
    """

    places: tuple[Target, ...]
    refused: dict[str, None] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """All names."""
        return "+".join(place.name for place in self.places)

    @property
    def threads(self) -> int:
        """Of the first that runs."""
        return self._running[0].threads

    @property
    def signs(self) -> tuple[str, ...]:
        """What is worth a try on any of them, the first one's likeliest first."""
        return tuple(dict.fromkeys(one for place in self._running for one in place.signs))

    @property
    def _running(self) -> list[Target]:
        return [place for place in self.places if not isinstance(place, ForecastTarget)]

    def time(self, paths: Sequence[Path], feeds: Feeds, *, budget_s: float = 4.0) -> tuple[Timed, ...]:
        """Figures of the first target that runs; the speed-up is the least of all.

        Each target has the time budget for itself. Forecasts have no speed: a model of which a provider would take less
        than of the first one counts as broken there.

        Raises:
            OnnxPruneError: the first model is declined or fails on one of the targets.
        """
        found = [self._time(place, paths, feeds, budget_s) for place in self._running]
        ratios = [[timed.speedup for timed in column] for column in found]
        ratios += [self._forecast(place, paths) for place in self.places if isinstance(place, ForecastTarget)]
        return tuple(
            Timed(
                name=timed.name,
                load_ms=timed.load_ms,
                latency_ms=timed.latency_ms,
                instructions=timed.instructions,
                speedup=min((column[at] for column in ratios), key=lambda each: each.ratio),
            )
            for at, timed in enumerate(found[0])
        )

    def _time(self, place: Target, paths: Sequence[Path], feeds: Feeds, budget_s: float) -> list[Timed]:
        """A target's figures; those of models that it refuses are no speed at all."""
        alive = list(range(len(paths)))
        while True:
            try:
                found = dict(zip(alive, place.time([paths[at] for at in alive], feeds, budget_s=budget_s), strict=True))
                return [found.get(at) or _broken(path) for at, path in enumerate(paths)]
            except TargetError as error:
                guilty = self._guilty(place, paths, alive, feeds, error)
                self.refused.setdefault(str(error))
                alive = [at for at in alive if at not in guilty]

    def _guilty(
        self, place: Target, paths: Sequence[Path], alive: Sequence[int], feeds: Feeds, error: TargetError
    ) -> set[int]:
        """Which models the target cannot take; the error itself where that is the first one, or none alone."""
        if error.model is not None:
            if error.model == 0:
                raise error
            return {alive[error.model]}
        guilty = set()
        # The process died without a word: whoever kills it beside the first model alone is at fault.
        for at in alive[1:]:
            try:
                place.time([paths[0], paths[at]], feeds, budget_s=0)
            except TargetError:
                guilty.add(at)
        if not guilty or len(guilty) == len(paths) - 1:
            place.time([paths[0]], feeds, budget_s=0)
        if not guilty:
            raise error
        return guilty

    def _forecast(self, place: ForecastTarget, paths: Sequence[Path]) -> list[Ratio]:
        placed = [best(place.forecast(path)).placement for path in paths]
        taken = [each.counts[each.provider] / max(len(each.nodes), 1) for each in placed]
        ratios = []
        for at, path in enumerate(paths):
            fits = placed[at].partitions <= placed[0].partitions or taken[at] > taken[0]
            if not fits:
                self.refused.setdefault(
                    f"{path.name}: {place.name} would take {summary(placed[at])}, and {summary(placed[0])} before"
                )
            ratios.append(_ALWAYS if fits else _NEVER)
        return ratios


def _broken(path: Path) -> Timed:
    return Timed(name=path.name, load_ms=math.nan, latency_ms=_NO_MS, speedup=_NEVER)


def signs_of(place: Timer) -> tuple[str, ...]:
    """Types of static activations and weights that are worth a try; a timer that knows none has x64's."""
    found = getattr(place, "signs", ())
    return tuple(found) or UNSIGNED


def too_slow(place: Timer) -> float | None:
    """What is as fast as this or less pleases not all targets; None where the processor alone is asked.

    Of several targets none may be slowed by more than noise; one alone may at least not refuse the model.
    """
    # Who times elsewhere is as strict as what times there.
    place = getattr(place, "target", place)
    if not isinstance(place, Together):
        return None
    return SLOWER if len(place.places) > 1 else REFUSED


def refusals(place: Timer) -> tuple[str, ...]:
    """Why forms were no choice on some target: the first reasons, and how many more there were."""
    if not isinstance(place, Together):
        return ()
    told, more = [*place.refused][:_TOLD], len(place.refused) - _TOLD
    return (*told, f"{more} other{'s' * (more > 1)} likewise") if more > 0 else tuple(told)
