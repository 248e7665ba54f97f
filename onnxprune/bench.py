"""One original on the bench: what passes or a search for a goal make of it, one wish after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from onnxprune import spec
from onnxprune.gradual import with_recovery
from onnxprune.passes import PackWeights, Streamline, known
from onnxprune.plan import Plan
from onnxprune.progress import Progress
from onnxprune.protocol import Pass
from onnxprune.repairing import reach
from onnxprune.resuming import trail_of, versions
from onnxprune.search.aiming import Aimed, aim
from onnxprune.search.floors import Floors
from onnxprune.search.goal import Goal, Metric
from onnxprune.search.judging import Budget
from onnxprune.search.searcher import Searcher
from onnxprune.stages import Outcome, run_passes
from onnxprune.subject import Subject
from onnxprune.targets.settings import Setting
from onnxprune.targets.target import Timer

# Without a goal or a pass: lossless edits and round-to-nearest int8, which needs no data.
LOSSLESS_PASSES = ("simplify", "remove-dead")
DEFAULT_PASSES = (*LOSSLESS_PASSES, "sparse-int8", "streamline", "pack-weights")


@dataclass(frozen=True)
class Carried:
    """A wish that was carried out.

    Attributes:
        passes: that did it.
        aimed: what the search found; None where nothing was searched, as for the searcher.
    """

    outcome: Outcome
    passes: tuple[Pass, ...]
    aimed: Aimed | None = None
    searcher: Searcher | None = None


class Bench:
    """Statistics, tables of latencies and of errors are made once and serve every wish.

    Args:
        subject: the original and its inputs.
        place: where to time.
        sizes: asked for the timed input, by name.
        seed: of random choices.
        fresh: take nothing over from earlier runs.
        portable: passes that have such an option take it.
        progress: told each stage as it begins.
    """

    def __init__(
        self,
        subject: Subject,
        place: Timer,
        sizes: Mapping[str, tuple[int, ...]],
        *,
        seed: int,
        fresh: bool = False,
        portable: bool = False,
        progress: Progress = lambda _: None,
    ) -> None:
        self.subject = subject
        self.place = place
        self.trail = trail_of(subject.path, subject, place, seed, fresh=fresh)
        self._sizes = sizes
        self._seed = seed
        self._portable = portable
        self._searchers: dict[bool, Searcher] = {}
        self._progress = progress

    def searcher(self, *, small: bool = False) -> Searcher:
        """Of the original as lossless edits leave it; `small`: forms that only save bytes are levels, too."""
        if small not in self._searchers:
            self._searchers[small] = Searcher(
                subject=self.subject,
                model=self._run(passes_of(LOSSLESS_PASSES), None).model,
                target=self.place,
                memory=self.trail.tables("search"),
                timings=self.trail.timings(),
                identity=str(self.trail.base["model"]),
                seed=self._seed,
                small=small,
                progress=self._progress,
            )
        return self._searchers[small]

    def carry_out(
        self,
        chosen: Sequence[Pass],
        goal: Goal,
        floor: float | None,
        metric: Metric | None = None,
        *,
        recover: int | None = None,
    ) -> Carried:
        """The model that passes make, or those that a search finds for a goal where it wants one.

        Args:
            chosen: the passes, where nothing is searched.
            goal: what must hold of the result.
            floor: least fidelity; where the result misses it, the edits that cost most for the time give way.
            metric: the user's own.
            recover: steps of training after what a search has cut; None for none.
        """
        aimed, searcher = None, None
        if self.subject.packed and all(one.name != PackWeights.name for one in chosen):
            # What came packed goes packed.
            chosen = (*chosen, PackWeights())
        if goal.searches and self.subject.loss is not None:
            lossless, last = passes_of(LOSSLESS_PASSES), (Streamline(), PackWeights())
            searcher = self.searcher(small=goal.most_bytes(1) < math.inf)
            searcher.judge.begin(Budget(seconds=goal.budget_s))
            floors = Floors(self.subject, goal, metric)
            aimed, outcome = aim(searcher, goal, floors, lambda wanted: self._run((*lossless, *wanted, *last), None))
            chosen = (*lossless, *aimed.passes, *last)
            if recover is not None:
                chosen = with_recovery(chosen, recover)
                outcome = self._run(chosen, None)
        else:
            # Where several passes lose something, none is held to the floor alone: what gives way is chosen of all.
            several = goal.searches or sum(not one.lossless for one in chosen) > 1
            outcome = self._run(chosen, None if several else floor)
        if floor is not None:
            outcome = reach(
                floor,
                outcome,
                self._asked(chosen),
                self.subject,
                self.place,
                self.trail,
                seed=self._seed,
                progress=self._progress,
            )
        return Carried(outcome, self._asked(chosen), aimed, searcher)

    def plan(self, carried: Carried, goal: Goal, floor: float | None, session: Setting | None = None) -> Plan:
        """What was done, as a plan that replays.

        Args:
            carried: what was carried out.
            goal: what was asked for.
            floor: of the fidelity.
            session: settings that the file recommends.
        """
        loss = self.subject.loss
        return Plan(
            model_sha256=str(self.trail.base["model"]),
            versions=versions(),
            options={
                "passes": [spec.format(one) for one in carried.passes],
                "fidelity": floor,
                "target": self.place.name,
                "shape": {name: list(size) for name, size in self._sizes.items()},
                "loss": loss.kind if loss is not None else None,
                "goal": goal.asked(),
                **({} if session is None else {"session": asdict(session)}),
            },
            seed=self._seed,
            edits=carried.outcome.edits,
        )

    def _run(self, wanted: Sequence[Pass], floor: float | None) -> Outcome:
        return run_passes(
            self._asked(wanted),
            self.subject,
            self.place,
            self.trail,
            floor,
            seed=self._seed,
            progress=self._progress,
        )

    def _asked(self, passes: Sequence[Pass]) -> tuple[Pass, ...]:
        """The passes, portable where that is asked for and they can be."""
        if not self._portable:
            return tuple(passes)
        return tuple(replace(one, portable=True) if hasattr(one, "portable") else one for one in passes)  # type: ignore[type-var]


def passes_of(specs: Sequence[str]) -> tuple[Pass, ...]:
    """The passes that specs name, after `simplify`; those of the default pipeline where none is named.

    Raises:
        OptionError: no such pass, or no such option of it.
    """
    passes = known()
    if not specs:
        return tuple(spec.parse(text, passes) for text in DEFAULT_PASSES)
    chosen = [spec.parse(text, passes) for text in specs]
    if chosen[0].name != "simplify":
        chosen.insert(0, spec.parse("simplify", passes))
    return tuple(chosen)
