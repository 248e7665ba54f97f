"""Places where a pass can act. A site's id is structural: the same in every run, before and after cuts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onnxprune.blocks import Block, find_blocks
from onnxprune.dimensions import Dimension
from onnxprune.errors import OptionError
from onnxprune.graph import elements
from onnxprune.model import Model
from onnxprune.structure import Structure
from onnxprune.weights import Weight, find_weights

Kind = Literal["graph", "linear", "embedding", "heads", "neurons", "channels", "block"]

GRAPH = "graph"
# Where a cut model remembers its sites: id -> {"anchor", "units"}, so that shares stay shares of the original.
REGISTRY = "onnxprune.sites"


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place where a pass can act.

    Attributes:
        id: `{kind}.{number}`, numbered in data order.
        units: how many units can be counted there: heads, neurons, channels, output features of a linear, rows of an
            embedding.
        original_units: how many there were before any cut.
        unit_size: numbers that go with one unit.
        weight: name of the stored constant; empty where a site is no single weight.
        uses: names of the first outputs of the nodes that read it, or that sum its units away.
        dimension: position among the structure's dimensions; None where the site is none.
        anchor: names that stay the same when units go.
        pinned: why it cannot be cut; empty where it can.
        grouped: whether the units are query heads inside each group that shares a key, rather than the groups.
    """

    id: str
    kind: Kind
    units: int = 0
    original_units: int = 0
    unit_size: int = 0
    params: int = 0
    weight: str = ""
    uses: tuple[str, ...] = ()
    operator: str = ""
    dimension: int | None = None
    anchor: str = ""
    pinned: str = ""
    grouped: bool = False
    block: Block | None = None

    @property
    def shared_by(self) -> int:
        """How many nodes read the same weight."""
        return len(self.uses)


def find_sites(model: Model, structure: Structure | None = None) -> tuple[Site, ...]:
    """The whole graph, then linears and embeddings, then heads, neurons, channels and blocks where they were traced."""
    names = _Names(model)
    sites = [Site(id=GRAPH, kind="graph")]
    for weight in find_weights(model.graph, model.overridable):
        kind: Kind = "embedding" if weight.uses[0].role == "embedding" else "linear"
        sites.append(_weight_site(weight, kind, names.of(kind, weight.constant.name)))
    if structure is not None:
        sites += _unit_sites(model, structure)
        sites += _block_sites(model, structure)
    return tuple(sites)


class _Names:
    """Ids of sites: those that are registered for an anchor, else the next free number of a kind."""

    def __init__(self, model: Model) -> None:
        self._known = {(name.partition(".")[0], entry["anchor"]): name for name, entry in registered(model).items()}
        self._taken = set(self._known.values())
        self._counts: Counter[str] = Counter()

    def of(self, kind: str, anchor: str) -> str:
        """The id of the next site of a kind, in data order."""
        # Two sites of one anchor are told apart by their numbers.
        name = self._known.pop((kind, anchor), "") or self._known.pop((kind, self._before(kind, anchor)), "")
        while not name:
            candidate = f"{kind}.{self._counts[kind]}"
            self._counts[kind] += 1
            name = "" if candidate in self._taken else candidate
        return name

    def _before(self, kind: str, anchor: str) -> str:
        """The registered anchor that names the same weights before passes wrote them anew; the closest where several.

        What a pass writes extends the name that it replaces.
        """
        now = _weights_of(anchor)
        found = [""]
        for known, name in self._known:
            then = _weights_of(name)
            if known == kind and len(then) == len(now) and all(map(_extends, now, then)):
                found.append(name)
        return max(found, key=len)


def _weights_of(anchor: str) -> list[str]:
    return re.split(r"( … | \(part\)| > | #)", anchor)


def _extends(now: str, then: str) -> bool:
    return now == then or now.startswith(f"{then}.")


def entries(sites: Iterable[Site]) -> dict[str, dict[str, Any]]:
    """What a cut model has to remember so that its sites keep their ids, though others go."""
    held: dict[str, dict[str, Any]] = {}
    for site in sites:
        if site.kind != "graph":
            role = {"role": site.operator} if site.kind == "block" else {}
            held[site.id] = {"anchor": site.anchor, "units": site.original_units, **role}
    return held


def registered(model: Model) -> dict[str, dict[str, Any]]:
    """Sites that earlier cuts wrote down: id -> anchor and original units."""
    try:
        held = json.loads(model.metadata.get(REGISTRY, "{}"))
    except ValueError:
        return {}
    # Metadata is a stranger's text: entries that are not ours are none.
    entries = held.items() if isinstance(held, dict) else ()
    return {
        name: entry
        for name, entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("anchor"), str) and isinstance(entry.get("units"), int)
    }


def with_registered(model: Model, sites: Mapping[str, Mapping[str, Any]]) -> Model:
    """The model remembering more sites."""
    held = registered(model) | {name: dict(entry) for name, entry in sites.items()}
    return model.with_metadata(**{REGISTRY: json.dumps(held, sort_keys=True)})


def refuse_unknown(who: str, asked: Iterable[str], own: Iterable[Site], gone: Iterable[str] = ()) -> None:
    """Refuse names of sites that there never were.

    Args:
        who: whose option names them.
        asked: names.
        own: sites on which it could act.
        gone: names of sites that edits before have taken along.

    Raises:
        OptionError: a name is none of these.
    """
    names = [site.id for site in own]
    unknown = set(asked).difference(names, gone)
    if unknown:
        raise OptionError(f"{who}: no site {min(unknown)!r}. Known: {', '.join(names) or 'none'}.")


def _unit_sites(model: Model, structure: Structure) -> Iterator[Site]:
    known, names = registered(model), _Names(model)
    anchors: Counter[str] = Counter()
    groups = {consumer for each in structure.dimensions.all if each.queries > 1 for consumer in _places(each)}
    sizes = {name: runs[0] for name, runs in structure.shapes.items()}
    for dimension in structure.dimensions.all:
        kind = dimension.kind
        if kind == "widths" or not _is_site(dimension):
            continue
        anchor = _anchor(dimension, sizes)
        anchors[anchor] += 1
        if anchors[anchor] > 1:
            anchor = f"{anchor} #{anchors[anchor]}"
        name = names.of(kind, anchor)
        numbers = {
            member.tensor: elements_of(sizes.get(member.tensor, ()))
            // max(1, sizes[member.tensor][member.axis])
            * member.elements.size
            for member in dimension.members
            if member.constant
        }
        params = sum(numbers.values())
        yield Site(
            id=name,
            kind=kind,
            units=dimension.units,
            original_units=max(int(known.get(name, {}).get("units", 0)), dimension.units),
            unit_size=params // max(1, dimension.units),
            params=params,
            uses=tuple(dict.fromkeys(consumer.node for consumer in dimension.consumers)),
            operator=", ".join(sorted({consumer.op for consumer in dimension.consumers})),
            dimension=dimension.index,
            anchor=anchor,
            pinned=dimension.pinned[0] if dimension.pinned else "",
            grouped=kind == "heads" and dimension.queries == 1 and not groups.isdisjoint(_places(dimension)),
        )


def _places(dimension: Dimension) -> set[tuple[str, int]]:
    """Operands that hold the units where they are summed over."""
    return {(consumer.node, consumer.input) for consumer in dimension.consumers}


def between_weights(dimension: Dimension) -> bool:
    """Whether stored weights make the units and sum over them: what a user would call neurons or channels."""
    return any(each.weight for each in dimension.producers) and any(each.weight for each in dimension.consumers)


def elements_of(shape: tuple[int, ...]) -> int:
    """Numbers in a tensor of this shape."""
    total = 1
    for size in shape:
        total *= size
    return total


def _is_site(dimension: Dimension) -> bool:
    """Whether a user would look for it: it can be cut, or it is the heads of an attention."""
    if dimension.prunable:
        return True
    weights = any(producer.weight for producer in dimension.producers)
    return dimension.kind == "heads" and weights and bool(dimension.consumers)


def _anchor(dimension: Dimension, sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Names of weights around the units; cuts leave names alone.

    Groups of query heads, which keys and values have too, are told from the queries in each group by the last producer,
    or by filling the packed weight of all three.
    """
    producers = [producer.weight for producer in dimension.producers if producer.weight] or [""]
    consumers = [consumer.weight for consumer in dimension.consumers if consumer.weight] or [""]
    first, last = producers[0], producers[-1]
    part = any(
        member.tensor == first and member.elements.size < sizes[first][member.axis]
        for member in dimension.members
        if first in sizes
    )
    return f"{first if first == last else f'{first} … {last}'}{' (part)' if part else ''} > {consumers[0]}"


def _block_sites(model: Model, structure: Structure) -> Iterator[Site]:
    names = _Names(model)
    for block in find_blocks(model.graph, structure.shapes):
        yield Site(
            id=names.of("block", block.output),
            kind="block",
            units=1,
            original_units=1,
            unit_size=block.params,
            params=block.params,
            uses=(block.output,),
            operator=block.role,
            anchor=block.output,
            pinned=block.pinned,
            block=block,
        )


def _weight_site(weight: Weight, kind: Kind, name: str) -> Site:
    numbers = elements(weight.constant)
    units = weight.constant.shape[0] if kind == "embedding" else numbers // _fan_in(weight)
    return Site(
        id=name,
        kind=kind,
        units=units,
        original_units=units,
        unit_size=numbers // units if units else 0,
        params=numbers,
        weight=weight.constant.name,
        uses=tuple(use.name for use in weight.uses),
        operator=weight.uses[0].node.op,
        anchor=weight.constant.name,
    )


def _fan_in(weight: Weight) -> int:
    """Numbers that feed one output feature."""
    use, shape = weight.uses[0], weight.constant.shape
    if use.role == "conv":
        axis = 1 if use.node.op == "ConvTranspose" else 0
        return max(1, elements(weight.constant) // max(1, int(shape[axis])))
    if use.role == "recurrent":
        return max(1, int(shape[-1]))
    order = use.permutation or tuple(range(len(shape)))
    transposed = use.node.op in {"Gemm", "FusedGemm"} and use.node.attrs.get("transB", 0)
    axis = order[-1 if transposed else -2] if len(order) == len(shape) else -2
    return max(1, int(shape[axis]))
