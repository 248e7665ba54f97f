"""Rows of ids as single numbers, so that they sort and compare fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxprune.errors import Declined

Array = np.ndarray[Any, Any]

_LARGEST = 2.0**62


def sizes_of(columns: Sequence[str], rows: Array) -> Array:
    """[columns] one more than the largest id of each.

    Raises:
        Declined: rows of such ids have no 62 bits together.
    """
    sizes: Array = rows.max(axis=0, initial=0).astype(np.int64) + 1
    if np.prod(sizes.astype(np.float64)) >= _LARGEST:
        raise Declined(f"ids of {', '.join(columns)} do not fit 62 bits together")
    return sizes


def packed(rows: Array, sizes: Array) -> Array:
    """[n] one number a row of ids [n, columns], in the order of the rows."""
    whole = np.zeros(len(rows), np.int64)
    for column, size in zip(rows.T, sizes, strict=True):
        whole = whole * size + column
    return whole


def distinct(columns: Sequence[str], rows: Array) -> tuple[Array, Array]:
    """Rows [m, columns], each once, in order; and [n] the place of each given one among them.

    Raises:
        Declined: rows of such ids have no 62 bits together.
    """
    keys = packed(rows, sizes_of(columns, rows))
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], number.ravel()
