"""How units are ranked: a higher score is kept longer."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Scope = Literal["site", "global"]


def magnitude(parts: Iterable[tuple[Array, int, Array]], units: int) -> Array:
    """L2 norm of the weights that go with each unit.

    Args:
        parts: (weight, axis, elements [units, k]): which entries of the axis belong to each unit.
        units: how many there are.

    Returns:
        [units], not negative.
    """
    total = np.zeros(units)
    for weight, axis, places in parts:
        others = tuple(at for at in range(weight.ndim) if at != axis % weight.ndim)
        squares = np.square(weight, dtype=np.float64).sum(axis=others)
        total += squares[places].sum(axis=1)
    return np.sqrt(total)


def random(units: int, seed: int, name: str) -> Array:
    """Scores [units] in random order, the same for the same seed and site."""
    return np.random.default_rng((seed, zlib.crc32(name.encode()))).permutation(units).astype(np.float64)


def kept_count(keep: float, original: int, units: int, multiple: int = 1) -> int:
    """How many of `units` stay: a share of the `original` ones (float) or a count (int), at least one.

    Rounded up to a multiple; never more than there are.
    """
    wanted = keep if isinstance(keep, int) else int(np.floor(keep * original + 0.5))
    aligned = -(-max(1, wanted) // multiple) * multiple
    return min(units, aligned)


def lowest(score: Array, count: int) -> tuple[int, ...]:
    """The `count` units of lowest score, ascending; the earlier of equals goes first."""
    return tuple(sorted(int(unit) for unit in np.argsort(score, kind="stable")[:count]))


def lowest_over_sites(
    scores: Sequence[Array], removals: int, *, multiple: int = 1, level: bool = True
) -> list[tuple[int, ...]]:
    """The lowest units over several sites: `removals` of them, or fewer where multiples leave no other way.

    Args:
        scores: per site, [units].
        removals: how many go in all.
        multiple: what stays of a site is a multiple of this, or all of it; never less than one multiple.
        level: bring each site's scores to one L2 norm first, since norms of different layers do not compare.

    Source: Michel et al. 2019, Are Sixteen Heads Really Better than One?, section 4 (the norm per layer).
    """
    portions: list[tuple[float, int, int, list[int]]] = []
    for site, score in enumerate(scores):
        values = score / max(float(np.linalg.norm(score)), 1e-30) if level else score
        order = np.argsort(values, kind="stable")
        # The first portion takes what is beyond the last multiple.
        bounds = range(len(order) % multiple or multiple, len(order) - multiple + 1, multiple)
        for number, end in enumerate(bounds):
            portion = [int(unit) for unit in order[bounds[number - 1] if number else 0 : end]]
            portions.append((float(values[portion].mean()), site, number, portion))
    gone: list[list[int]] = [[] for _ in scores]
    closed: set[int] = set()
    for _, site, _, portion in sorted(portions):
        # A site's portions go in order, so that one that is too large ends the site.
        if site in closed or len(portion) > removals:
            closed.add(site)
            continue
        gone[site] += portion
        removals -= len(portion)
    return [tuple(sorted(units)) for units in gone]
