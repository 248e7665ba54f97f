"""Cut whole residual blocks, or whole layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.cosines import Pair
from onnxprune.errors import DataError, OptionError
from onnxprune.graph import elements, numbers, stored_bytes
from onnxprune.isomorphism import group_blocks, layer_id
from onnxprune.model import Model
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.ranges import check_ranges, share_or_count
from onnxprune.removal.bypass import Bypass
from onnxprune.sites import GRAPH, Site, entries, refuse_unknown, registered, with_registered
from onnxprune.solvers import scores
from onnxprune.solvers.taylor import block_taylor

_ROLES = ("attention", "convolution", "feed-forward")
_BLIND = ("magnitude", "random")
# A block is one unit: every number of a flattened weight belongs to unit 0.
_ONE = np.zeros((1, 1), np.int64)

# Blocks that go together: one, or those of a layer.
Unit = tuple[Site, ...]


@dataclass(frozen=True, kw_only=True)
class RemoveBlocks:
    """Cut residual blocks: what a block adds is left out, its input takes the place of its output.

    Attributes:
        keep: what stays: a share of the original blocks, in [0, 1], or a count.
        score: how blocks are ranked: `loss` (what the model without the block loses, see --loss), `cosine` (how far a
            block turns its input), `taylor` (what its weights' gradients say, needs torch), `magnitude` (parameters'
            L2 norm) or `random`; the first three need sample inputs.
        greedy: score by loss anew after each removal, instead of once.
        layers: cut whole layers, attention with the feed-forward block after it; then `keep` counts layers.
        guard: how many of the first and of the last always stay, such as `4/2`.
        roles: which blocks: attention, feed-forward, convolution; all by default.
        sites: cut exactly these blocks; then nothing is ranked.

    Source: Kim et al. 2024, Shortened LLaMA, section 3 (loss and taylor; their "+" is guard=4/2); Men et al. 2024,
    ShortGPT, section 3.1 (cosine).
    """

    name: ClassVar[str] = "remove-blocks"
    lossless: ClassVar[bool] = False
    structural: ClassVar[bool] = True
    keep: Annotated[int | float, share_or_count("[0, 1]", 0)] = 1.0
    score: Literal["cosine", "loss", "magnitude", "random", "taylor"] = "loss"
    greedy: bool = False
    layers: bool = False
    guard: str = "0/0"
    roles: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject values out of range, unknown names, and options that exclude each other."""
        check_ranges(self, self.name)
        unknown = set(self.roles) - set(_ROLES)
        if unknown:
            raise OptionError(f"{self.name}: no role named {min(unknown)!r}. Known: {', '.join(_ROLES)}.")
        if not re.fullmatch(r"[0-9]+/[0-9]+", self.guard):
            raise OptionError(f"{self.name}: guard must be counts FIRST/LAST such as 4/2, got {self.guard!r}.")
        if self.layers and (self.roles or self.sites):
            which = "roles" if self.roles else "sites"
            raise OptionError(f"{self.name}: {which} choose blocks, layers=yes cuts whole layers. Give one of them.")
        if self.greedy and self.score != "loss":
            raise OptionError(f"{self.name}: greedy=yes scores by loss, got score={self.score}. Give one of them.")

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Nothing up front: candidates are run when they are scored."""
        del model, sites
        return Needs()

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a block or layer, in data order."""
        self._check_data(context)
        own = [site for site in sites if site.kind == "block"]
        refuse_unknown(self.name, self.sites, own)
        units, skips = self._units(model, own)
        why: dict[Unit, Mapping[str, Any]] = {}
        if self.sites:
            gone = [unit for unit in units if unit[0].id in self.sites]
        else:
            fair, guarded = self._fair(units)
            skips += guarded
            count = min(len(fair), max(0, len(units) - self._kept(model, units, own)))
            why = self._ranked(model, fair, count, context) if count else {}
            gone = [unit for unit in units if unit in why]
        listed = {skip.site for skip in skips}
        stay = [_name(unit) for unit in units if unit not in gone and _name(unit) not in listed]
        skips += [Skip(site=name, why="stays") for name in stay]
        return Proposal(self._edits(gone, sites, units, why), tuple(skips))

    def _check_data(self, context: Context) -> None:
        everything = isinstance(self.keep, float) and self.keep == 1.0
        if context.loss is None and self.score not in _BLIND and not self.sites and not everything:
            raise DataError(
                f"{self.name}: score={self.score} needs sample inputs. Give --data, or score=magnitude, or "
                "--allow-synthetic to calibrate on made-up ones."
            )

    def _units(self, model: Model, own: Sequence[Site]) -> tuple[list[Unit], list[Skip]]:
        """What may be cut, in data order, and what may not."""
        if not own:
            return [], [Skip(site=GRAPH, why="no residual blocks were found")]
        skips = [Skip(site=site.id, why=site.pinned) for site in own if site.pinned]
        sound = [site for site in own if not site.pinned]
        if not self.layers:
            left_out = [site for site in sound if self.roles and site.operator not in self.roles]
            skips += [Skip(site=s.id, why=f"its role is {s.operator}, which option roles leaves out") for s in left_out]
            return [(site,) for site in sound if site not in left_out], skips
        by_output = {site.anchor: site for site in own}
        groups = group_blocks([site.block for site in own if site.block is not None], model.graph)
        units = [tuple(by_output[block.output] for block in group) for group in groups]
        inside = {site.id for unit in units for site in unit}
        skips += [Skip(site=site.id, why="it is part of no layer") for site in sound if site.id not in inside]
        for unit in units:
            pin = next((site.pinned for site in unit if site.pinned), "")
            skips += [Skip(site=s.id, why=f"its layer stays: {pin}") for s in unit if pin and not s.pinned]
        return [unit for unit in units if not any(site.pinned for site in unit)], skips

    def _fair(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Skip]]:
        """Units that the guard leaves to be ranked, and the others."""
        first, last = (int(count) for count in self.guard.split("/"))
        fair = list(units[first : max(first, len(units) - last)])
        guarded = [
            Skip(site=_name(unit), why=f"guarded as one of the {'first' if at < first else 'last'}")
            for at, unit in enumerate(units)
            if unit not in fair
        ]
        return fair, guarded

    def _kept(self, model: Model, units: Sequence[Unit], own: Sequence[Site]) -> int:
        if isinstance(self.keep, int):
            return self.keep
        # What an earlier run removed counts among the original ones, where it was of that kind.
        known = registered(model)
        if self.layers:
            removed = {name for name in known if name.startswith("layer.")} - {_layer(unit) for unit in units}
        else:
            removed = {name for name in known if name.startswith("block.")} - {site.id for site in own}
            removed = {name for name in removed if not self.roles or known[name].get("role") in self.roles}
        return int(self.keep * (len(units) + len(removed)) + 0.5)

    def _ranked(
        self, model: Model, units: Sequence[Unit], count: int, context: Context
    ) -> dict[Unit, Mapping[str, Any]]:
        """The units that go, the first to go first, with the figures behind it."""
        if self.score == "loss" and context.loss is not None:
            return self._by_loss(model, units, count, context.loss)
        if self.score == "cosine" and context.cosines is not None:
            values = [1 - cosine for cosine in context.cosines(model, model, list(map(_pair, units)))]
        elif self.score == "taylor" and context.gradients is not None:
            found = context.gradients(f"score={self.score}").weights(model)
            nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
            values = [block_taylor(found[name] for name in _weights(nodes, unit) if name in found) for unit in units]
        elif self.score == "random":
            values = [float(scores.random(1_000_000, context.seed, _name(unit))[0]) for unit in units]
        else:
            nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
            values = [_magnitude(nodes, unit) for unit in units]
        order = sorted(range(len(units)), key=lambda at: (values[at], at))[:count]
        return {units[at]: {"score": self.score} for at in order}

    def _by_loss(
        self, model: Model, units: Sequence[Unit], count: int, loss: Callable[[Model], float]
    ) -> dict[Unit, Mapping[str, Any]]:
        gone: dict[Unit, Mapping[str, Any]] = {}
        losses: dict[Unit, float] = {}
        before = loss(model)
        for _ in range(count):
            left = [unit for unit in units if unit not in gone]
            if self.greedy or not losses:
                losses = {unit: loss(_without(model, [*gone, unit])) for unit in left}
            best = min(left, key=losses.__getitem__)
            figures = [before, losses[best]]
            # A plan is JSON, which knows no infinity.
            gone[best] = {"score": "loss", **({"loss": figures} if np.isfinite(figures).all() else {})}
            before = losses[best] if self.greedy else before
        return gone

    def _edits(
        self, gone: Sequence[Unit], sites: Sequence[Site], units: Sequence[Unit], why: Mapping[Unit, Mapping[str, Any]]
    ) -> tuple[Edit, ...]:
        known = entries(sites)
        if self.layers:
            known |= {_layer(unit): {"anchor": f"layer of {unit[-1].anchor}"} for unit in units}
        # Told once: a plan that repeated it in each edit would grow with their square.
        first = Edit(id=f"{self.name}.sites", pass_name=self.name, site=GRAPH, kind="note-sites", args={"sites": known})
        cuts = tuple(
            Edit(
                id=f"{self.name}.{_name(unit)}",
                pass_name=self.name,
                site=_name(unit),
                kind="remove-layer" if self.layers else "remove-block",
                args={"cuts": _cuts(unit), **why.get(unit, {})},
                depends_on=(first.id,),
            )
            for unit in gone
        )
        return (first, *cuts) if cuts else ()

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with the readers of each block's output reading its residual input."""
        known = {name: entry for edit in edits for name, entry in edit.args.get("sites", {}).items()}
        edits = [edit for edit in edits if edit.kind != "note-sites"]
        if not edits:
            return model, ()
        copy = model.copy()
        streams = Bypass(copy.graph)
        changes = []
        for edit in edits:
            freed = [
                constant
                for output, stream in edit.args["cuts"]
                for constant in streams.past(str(output), str(stream), edit.site)
            ]
            changes.append(
                Change(
                    site=edit.site,
                    what=f"{edit.kind.removeprefix('remove-')} removed{_remark(edit)}",
                    params_before=sum(map(elements, freed)),
                    bytes_before=sum(map(stored_bytes, freed)),
                )
            )
        streams.finish()
        return with_registered(copy, {name: {"units": 1, **entry} for name, entry in known.items()}), tuple(changes)


def _name(unit: Unit) -> str:
    return "+".join(site.id for site in unit)


def _layer(unit: Unit) -> str:
    return layer_id([site.id for site in unit])


def _cuts(unit: Unit) -> list[list[str]]:
    """(output, stream) of each block."""
    return [[site.block.output, site.block.stream] for site in unit if site.block is not None]


def _without(model: Model, units: Sequence[Unit]) -> Model:
    """The model less some blocks, for scoring."""
    copy = model.copy()
    streams = Bypass(copy.graph)
    for unit in units:
        for output, stream in _cuts(unit):
            streams.past(output, stream, _name(unit))
    streams.finish()
    return copy


def _pair(unit: Unit) -> Pair:
    (_, stream), (output, _) = _cuts(unit)[0], _cuts(unit)[-1]
    # Images keep their channels before height and width.
    return Pair(stream, output, 1 if unit[-1].operator == "convolution" else -1)


def _magnitude(nodes: Mapping[str, gs.Node], unit: Unit) -> float:
    weights = [numbers(tensor) for tensor in _weights(nodes, unit).values()]
    return float(scores.magnitude([(values.reshape(1, -1), 0, _ONE) for values in weights], 1)[0])


def _weights(nodes: Mapping[str, gs.Node], unit: Unit) -> dict[str, gs.Constant]:
    """Floats that a block's nodes read, each once."""
    return {
        tensor.name: tensor
        for site in unit
        if site.block is not None
        for name in site.block.inner
        for tensor in nodes[name].inputs
        if isinstance(tensor, gs.Constant) and np.dtype(tensor.dtype).kind == "f"
    }


def _remark(edit: Edit) -> str:
    if "loss" not in edit.args:
        return ""
    before, after = edit.args["loss"]
    return f" (loss {before:.4g} to {after:.4g})"
