"""What values a tensor can take, whatever the graph is given: the least and the greatest, and whether any is no number.

Intervals are followed from constants and inputs through the operators in the graph's order. Where an operator is not
known, anything may come out. Nothing is read off a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# An axis holds fewer entries than this: sizes beyond it cannot be addressed by any kernel.
MOST_ENTRIES = 2.0**31
# Rounding while long sums are added up, as a share of the sum of magnitudes.
_SUM_ROUNDING = 1.01
# Of weights that are looked at: bounds the memory to some megabytes.
_ELEMENTS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Values that a tensor may hold.

    Attributes:
        low: least finite value.
        high: greatest finite value.
        minus: whether minus infinity may come up.
        plus: whether infinity may come up.
        nan: whether NaN may come up.
        shares: whether the values along the last axis are not negative and sum to 1 at most.
        limit: greatest finite number of the type; infinity for integers, which are taken not to overflow.
    """

    low: float
    high: float
    minus: bool = False
    plus: bool = False
    nan: bool = False
    shares: bool = False
    limit: float = float(np.finfo(np.float32).max)

    @property
    def finite(self) -> bool:
        """Whether every value is a finite number."""
        return not (self.minus or self.plus or self.nan)

    @property
    def size(self) -> float:
        """Greatest magnitude of the finite values."""
        return max(abs(self.low), abs(self.high))

    @property
    def settled(self) -> bool | None:
        """Of truth values: the one that it always is; None where it may be either."""
        if self.nan or self.low != self.high:
            return None
        return self.low != 0


def limit_of(dtype: Any) -> float:
    """Greatest finite number of a type."""
    kind = np.dtype(dtype)
    return float(np.finfo(kind).max) if kind.kind == "f" else math.inf


def anything(limit: float = float(np.finfo(np.float32).max)) -> Reach:
    """No value is ruled out but NaN among integers."""
    floats = math.isfinite(limit)
    return Reach(low=-limit, high=limit, minus=floats, plus=floats, nan=floats, limit=limit)


def within(
    low: float, high: float, *, limit: float = float(np.finfo(np.float32).max), flags: Reach | None = None
) -> Reach:
    """Finite values between two bounds, as a float type holds them: what is beyond its limit becomes infinite.

    Args:
        low: least value before rounding.
        high: greatest.
        limit: of the type.
        flags: infinities and NaN that may come up besides.
    """
    if math.isnan(low) or math.isnan(high):
        return anything(limit)
    # Up to half a step beyond the limit is rounded down to it.
    edge = limit * (1 + 2.0**-26) if limit > 1e5 else limit * (1 + 2.0**-13)
    plus, minus = high > edge, low < -edge
    return Reach(
        low=max(low, -limit),
        high=min(high, limit),
        minus=minus or (flags is not None and flags.minus),
        plus=plus or (flags is not None and flags.plus),
        nan=flags is not None and flags.nan,
        limit=limit,
    )


def of_array(values: Array) -> Reach:
    """The values of a constant."""
    if values.dtype.kind not in "fiub":
        return anything()
    if not values.size:
        return Reach(low=0, high=0, limit=limit_of(values.dtype))
    limit = limit_of(values.dtype)
    low, high = float(values.min()), float(values.max())
    if math.isfinite(low) and math.isfinite(high):
        return Reach(low=low, high=high, limit=limit)
    finite = values[np.isfinite(values)]
    return Reach(
        low=float(finite.min(initial=0.0)) if not finite.size else float(finite.min()),
        high=float(finite.max(initial=0.0)) if not finite.size else float(finite.max()),
        minus=bool(np.isneginf(values).any()),
        plus=bool(np.isposinf(values).any()),
        nan=bool(np.isnan(values).any()),
        limit=limit,
    )


def either(several: Sequence[Reach]) -> Reach:
    """Whatever any of them may be."""
    return Reach(
        low=min(one.low for one in several),
        high=max(one.high for one in several),
        minus=any(one.minus for one in several),
        plus=any(one.plus for one in several),
        nan=any(one.nan for one in several),
        limit=min(one.limit for one in several),
    )


def total(one: Reach, other: Reach) -> Reach:
    """Of sums."""
    flags = replace(
        either([one, other]), nan=one.nan or other.nan or (one.minus and other.plus) or (one.plus and other.minus)
    )
    return within(one.low + other.low, one.high + other.high, limit=flags.limit, flags=flags)


def negative(one: Reach) -> Reach:
    """Of the same with the other sign."""
    return replace(one, low=-one.high, high=-one.low, minus=one.plus, plus=one.minus, shares=False)


def product(one: Reach, other: Reach) -> Reach:
    """Of products; an infinity among the factors leaves nothing certain."""
    limit = min(one.limit, other.limit)
    if not (one.finite and other.finite):
        return anything(limit)
    corners = [a * b for a in (one.low, one.high) for b in (other.low, other.high)]
    return within(min(corners), max(corners), limit=limit)


def quotient(one: Reach, other: Reach) -> Reach:
    """Of quotients; a divisor that may be zero leaves nothing certain."""
    limit = min(one.limit, other.limit)
    if not (one.finite and other.finite) or other.low <= 0 <= other.high:
        return anything(limit)
    corners = [a / b for a in (one.low, one.high) for b in (other.low, other.high)]
    return within(min(corners), max(corners), limit=limit)


def contracted(one: Reach, other: Reach, entries: float = MOST_ENTRIES) -> Reach:
    """Of sums of products over `entries` terms."""
    limit = min(one.limit, other.limit)
    if not (one.finite and other.finite):
        return anything(limit)
    # Shares weigh: their sum is at most the greatest of what they weigh.
    bound = (other.size if one.shares else entries * one.size * other.size) * _SUM_ROUNDING
    return within(-bound, bound, limit=limit)


def weighed(one: Reach, weights: Array) -> Reach:
    """Of one weighed sum: [terms, sums]."""
    if not one.finite:
        return anything(one.limit)
    if not weights.size:
        return Reach(low=0, high=0, limit=one.limit)
    sums = np.zeros(weights.shape[1])
    rows = max(1, _ELEMENTS_AT_ONCE // max(weights.shape[1], 1))
    for at in range(0, len(weights), rows):
        sums += np.abs(weights[at : at + rows].astype(np.float64)).sum(axis=0)
    bound = one.size * float(sums.max()) * _SUM_ROUNDING
    return within(-bound, bound, limit=one.limit) if math.isfinite(bound) else anything(one.limit)
