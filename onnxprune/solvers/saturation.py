"""What x64 without VNNI makes of products of unsigned activations and signed weights.

There a product's terms are taken in pairs along the summed axis, and each pair's sum is cut to 16 bits (VPMADDUBSW):
2·255·127 does not fit. With VNNI, on ARM, and for unsigned weights nothing is cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LEAST, _LARGEST = -(2**15), 2**15 - 1
UINT8_MAX = 255
# The largest magnitude at which no pair can saturate: 2·255·63 = 32130 fits into 16 bits, 2·255·65 does not.
PORTABLE_MAX = 63


def saturating_product(activations: Array, weight: Array) -> Array:
    """`activations @ weight` as pairs of 16-bit sums give it.

    Args:
        activations: uint8 [m, k].
        weight: int8 [k, n].

    Returns:
        int32 [m, n]; equal to the exact product where no pair saturates.

    Source: Intel's description of VPMADDUBSW; onnxruntime issue 6004.
    """
    x, w = _paired(activations.astype(np.int32), 1), _paired(weight.astype(np.int32), 0)
    total = np.zeros((len(x), w.shape[1]), np.int32)
    for at in range(0, x.shape[1], 2):
        pair = x[:, at, None] * w[at] + x[:, at + 1, None] * w[at + 1]
        total += np.clip(pair, _LEAST, _LARGEST)
    return total


def columns_at_risk(weight: Array, largest: Array | int = UINT8_MAX) -> Array:
    """Columns whose pairs of terms may not fit into 16 bits.

    A pair overflows upwards only if both weights are positive, downwards only if both are negative, and is largest
    where both activations are. A single term always fits: 255·127 = 32385.

    Args:
        weight: int8 [k, n], rows in the order in which the runtime sums them.
        largest: [k] the largest uint8 that each row's activation takes, or one bound for all; 255 for the worst case.

    Returns:
        bool [n].
    """
    bound = np.broadcast_to(np.asarray(largest, np.int32), (len(weight),))
    terms = _paired(weight.astype(np.int32) * bound[:, None], 0)
    first, second = terms[::2], terms[1::2]
    up = np.maximum(first, 0) + np.maximum(second, 0) > _LARGEST
    down = np.minimum(first, 0) + np.minimum(second, 0) < _LEAST
    return np.asarray((up | down).any(axis=0))


def _paired(array: Array, axis: int) -> Array:
    """With a zero behind an odd last term."""
    if array.shape[axis] % 2 == 0:
        return array
    return np.pad(array, [(0, 1) if at == axis else (0, 0) for at in range(array.ndim)])
