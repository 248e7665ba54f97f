"""Padding that a mask blanks anyway, cut off before a sample runs: statistics of tokens cost what the tokens cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.masks import kept_rows
from onnxprune.runtime import Array, Feeds, Port

Observe = Callable[[Feeds], Mapping[str, Array]]

# Sums run in another order over a shorter axis; a mask that does more than blank a tail moves far more.
_TOLERANCE = 1e-3


def cropped(feeds: Feeds, mask: str, ports: Sequence[Port]) -> Feeds | None:
    """The sample without the padded tail of every axis of tokens; None where there is none to cut.

    Args:
        feeds: of one call.
        mask: the input [batch, sequence] that is 0 at padded tokens.
        ports: the model's inputs, which say what axes are dynamic.
    """
    tokens = np.asarray(feeds[mask])
    if tokens.ndim != 2 or not tokens.shape[1]:
        return None
    used = np.flatnonzero(tokens.any(axis=0))
    length = int(used[-1]) + 1 if used.size else tokens.shape[1]
    if length == tokens.shape[1] or not (tokens[:, :length] != 0).any():
        return None
    short = {}
    for port in ports:
        if port.name not in feeds:
            continue
        value = np.asarray(feeds[port.name])
        for axis in range(1, value.ndim):
            if value.shape[axis] == tokens.shape[1]:
                if isinstance(port.shape[axis], int):
                    return None
                value = np.take(value, range(length), axis=axis)
        short[port.name] = value
    return short


def may_crop(observe: Observe, feeds: Feeds, mask: str, ports: Sequence[Port]) -> bool:
    """Whether a model gives its tokens the same values without their padding, seen on one sample."""
    short = cropped(feeds, mask, ports)
    if short is None:
        return False
    try:
        after = observe(short)
    except Exception:  # noqa: BLE001 - whatever refuses the shorter sample, the long one stays
        return False
    before = observe(feeds)
    for name, value in before.items():
        kept = kept_rows(value.shape, np.asarray(feeds[mask]))
        left = kept_rows(after[name].shape, np.asarray(short[mask]))
        if kept is None or left is None:
            return False
        long, brief = value[kept], after[name][left]
        if long.shape != brief.shape or np.linalg.norm(long - brief) > _TOLERANCE * np.linalg.norm(long):
            return False
    return True


def padded_one(feeds: Sequence[Feeds], mask: str) -> Feeds:
    """One of the first samples that has padding, if any has."""
    return next((one for one in feeds[:64] if not np.asarray(one[mask]).all()), feeds[0])
