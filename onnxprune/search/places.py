"""Where a search has a choice: units with the block around them, linears alone, blocks alone, tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from onnxprune.dimensions import Dimension
from onnxprune.model import Model
from onnxprune.sites import Site
from onnxprune.structure import Structure
from onnxprune.weights import find_weights

Nodes = frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One thing that a level can be chosen for. Its id is that of the site that gives it its name.

    Attributes:
        site: of units, of a block, of a linear or of an embedding.
        block: site of the residual block that can go as a whole; None where there is none, or it holds more than this.
        weights: sites of the linears and embeddings whose numbers belong to this place and to no other.
        nodes: first outputs of the nodes whose time is this place's; empty where it takes none worth timing.
        share: of those nodes' work that is counted here; the rest counts at places that hold the same nodes.
    """

    site: Site
    block: Site | None = None
    weights: tuple[Site, ...] = ()
    nodes: Nodes = frozenset()
    share: float = 1.0

    @property
    def id(self) -> str:
        """Of the site."""
        return self.site.id

    @property
    def units(self) -> int:
        """Heads, neurons or channels; 0 where it has none."""
        return self.site.units if self.site.dimension is not None else 0


def find_places(model: Model, structure: Structure, sites: Sequence[Site]) -> tuple[Place, ...]:
    """Every place of a model, in data order: units first, then blocks without units, then what is left.

    Args:
        model: as it now is.
        structure: of that model.
        sites: of that model.
    """
    readers = {
        site.id: frozenset(use.name for use in weight.uses)
        for weight in find_weights(model.graph, model.overridable)
        for site in sites
        if site.weight and site.weight == weight.constant.name
    }
    blocks = [site for site in sites if site.kind == "block" and site.block is not None]
    found = list(_unit_places(model.graph, structure, sites, blocks))
    held = {place.block.id for place in found if place.block is not None}
    taken = frozenset().union(*(place.nodes for place in found))
    for site in blocks:
        inner = frozenset(site.block.inner if site.block is not None else ())
        if site.id not in held and not site.pinned and not inner & taken:
            found.append(Place(site=site, block=site, nodes=inner))
            taken |= inner
    named: set[str] = set()
    complete = []
    for place in found:
        own = tuple(
            site for site in sites if site.id in readers and site.id not in named and readers[site.id] & place.nodes
        )
        named |= {site.id for site in own}
        complete.append(replace(place, weights=own))
    for site in sites:
        if site.kind in {"linear", "embedding"} and site.id in readers and site.id not in named:
            nodes = readers[site.id] if site.kind == "linear" else frozenset()
            complete.append(Place(site=site, weights=(site,), nodes=nodes))
    return tuple(_shared_out(complete, model.graph))


def _unit_places(
    graph: gs.Graph, structure: Structure, sites: Sequence[Site], blocks: Sequence[Site]
) -> Iterator[Place]:
    places = [
        (site, _nodes_of(graph, structure.dimensions.all[site.dimension]))
        for site in sites
        if site.dimension is not None and not site.pinned and not site.grouped
    ]
    # A block can go at one place only: at the one whose nodes all lie inside, where no other place has nodes there.
    for site, nodes in places:
        around = [
            block
            for block in blocks
            if block.block is not None and not block.pinned and nodes <= frozenset(block.block.inner)
        ]
        around = [
            block
            for block in around
            if block.block is not None
            and not any(other & frozenset(block.block.inner) for one, other in places if one is not site)
        ]
        block = min(around, key=lambda each: len(each.block.inner) if each.block else 0) if around else None
        inner = frozenset(block.block.inner) if block is not None and block.block is not None else frozenset()
        yield Place(site=site, block=block, nodes=nodes | inner)


def _nodes_of(graph: gs.Graph, dimension: Dimension) -> Nodes:
    """Nodes that make or read a tensor which holds the units."""
    held = {member.tensor for member in dimension.members if not member.constant}
    return frozenset(
        node.outputs[0].name
        for node in graph.nodes
        if node.outputs and any(tensor.name in held for tensor in (*node.inputs, *node.outputs))
    )


def _shared_out(places: Sequence[Place], graph: gs.Graph) -> Iterator[Place]:
    """Places with the share of their nodes' weights that no other place counts."""
    sizes = _weight_of_nodes(graph)
    holders = Counter(name for place in places for name in place.nodes)
    for place in places:
        whole = sum(sizes[name] for name in place.nodes)
        own = sum(sizes[name] / holders[name] for name in place.nodes)
        yield replace(place, share=own / whole if whole else 1.0)


def _weight_of_nodes(graph: gs.Graph) -> Mapping[str, float]:
    """What a node weighs when its time is shared out: the numbers it multiplies with, 1 at least."""
    return {
        node.outputs[0].name: 1.0
        + sum(float(_numbers(tensor)) for tensor in node.inputs if isinstance(tensor, gs.Constant))
        for node in graph.nodes
        if node.outputs
    }


def _numbers(tensor: gs.Constant) -> int:
    total = 1
    for size in tensor.shape:
        total *= int(size)
    return total
