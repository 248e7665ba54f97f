"""Masks of attention, as the one operator takes them: added to the scores, a row for each query, nothing too low.

Exporters add a mask to the scores, or choose between a score and a low number, or do both. What is chosen becomes what
is added: beside a number so low that every score is lost in it, where the scores are known to be smaller. A row of such
numbers alone still has equal shares, as a row of one chosen number has.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.reach import Reach, either
from onnxprune.streamlining.values import Values

LOWEST = float(np.finfo(np.float32).min)
# The operator gives zeros where a mask holds nothing above the lowest number; a softmax gives equal shares there.
_FLOOR = LOWEST / 2
# What is lost beside the floor, whatever it is: its half step is 2^102.
_LOST = 1e30
# As low as this a chosen number takes in whatever is added to it.
_ABSORBS = -1e37
# By how much one score must be below another for its exponential to be zero beside it; a float's goes to 104.
_NOTHING = 110.0


@dataclass(frozen=True, eq=False)
class Choice:
    """Where(keep, scores, fill), or Where(not keep, fill, scores).

    Attributes:
        condition: true where a score is kept; where `turned`, where it is not.
        fill: what stands in its place.
    """

    condition: gs.Tensor
    turned: bool
    fill: float


@dataclass(frozen=True, eq=False)
class Masking:
    """What stands between the scaled scores and their softmax.

    Attributes:
        scores: scaled.
        added: a mask that is added to them; None for none.
        choice: between them and a number; None for none.
        behind: whether the mask is added to what was chosen, not to the scores.
        guarded: whether shares that are NaN become zero.
        rows: what tells one number of queries from another; None where nothing does.
    """

    scores: gs.Tensor
    added: gs.Tensor | None
    choice: Choice | None
    behind: bool
    guarded: bool
    rows: Hashable = None


class MaskWriter:
    """Makes each mask fit for the operator, once for all attentions that read it.

    Attributes:
        note: what differs where rows were no numbers before; for the report.
    """

    def __init__(self, rewriter: Rewriter, values: Values) -> None:
        self.note = ""
        self._make = rewriter
        self._values = values
        self._made: dict[Hashable, gs.Tensor] = {}

    def check(self, one: Masking) -> bool:
        """Whether the mask needs a floor.

        Raises:
            Declined: the operator would not say the same.
        """
        scores = self._values.of(one.scores)
        if one.guarded and not scores.finite:
            raise Declined("nothing says that what is guarded against NaN is finite before the mask")
        for tensor in (one.added, None if one.choice is None else one.choice.condition):
            if tensor is not None and tensor.shape is not None and (not tensor.shape or tensor.shape[-1] == 1):
                raise Declined("its mask is spread over the keys")
        if one.choice is not None:
            self._check_choice(one, one.choice, scores)
        reach = self._reach(one)
        if reach is None:
            return False
        lowest = reach.low <= LOWEST
        if one.guarded and reach.minus and lowest:
            raise Declined("its mask may hold the lowest number and minus infinity")
        # The lowest number and a mask's lowest are minus infinity together.
        if (reach.minus or (one.behind and lowest)) and not one.guarded:
            self.note = "a row that a mask blanks whole with minus infinity is finite, where it was NaN"
        return lowest

    def _check_choice(self, one: Masking, choice: Choice, scores: Reach) -> None:
        if not scores.finite or scores.size > _LOST:
            raise Declined("nothing bounds the scores that its mask chooses from")
        added = Reach(low=0, high=0) if one.added is None else self._values.of(one.added)
        if added.nan or added.plus or added.high > _LOST:
            raise Declined("what is added to its scores may be no number, or very large")
        moderate = added.low >= -_LOST and not added.minus
        if choice.fill <= LOWEST or (choice.fill <= _ABSORBS and moderate):
            return
        if one.behind:
            raise Declined(f"a mask is added to what was chosen, and {choice.fill:g} does not absorb it")
        low = scores.low + added.low if not added.minus else -np.inf
        if not choice.fill + _NOTHING < low:
            raise Declined(f"its scores may be as low as {choice.fill:g}, which stands for none")

    def _reach(self, one: Masking) -> Reach | None:
        """What the mask may hold that is to be added in all."""
        parts = [] if one.added is None else [self._values.of(one.added)]
        if one.choice is not None:
            minus = np.isneginf(one.choice.fill)
            parts += [Reach(low=0, high=0)] * (one.added is None)
            parts.append(Reach(low=0 if minus else _FLOOR, high=0, minus=bool(minus)))
        return either(parts) if parts else None

    def laid(
        self, one: Masking, query: gs.Tensor, nodes: list[gs.Node], *, floored: bool, flat: bool
    ) -> gs.Tensor | None:
        """The mask with a row for each query; the nodes that it takes are added. None where there is none."""
        mask = one.added
        if floored and mask is not None:
            mask = self._floored(mask, nodes)
        if one.choice is not None:
            mask = self._chosen(one.choice, mask, nodes, behind=one.behind)
        if mask is None or _as_long(mask, query, flat=flat):
            return mask
        rows = one.rows if one.rows is not None else _length(query, flat=flat)
        key = ("spread", id(mask), id(query) if rows is None else rows)
        if key not in self._made:
            self._made[key] = self._spread(mask, query, nodes, flat=flat)
        return self._made[key]

    def _floored(self, mask: gs.Tensor, nodes: list[gs.Node]) -> gs.Tensor:
        key = ("floor", id(mask))
        if key not in self._made:
            out = self._variable(f"{mask.name}.floored", mask.shape)
            # The first attention that reads the mask stands before the others.
            nodes.append(self._make.node("Max", [mask, self._number("floor", _FLOOR)], [out]))
            self._made[key] = out
        return self._made[key]

    def _chosen(self, choice: Choice, added: gs.Tensor | None, nodes: list[gs.Node], *, behind: bool) -> gs.Tensor:
        """What a choice adds, with the mask besides."""
        endless = bool(np.isneginf(choice.fill))
        apart = behind and not endless and added is not None
        key = ("choice", id(choice.condition), choice.turned, endless, id(added), apart)
        if key not in self._made:
            name, kept = choice.condition.name, self._number("none", 0.0) if added is None or apart else added
            fill = self._number("endless", -np.inf) if endless else self._number("floor", _FLOOR)
            out = self._variable(f"{name}.added", choice.condition.shape if added is None else None)
            both = [fill, kept] if choice.turned else [kept, fill]
            nodes.append(self._make.node("Where", [choice.condition, *both], [out]))
            if apart:
                total = self._variable(f"{name}.total", None)
                nodes.append(self._make.node("Add", [out, added], [total]))
                out = total
            self._made[key] = out
        return self._made[key]

    def _spread(self, mask: gs.Tensor, query: gs.Tensor, nodes: list[gs.Node], *, flat: bool) -> gs.Tensor:
        at, make = 1 if flat else 2, self._make
        size, shape, spread = (make.variable(f"{mask.name}.{part}") for part in ("length", "rows", "spread"))
        one = make.shared("attention.one", np.array([1], np.int64))
        nodes += [
            make.node("Shape", [query], [size], start=at, end=at + 1),
            make.node("Concat", [size, one], [shape], axis=0),
            make.node("Expand", [mask, shape], [spread]),
        ]
        return spread

    def _number(self, name: str, value: float) -> gs.Tensor:
        return self._make.shared(f"attention.{name}", np.array(value, np.float32))

    def _variable(self, name: str, shape: Any) -> gs.Variable:
        out = self._make.variable(name)
        out.shape = shape
        return out


def _length(query: gs.Tensor, *, flat: bool) -> int | str | None:
    size = None if query.shape is None else query.shape[1 if flat else 2]
    return size if isinstance(size, int | str) else None


def _as_long(mask: gs.Tensor, query: gs.Tensor, *, flat: bool) -> bool:
    """Whether a mask is known to have a row for each query."""
    if mask.shape is None or len(mask.shape) < 2:
        return False
    return bool(mask.shape[-2]) and mask.shape[-2] == _length(query, flat=flat)
