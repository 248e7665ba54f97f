"""Models with some of a plan's edits left out, and with them everything that cannot stand without those."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined, PlanError
from onnxprune.graph import constants, numbers
from onnxprune.model import Model
from onnxprune.passes import known
from onnxprune.plan import Edit, turns, with_dependencies, without
from onnxprune.replaying import replay
from onnxprune.runtime import Feeds, observe_shapes
from onnxprune.sites import GRAPH
from onnxprune.structure import pack_shapes

# An edit of this kind tells the shapes that removals of its pass rest on.
_SHAPES = "observe-shapes"


@dataclass(frozen=True)
class Mutant:
    """A model with some edits of a plan.

    Attributes:
        edits: that it was made by, in order; shapes that they tell are those of this model.
        refused: why edits that were wanted do not fit it, by id.
    """

    model: Model
    edits: tuple[Edit, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class _Stage:
    """Edits of one pass, the model that it met and what it made of it."""

    before: Model
    after: Model
    edits: tuple[Edit, ...]


class Mutants:
    """What a plan makes of a model when some of its edits are left out.

    An edit rests on those that it names in `depends_on`, and on those of earlier passes that wrote a stored tensor
    which it replaces: the integers of a weight that was cut are those of the cut weight.

    Args:
        model: the original.
        edits: of the plan, in order.
        probes: feeds of two shapes, run where shapes must be observed anew.

    Raises:
        PlanError: the plan does not fit the model.
    """

    def __init__(self, model: Model, edits: Sequence[Edit], probes: Sequence[Feeds]) -> None:
        self._model = model
        self._probes = probes
        self.edits = tuple(edits)
        self._stages: list[_Stage] = []
        for some in turns(self.edits):
            after = replay(model, some)
            self._stages.append(_Stage(model, after, some))
            model = after
        self.whole = model

    @cached_property
    def support(self) -> frozenset[str]:
        """Edits of the whole graph that are there for others: they tell shapes or sites, or raise the opset."""
        wanted = {name for edit in self.edits for name in edit.depends_on}
        return frozenset(edit.id for edit in self.edits if edit.site == GRAPH and edit.id in wanted)

    @cached_property
    def lossless(self) -> frozenset[str]:
        """Edits that change no output; mutants keep them."""
        passes = known()
        return frozenset(edit.id for edit in self.edits if passes[edit.pass_name]().lossless)

    @cached_property
    def rests_on(self) -> dict[str, frozenset[str]]:
        """By id: the edits that it rests on directly."""
        found: dict[str, frozenset[str]] = {}
        writers: dict[str, list[str]] = {}
        for stage in self._stages:
            held = _stored(stage.before)
            wrote: dict[str, frozenset[str]] = {}
            for edit in stage.edits:
                touched, made = frozenset[str](), frozenset[str]()
                if edit.id not in self.support:
                    touched, made = self._writes(stage, edit, held)
                earlier = {writer for name in touched for writer in writers.get(name, ())}
                found[edit.id] = frozenset(edit.depends_on) | (earlier - self.lossless)
                wrote[edit.id] = touched | made
            for name, tensors in wrote.items():
                for tensor in tensors:
                    writers.setdefault(tensor, []).append(name)
        return found

    def _writes(
        self, stage: _Stage, edit: Edit, held: Mapping[str, gs.Constant]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Stored tensors that an edit replaces or removes, and those that it adds; those of what it depends on too."""
        try:
            after = _stored(replay(stage.before, with_dependencies(edit, stage.edits)))
        except PlanError:
            # It cannot be carried out without its neighbours; what it says it needs is all that is known.
            return frozenset(), frozenset()
        touched = frozenset(name for name, tensor in held.items() if not _same(tensor, after.get(name)))
        return touched, frozenset(after.keys() - held.keys())

    def upon(self, ids: Collection[str]) -> frozenset[str]:
        """These edits and all that rest on them."""
        linked = [replace(edit, depends_on=tuple(self.rests_on[edit.id])) for edit in self.edits]
        return without(linked, ids)[1]

    def under(self, ids: Collection[str]) -> frozenset[str]:
        """All that these edits rest on, less themselves."""
        found: set[str] = set()
        queue = list(ids)
        while queue:
            for name in self.rests_on.get(queue.pop(), ()):
                if name not in found:
                    found.add(name)
                    queue.append(name)
        return frozenset(found - set(ids))

    def of(self, ids: Collection[str], instead: Mapping[str, Edit] | None = None) -> Mutant:
        """The model with just these edits, and with those that are lossless or there for them.

        Args:
            ids: of the edits.
            instead: forms that take the place of some of them, by id.
        """
        instead = instead or {}
        missing = {edit.id for edit in self.edits} - set(ids) - self.lossless - self.support
        # What is lossless stays, unless it is a form of something that goes.
        wanted = set(ids) | (self.lossless - self.upon(missing))
        wanted |= {name for edit in self.edits if edit.id in wanted for name in edit.depends_on if name in self.support}
        model, altered = self._model, False
        taken: list[Edit] = []
        refused: dict[str, str] = {}
        for stage in self._stages:
            some = tuple(
                instead.get(edit.id, edit) for edit in stage.edits if edit.id in wanted and edit.id not in refused
            )
            if altered:
                some = self._renewed(model, some)
            whole = len(some) == len(stage.edits) and not any(edit.id in instead for edit in some)
            if not altered and whole:
                model = stage.after
                taken += some
                continue
            altered = True
            model, kept, reasons = _carried_out(model, some)
            refused |= reasons
            if reasons:
                rest = self.upon(reasons) - refused.keys()
                refused |= dict.fromkeys(rest, "an edit that it rests on does not fit")
            taken += kept
        return Mutant(model, tuple(taken), {name: why for name, why in refused.items() if name in wanted})

    def _renewed(self, model: Model, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
        """Edits that tell the shapes of this model."""
        if all(edit.kind != _SHAPES for edit in edits):
            return edits
        shapes = pack_shapes(observe_shapes(model, self._probes))
        return tuple(
            replace(edit, args={**edit.args, "shapes": shapes}) if edit.kind == _SHAPES else edit for edit in edits
        )


def _carried_out(model: Model, edits: tuple[Edit, ...]) -> tuple[Model, tuple[Edit, ...], dict[str, str]]:
    """The model with those of one pass's edits that fit it, these edits, and why the others do not."""
    if not edits:
        return model, (), {}
    try:
        return replay(model, edits), edits, {}
    except (Declined, PlanError) as reason:
        why = str(reason)
    reasons: dict[str, str] = {}
    for edit in edits:
        try:
            replay(model, with_dependencies(edit, edits))
        except (Declined, PlanError) as reason:
            reasons[edit.id] = str(reason)
    kept, _ = without(edits, reasons)
    try:
        return replay(model, kept), kept, reasons
    except (Declined, PlanError):
        return model, (), {edit.id: reasons.get(edit.id, why) for edit in edits}


def _stored(model: Model) -> dict[str, gs.Constant]:
    return {tensor.name: tensor for tensor in constants(model.graph)}


def _same(one: gs.Constant, other: gs.Constant | None) -> bool:
    """Whether two constants hold the same numbers; they are read only where they are not one object."""
    if other is None or one._values is other._values:  # noqa: SLF001 - not read
        return other is not None
    if tuple(one.shape) != tuple(other.shape) or one.dtype != other.dtype:
        return False
    return np.array_equal(numbers(one), numbers(other), equal_nan=np.dtype(one.dtype).kind == "f")
