"""Say the same in fewer or faster operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnxprune.calibration import Needs
from onnxprune.errors import Declined, OptionError
from onnxprune.graph import storage
from onnxprune.inference import drop_shapes, refresh_shapes
from onnxprune.model import Model, raise_opset
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.sites import GRAPH, Site
from onnxprune.streamlining import BY_NAME, REWRITES, Done, Rewrite, Wish

# Rewrites make room for each other; no graph that was seen takes more than two rounds.
_ROUNDS = 4
_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Streamline:
    """Rewrite what stands between the products: the same function in fewer or faster operators.

    Attributes:
        rewrites: only these, or `all`; by default all but `fixed-steps`, which moves outputs by more than rounding.
        portable: leave out what needs operators of a newer opset than the model's, which older runtimes lack, or a
            runtime's own.
    """

    name: ClassVar[str] = "streamline"
    lossless: ClassVar[bool] = True
    # It runs behind lossy passes, too: held against the model before it, and to the clock.
    relative: ClassVar[bool] = True
    observant: ClassVar[bool] = True
    rewrites: tuple[str, ...] = ()
    portable: bool = False

    def __post_init__(self) -> None:
        """Reject names of no rewrite."""
        for one in self.rewrites:
            if one not in (*BY_NAME, _ALL):
                known = ", ".join(sorted(BY_NAME))
                raise OptionError(f"{self.name}: rewrites must be {_ALL}, or some of {known}, got {one!r}.")

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """What its rewrites look at; most of them at the graph alone."""
        del sites
        found = Needs()
        for rewrite in REWRITES:
            found |= rewrite.needs(model) if self._wants(rewrite) else Needs()
        return found

    def _wants(self, rewrite: Rewrite) -> bool:
        if not self.rewrites:
            return not rewrite.may_lose
        return not {rewrite.name, _ALL}.isdisjoint(self.rewrites)

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a rewrite that finds a place, in the order in which they make room for each other.

        What a rival leaves no place for is proposed, too: it has its places where the clock sends the rival home.
        """
        del sites
        edits, skips = self._found(model, context, REWRITES)
        if any(BY_NAME[edit.kind].rival for edit in edits.values()):
            calm = tuple(rewrite for rewrite in REWRITES if not rewrite.rival)
            edits |= {place: edit for place, edit in self._found(model, context, calm)[0].items() if place not in edits}
        return Proposal(tuple(edit for _, edit in sorted(edits.items())), tuple(skips))

    def _found(
        self, model: Model, context: Context, rewrites: Sequence[Rewrite]
    ) -> tuple[dict[tuple[int, int], Edit], list[Skip]]:
        """Edits by their round and place in it, and what is left alone."""
        edits: dict[tuple[int, int], Edit] = {}
        skips: dict[str, list[Skip]] = {}
        settled, opened = False, None
        for number in range(_ROUNDS + 1):
            # What moves outputs comes last, on what the others have left.
            last, before = number == _ROUNDS, len(edits)
            for rewrite in rewrites if last or not settled else ():
                wish = rewrite.wish(model, context) if self._wants(rewrite) and last == bool(rewrite.may_lose) else None
                if wish is None:
                    continue
                # What finds nothing leaves the copy as it was, for the next.
                opened = opened or _opened(model)
                try:
                    rewritten, done = self._tried(model, opened, rewrite, wish)
                except Declined as reason:
                    skips[rewrite.name], opened = [Skip(site=GRAPH, why=f"{rewrite.name}: {reason}")], None
                    continue
                # What stays in one round may go in the next.
                skips[rewrite.name] = [Skip(site=site, why=why) for site, why in done.kept]
                if done.places:
                    model, opened = rewritten, None
                    edits[number, REWRITES.index(rewrite)] = self._edit(rewrite, wish, 0 if last else number)
            settled = len(edits) == before
        return edits, [one for left in skips.values() for one in left]

    def _tried(self, model: Model, opened: Model, rewrite: Rewrite, wish: Wish) -> tuple[Model, Done]:
        opset = model.graph.opset or 1
        rewritten, done = _carried_out(model, opened, rewrite, wish)
        if self.portable and done.places and rewrite.opset > opset:
            raise Declined(f"its operators need opset {rewrite.opset}, the model has {opset}; option portable")
        if self.portable and done.places and rewrite.domain:
            raise Declined(f"its operators are {rewrite.domain}'s own; option portable")
        return rewritten, done

    def _edit(self, rewrite: Rewrite, wish: Wish, number: int) -> Edit:
        again = f".{number}" if number else ""
        return Edit(
            id=f"{self.name}.{rewrite.name}{again}",
            pass_name=self.name,
            site=GRAPH,
            kind=rewrite.name,
            args=dict(wish.args),
            tensors=wish.tensors,
        )

    def rivals(self, edit: Edit) -> str | None:
        """The name of a rewrite that stands only where the clock says that it is faster; None for others."""
        return edit.kind if BY_NAME[edit.kind].rival else None

    def may_lose(self, edit: Edit) -> float:
        """Of fidelity, by an edit that moves outputs by more than rounding; 0 for others."""
        return BY_NAME[edit.kind].may_lose if edit.kind in BY_NAME else 0.0

    def fewer(self, edit: Edit) -> Edit | None:
        """The same at fewer places, where it loses too much; None where it is all or nothing."""
        wish = BY_NAME[edit.kind].fewer(Wish(edit.args, edit.tensors))
        return None if wish is None else replace(edit, args=dict(wish.args), tensors=wish.tensors)

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The rewritten model; one change an edit that found places."""
        changes = []
        for edit in edits:
            if edit.kind not in BY_NAME:
                raise Declined(f"{edit.id}: no rewrite is named {edit.kind!r}")
            rewrite, before = BY_NAME[edit.kind], storage(model.graph)
            model, done = _carried_out(model, _opened(model), rewrite, Wish(edit.args, edit.tensors))
            if not done.places:
                continue
            # What it added or freed: a rewrite has the whole graph for its site.
            params, size = (now - then for then, now in zip(before, storage(model.graph), strict=True))
            changes.append(
                Change(
                    site=edit.site,
                    what=rewrite.told(done),
                    params_before=max(-params, 0),
                    params_after=max(params, 0),
                    bytes_before=max(-size, 0),
                    bytes_after=max(size, 0),
                )
            )
        return model, tuple(changes)


def _opened(model: Model) -> Model:
    """A copy that knows its shapes."""
    copy = model.copy()
    refresh_shapes(copy)
    return copy


def _carried_out(model: Model, opened: Model, rewrite: Rewrite, wish: Wish) -> tuple[Model, Done]:
    """A rewrite on an opened copy of a model; the model itself where it finds no place."""
    done = rewrite.carry_out(opened, wish)
    if not done.places:
        return model, done
    opened.graph.cleanup(remove_unused_graph_inputs=False)
    drop_shapes(opened.graph)
    if (model.graph.opset or 1) < rewrite.opset:
        raised = raise_opset(model, rewrite.opset)
        return _carried_out(raised, _opened(raised), rewrite, wish)
    return opened, done
