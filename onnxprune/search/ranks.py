"""Linears that stand alone, as pairs of low rank: which ranks there are, and what they make of the sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.errors import Declined
from onnxprune.linears import linear_of
from onnxprune.model import Model
from onnxprune.search.places import Place
from onnxprune.sites import Site, find_sites
from onnxprune.solvers.lowrank import break_even_rank
from onnxprune.weights import find_weights

# Of the rank at which a pair saves nothing any more.
_SHARES = (0.85, 0.65, 0.5, 0.35, 0.25)

Ranks = Mapping[str, tuple[int, ...]]


def ranks_of(model: Model, places: Sequence[Place]) -> Ranks:
    """Ranks, falling, of every place that is one linear for which a pair can stand; by the place's id."""
    weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
    found = {}
    for place in places:
        if place.site.kind != "linear" or place.site.weight not in weights:
            continue
        try:
            most = break_even_rank(*linear_of(place.site, weights[place.site.weight], model).matrix.shape)
        except Declined:
            continue
        ranks = dict.fromkeys(int(share * most) for share in _SHARES)
        found[place.id] = tuple(rank for rank in ranks if rank > 0)
    return found


def factors_among(model: Model, site: Site) -> tuple[str, ...]:
    """Sites of the pair that has taken the place of a linear."""
    names = {f"{site.weight}.left", f"{site.weight}.right"}
    return tuple(one.id for one in find_sites(model) if one.weight in names)
