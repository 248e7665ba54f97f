"""Which entries of an array are one number, and which either of two answers names."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Softmax rows sum to one up to rounding: a weighted mean of one number is that number up to this share of it.
_UNIFORM = {2: 4e-3, 4: 1e-5, 8: 1e-5}


def uniform(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Where `values` are one number along some axes, which stay with size 1."""
    exact = values.astype(np.float64)
    low, high = exact.min(axis=axis, keepdims=True), exact.max(axis=axis, keepdims=True)
    size = np.maximum(np.abs(low), np.abs(high))
    return np.asarray(high - low <= _UNIFORM.get(values.dtype.itemsize, 1e-5) * size + 1e-30)


def either(first: Array | None, second: Array | None) -> Array | None:
    """Entries of one answer or the other, where there is one."""
    return first if second is None else second if first is None else first | second
