"""Which levels each place can be at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxprune.model import Model
from onnxprune.passes import SparseInt8
from onnxprune.protocol import Context
from onnxprune.search.levels import AS_IS, Level
from onnxprune.search.places import Place
from onnxprune.sites import find_sites

# Each count is this share of the one before: fine where much is left, and where little is, one more hardly matters.
_STEP = 0.9
# Below this share of its units a place is as good as gone.
_LEAST = 0.04
# Up to so many units each count is a level of its own.
_FEW = 16

# Shares of zeros that weights may have: bitmaps store what is left.
SPARSITIES = (0.5, 0.75)
_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv"}

Grid = dict[str, tuple[Level, ...]]


def counts_of(units: int, multiple: int = 1) -> tuple[int, ...]:
    """Counts of units that may stay, fewer than all, falling.

    Args:
        units: how many there are.
        multiple: counts of many units are rounded up to a multiple of this.

    Source: Kurtic, Frantar, Alistarh 2023, ZipLM, section 3.2 (the geometric grid).
    """
    if units <= _FEW:
        return tuple(range(units - 1, 0, -1))
    kept, share = [], _STEP
    while share >= _LEAST:
        kept.append(-(-max(1, round(units * share)) // multiple) * multiple)
        share *= _STEP
    return tuple(sorted({count for count in kept if count < units}, reverse=True))


def grid_of(
    places: Sequence[Place],
    integers: frozenset[str],
    ranks: Mapping[str, Sequence[int]],
    *,
    multiple: int = 1,
    small: bool = False,
) -> Grid:
    """Levels of every place, as it was first.

    Args:
        places: of one model.
        integers: sites of weights that can become int8.
        ranks: of pairs that can stand for a place.
        multiple: to which counts of many units are rounded up.
        small: also levels that make the file smaller and no run faster: zeros in weights, tables of 4 bits.
    """
    found = {place.id: tuple(_levels(place, integers, ranks.get(place.id, ()), multiple)) for place in places}
    return {place.id: (*found[place.id], *_small(place, integers)) for place in places} if small else found


def _small(place: Place, integers: frozenset[str]) -> Iterator[Level]:
    if not any(site.id in integers for site in place.weights):
        return
    if place.site.kind == "embedding":
        yield Level(bits=4)
    elif all(site.operator not in _CONVOLUTIONS for site in place.weights):
        yield from (Level(bits=8, sparsity=sparsity) for sparsity in SPARSITIES)


def _levels(place: Place, integers: frozenset[str], ranks: Sequence[int], multiple: int) -> Iterator[Level]:
    forms = (None, 8) if any(site.id in integers for site in place.weights) else (None,)
    for bits in forms:
        yield Level(bits=bits) if bits else AS_IS
        for count in counts_of(place.units, multiple) if place.units else ():
            yield Level(units=count, bits=bits)
        for rank in ranks:
            yield Level(rank=rank, bits=bits)
    if place.block is not None:
        yield Level(units=0)


def integers_of(model: Model, context: Context) -> frozenset[str]:
    """Sites of the weights that can be multiplied with integers or stored as such."""
    return frozenset(edit.site for edit in SparseInt8().propose(model, find_sites(model), context).edits)
