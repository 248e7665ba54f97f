"""Which edit of a plan cost how much of the fidelity, and what it gained in time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.attribution import GROUPS, Attribution, Part, Share, label
from onnxprune.comparison import inputs_for, timed_feeds
from onnxprune.data import LazyFeeds
from onnxprune.errors import OptionError, PlanError
from onnxprune.fidelity import Fidelity, compare
from onnxprune.figures import finite
from onnxprune.judge import gather_evidence
from onnxprune.model import Model, digest, load
from onnxprune.mutants import Mutants
from onnxprune.packing import unpacked
from onnxprune.plan import read_plan
from onnxprune.progress import Progress, Turn
from onnxprune.runtime import Feeds, open_session, written
from onnxprune.synthetic import parse_shapes, probes
from onnxprune.targets.target import Target, parse_target
from onnxprune.targets.timing import Timed

# Samples that judge every mutant, spread evenly over those given.
SAMPLES = 128
# Seconds of alternated runs a mutant, and how many are alive at once beside the whole.
RACE_S = 0.5
_AT_ONCE = 6
# The candidate must be what the plan makes, to rounding.
_SAME = 1e-3


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One group of edits with its share of the loss and of the time.

    Attributes:
        gained_ms: milliseconds a run that it saves: the latency without it, less that with all; None if not timed.
    """

    part: Part
    gained_ms: Share | None

    def to_json(self, loss: float) -> dict[str, Any]:
        """By name; `share` is of the whole loss, null where there is none."""
        part = self.part
        first = part.edits[0]
        return {
            "group": label(part.edits),
            "pass": first.pass_name,
            "sites": list(dict.fromkeys(edit.site for edit in part.edits)),
            "edits": [edit.id for edit in part.edits],
            "along": list(part.along),
            "left_out": {"fidelity": finite(part.fidelity_without), **_json(part.regained)},
            "alone": {"fidelity": finite(part.fidelity_alone), **_json(part.lost)},
            "share": finite(part.regained.amount / loss) if loss > 0 else None,
            "gained_ms": None if self.gained_ms is None else _json(self.gained_ms),
            "why": part.why or None,
        }


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The answer of `onnxprune blame`.

    Attributes:
        timed: the reference and the candidate; empty where nothing was timed.
        charges: the costliest first.
        judged: models whose fidelity was measured.
    """

    reference: Path
    candidate: Path
    plan: Path
    source: str
    synthetic: bool
    fidelity: Fidelity
    target: str
    shape: Mapping[str, tuple[int, ...]]
    timed: tuple[Timed, ...]
    charges: tuple[Charge, ...]
    judged: int

    @property
    def loss(self) -> float:
        """What the candidate lost in all."""
        return 1 - self.fidelity.score

    @property
    def regained(self) -> float:
        """The sum of what leaving out each group gives back."""
        return math.fsum(_known(charge.part.regained.amount for charge in self.charges))

    @property
    def lost_alone(self) -> float:
        """The sum of what each group costs alone on the original."""
        return math.fsum(_known(charge.part.lost.amount for charge in self.charges))

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "reference": str(self.reference),
            "candidate": str(self.candidate),
            "plan": str(self.plan),
            "data": {"source": self.source, "samples": self.fidelity.samples, "synthetic": self.synthetic},
            "fidelity": self.fidelity.to_json(),
            "loss": finite(self.loss),
            "sum": {"left_out": self.regained, "alone": self.lost_alone},
            "speedup": {
                "target": self.target,
                "shape": {name: list(size) for name, size in self.shape.items()},
                **self.timed[1].speedup.to_json(),
            }
            if self.timed
            else None,
            "latency_ms": self.timed[1].latency_ms.to_json() if self.timed else None,
            "groups": [charge.to_json(self.loss) for charge in self.charges],
            "judged": self.judged,
        }


def blame(
    reference: Path | str,
    candidate: Path | str,
    plan: Path | str,
    *,
    data: str | None = None,
    samples: int = SAMPLES,
    groups: int = GROUPS,
    target: str = "cpu:1",
    shape: Sequence[str] = (),
    time: bool = True,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Blame:
    """Say which edits of a plan cost how much fidelity and gained how much time.

    Each group of edits is judged twice: left out of the whole, and alone on the original. The two differ where edits
    interact, and neither need add up to the whole loss.

    Args:
        reference: the original .onnx file.
        candidate: what the plan made of it.
        plan: the .json file.
        data: sample inputs; synthetic ones without it. All of them may judge.
        samples: that judge at most, spread evenly over `data`.
        groups: of edits that are judged at most, 2 at least; where there are more edits, the worst groups are taken
            apart.
        target: where to time.
        shape: `NAME=1x128` for the timed run; the first sample's shapes by default.
        time: whether to time the model without each group.
        seed: of synthetic inputs.
        progress: told each group as its turn comes.

    Raises:
        OnnxPruneError: a file, the data or an option is at fault, or the candidate is not what the plan makes.
    """
    if samples < 1 or groups < 2:
        raise OptionError(f"--samples must be at least 1 and --groups at least 2, got {samples} and {groups}.")
    path, other, place = Path(reference), Path(candidate), parse_target(target)
    sizes = parse_shapes(shape)
    original, session = unpacked(load(path))[0], open_session(path)
    read = read_plan(Path(plan))
    if read.model_sha256 != (actual := digest(path)):
        raise PlanError(
            f"{plan}: made for the model with sha256 {read.model_sha256[:12]}…, {path} has {actual[:12]}…. "
            "Give the original model."
        )
    given = inputs_for(original, session, data, sizes, seed)
    feeds = LazyFeeds(given.feeds.__getitem__, _spread(len(given.feeds), samples))
    timed = timed_feeds(original, session, given, sizes)
    probe_feeds = probes(original, session, given.feeds[0], seed=seed)
    mutants = Mutants(original, read.edits, probe_feeds)
    progress("judge the candidate")
    candidate_session = open_session(other)
    deviation = compare(candidate_session, open_session(mutants.whole), feeds[:1]).within(_SAME)
    if not deviation.passed:
        raise PlanError(f"{other}: not what {plan} makes of {path} ({deviation.why}). Give the model and its own plan.")
    evidence = gather_evidence(path, session, probe_feeds, feeds)

    def judge(model: Model) -> Fidelity:
        expected = evidence.references(len(feeds))
        return compare(expected, open_session(model), feeds, inputs=session.inputs, outputs=session.outputs)

    shares = Attribution(mutants, judge)
    parts = shares.parts(groups, progress)
    found: tuple[Timed, ...] = ()
    gained: Sequence[Share | None] = [None] * len(parts)
    if time:
        races = 2 + len(parts) + math.ceil(len(parts) / _AT_ONCE)
        progress(Turn(f"time on {place.name}", seconds=RACE_S * races))
        found = place.time((path, other), timed, budget_s=2 * RACE_S)
        gained = tuple(_gains(mutants.whole, [part.mutant.model for part in parts], timed, place))
    charges = [Charge(part=part, gained_ms=share) for part, share in zip(parts, gained, strict=True)]
    return Blame(
        reference=path,
        candidate=other,
        plan=Path(plan),
        source=given.source,
        synthetic=given.synthetic,
        fidelity=shares.whole,
        target=place.name,
        shape={name: value.shape for name, value in timed.items()},
        timed=found,
        charges=tuple(sorted(charges, key=_cost)),
        judged=shares.judged,
    )


def _gains(whole: Model, others: Sequence[Model], feeds: Feeds, place: Target) -> Iterator[Share]:
    """Milliseconds that each other model takes longer than the whole, timed a few at once beside it."""
    for start in range(0, len(others), _AT_ONCE):
        some = others[start : start + _AT_ONCE]
        with ExitStack() as stack:
            paths = [stack.enter_context(written(model)) for model in (whole, *some)]
            base, *timed = place.time(paths, feeds, budget_s=RACE_S * len(paths))
        for one in timed:
            # The whole's time over the other's, round by round: below 1 where the other is slower.
            ratio, ms = one.speedup, base.latency_ms.median
            yield Share(*(ms * (1 / value - 1) for value in (ratio.ratio, ratio.high, ratio.low)))


def _cost(charge: Charge) -> tuple[float, str]:
    """The costliest first, what could not be judged before all."""
    amount = charge.part.regained.amount
    return (-math.inf if math.isnan(amount) else -amount, charge.part.edits[0].id)


def _spread(count: int, most: int) -> list[int]:
    taken = min(count, most)
    return [at * count // taken for at in range(taken)]


def _known(values: Iterator[float]) -> Iterator[float]:
    return (value for value in values if math.isfinite(value))


def _json(share: Share) -> dict[str, float | None]:
    return {name: finite(value) for name, value in asdict(share).items()}
