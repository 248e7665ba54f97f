"""Weights with 7 bits where sums of integer products would be cut on x64 without VNNI."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.quantizing.matrices import Layout
from onnxprune.solvers.saturation import PORTABLE_MAX, columns_at_risk

Array = np.ndarray[Any, Any]

# Forms whose activations are unsigned bytes.
MULTIPLIED = frozenset({"dynamic", "ranged", "static"})


def outputs_at_risk(layout: Layout, integers: Array, *, convolved: bool) -> Array | None:
    """Which outputs may saturate for some activations, where unsigned bytes are multiplied with them.

    Args:
        layout: of the stored weight.
        integers: as stored.
        convolved: whether by a convolution.

    Returns:
        bool [groups, n]; None where nothing may saturate.
    """
    matrices = layout.matrices(integers)
    groups, _, outputs = matrices.shape
    if convolved and groups > 1 and outputs == 1 and layout.sizes_of_inputs()[0] == 1:
        # One channel in, one out: such kernels multiply in 16 bits.
        return None
    if convolved:
        # Kernels for integers run channels-last: taps outside, channels inside.
        matrices = matrices[:, layout.by_channel()]
    risky = np.array([columns_at_risk(matrix) for matrix in matrices])
    return risky if risky.any() else None


def widened(layout: Layout, risky: Array, scale: Array) -> Array:
    """Steps that leave a bit of room at the outputs at risk.

    Args:
        layout: of the stored weight.
        risky: [groups, n].
        scale: broadcasts against the stored weight.

    Returns:
        Steps of the same shape and type, larger by 127/63 for each that an output at risk has.
    """
    groups, inputs, outputs = layout.size
    spread = layout.stored(np.broadcast_to(risky[:, None], (groups, inputs, outputs)))
    reduced = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
    shared = spread.any(axis=reduced, keepdims=True) if reduced else spread
    return np.where(shared, scale * np.float32(127 / PORTABLE_MAX), scale).astype(scale.dtype)
