"""How much of a loss each group of edits bears: left out of the whole, and alone on the original."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.errors import ModelError
from onnxprune.fidelity import Fidelity, interval
from onnxprune.model import Model
from onnxprune.mutants import Mutant, Mutants
from onnxprune.plan import Edit
from onnxprune.progress import Progress, Turn

Judge = Callable[[Model], Fidelity]

# Groups that are judged at most; beyond it edits are taken together, and the worst groups taken apart.
GROUPS = 48


@dataclass(frozen=True)
class Share:
    """A difference of two fidelities on the same samples, with its paired 95 % interval."""

    amount: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """By name; NaN where there is no figure."""
        return {"amount": self.amount, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A group of edits and its share.

    Attributes:
        edits: the group, in the plan's order.
        along: ids of edits that rest on them and are left out with them.
        fidelity_without: of the model without them.
        regained: fidelity of the model without them, less that of the whole.
        fidelity_alone: of the original with only these edits and those they rest on.
        lost: what that costs against the original with only those they rest on.
        why: the reason where a figure is missing.
        mutant: the model without them.
    """

    edits: tuple[Edit, ...]
    along: tuple[str, ...]
    fidelity_without: float
    regained: Share
    fidelity_alone: float
    lost: Share
    why: str = ""
    mutant: Mutant = field(repr=False, compare=False)


_NOTHING = Share(math.nan, math.nan, math.nan)


class Attribution:
    """Shares of a plan's edits, each judged at most once.

    Args:
        mutants: of the plan.
        judge: fidelity of a model on the samples.
        alone: whether to judge groups alone on the original, too.
    """

    def __init__(self, mutants: Mutants, judge: Judge, *, alone: bool = True) -> None:
        self._mutants = mutants
        self._judge = judge
        self._alone = alone
        self._known: dict[frozenset[str], tuple[Mutant, Fidelity | None, str]] = {}
        self.whole = judge(mutants.whole)

    @property
    def judged(self) -> int:
        """Models that were judged."""
        return 1 + len(self._known)

    def lossy(self) -> tuple[Edit, ...]:
        """Edits that can bear a loss."""
        kept = self._mutants.support | self._mutants.lossless
        return tuple(edit for edit in self._mutants.edits if edit.id not in kept)

    def parts(self, most: int = GROUPS, progress: Progress = lambda _: None) -> tuple[Part, ...]:
        """Every lossy edit in one group, the groups in the plan's order.

        Where there are more edits than `most`, those of a pass are first judged together; the group that bears most of
        the loss is then taken apart in halves, again and again, until `most` groups were judged.
        """
        edits = self.lossy()
        if len(edits) <= most:
            groups: list[tuple[Edit, ...]] = [(edit,) for edit in edits]
        else:
            names = dict.fromkeys(edit.pass_name for edit in edits)
            groups = [tuple(edit for edit in edits if edit.pass_name == name) for name in names]
        found: list[Part] = []
        for at, group in enumerate(groups, 1):
            progress(Turn(f"without {label(group)}", at, len(groups)))
            found.append(self.part(group))
        taken = len(found)
        while taken + 2 <= most and (worst := _heaviest(found)) is not None:
            half = (len(worst.edits) + 1) // 2
            halves = []
            for group in (worst.edits[:half], worst.edits[half:]):
                taken += 1
                progress(Turn(f"without {label(group)}", taken, most))
                halves.append(self.part(group))
            at = found.index(worst)
            found[at : at + 1] = halves
        return tuple(found)

    def part(self, edits: Sequence[Edit]) -> Part:
        """The share of one group."""
        mutants, ids = self._mutants, frozenset(edit.id for edit in edits)
        every = frozenset(edit.id for edit in mutants.edits)
        gone = mutants.upon(ids)
        mutant, without, why = self._of(every - gone)
        alone, base = None, None
        if self._alone:
            under = mutants.under(ids)
            _, alone, refused = self._of(under | ids)
            base = self._of(under)[1]
            why = why or refused
        return Part(
            edits=tuple(edits),
            along=tuple(edit.id for edit in mutants.edits if edit.id in gone - ids - mutants.support),
            fidelity_without=math.nan if without is None else without.score,
            regained=_difference(without, self.whole),
            fidelity_alone=math.nan if alone is None else alone.score,
            lost=_difference(base, alone),
            why=why,
            mutant=mutant,
        )

    def _of(self, ids: frozenset[str]) -> tuple[Mutant, Fidelity | None, str]:
        """A mutant with its fidelity, and the reason where that is missing or some edit did not fit."""
        bare = ids - self._mutants.support - self._mutants.lossless
        if bare not in self._known:
            mutant = self._mutants.of(bare)
            why = "; ".join(f"{name} does not fit there: {text}" for name, text in sorted(mutant.refused.items()))
            try:
                fidelity = self._judge(mutant.model)
            except ModelError as error:
                self._known[bare] = (mutant, None, str(error))
            else:
                self._known[bare] = (mutant, fidelity, why or fidelity.why or "")
        return self._known[bare]


def label(edits: Sequence[Edit]) -> str:
    """A group as reports name it: its edit, or how many of which pass from where to where."""
    if len(edits) == 1:
        return edits[0].id
    return f"{len(edits)} of {edits[0].pass_name}: {edits[0].site} to {edits[-1].site}"


def _heaviest(parts: Sequence[Part]) -> Part | None:
    """The group of several edits that bears most; one whose share is unknown goes first: it must be taken apart."""
    some = [part for part in parts if len(part.edits) > 1]
    return max(
        some, key=lambda part: math.inf if math.isnan(part.regained.amount) else part.regained.amount, default=None
    )


def _difference(better: Fidelity | None, worse: Fidelity | None) -> Share:
    if better is None or worse is None or not math.isfinite(better.score) or not math.isfinite(worse.score):
        return _NOTHING
    if better is worse:
        return Share(0.0, 0.0, 0.0)
    paired: Any = None
    if better.draws is not None and worse.draws is not None:
        paired = np.asarray(better.draws) - np.asarray(worse.draws)
    return Share(better.score - worse.score, *interval(paired))
