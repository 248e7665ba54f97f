"""Moving outliers of activations into the weights that read them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_LEAST = 1e-5


def smoothing_factors(activations: Array, weights: Array, alpha: float) -> Array:
    """What each input channel is divided by, and its weights multiplied with.

    Args:
        activations: [k] the largest magnitude of each input channel.
        weights: [k] the largest magnitude of each channel's weights, over all that read it.
        alpha: 0 leaves activations as they are, 1 gives all channels the same largest magnitude.

    Returns:
        float32 [k], positive: max|x|^alpha / max|w|^(1 - alpha); 1 for a channel that is never used.

    Source: Xiao et al. 2023, SmoothQuant, equation 4.
    """
    peaks = np.asarray(activations, np.float64)
    reads = np.asarray(weights, np.float64)
    factors = np.maximum(peaks, _LEAST) ** alpha / np.maximum(reads, _LEAST) ** (1 - alpha)
    used = (peaks > 0) & (reads > 0) & np.isfinite(factors)
    # Scaled to a geometric mean of one, which leaves biases and norms where they were in size.
    centre = np.exp(np.mean(np.log(factors[used]))) if used.any() else 1.0
    return np.where(used, factors / centre, 1.0).astype(np.float32)


def expected_shift(error: Array, mean: Array) -> Array:
    """How far rounded or pruned weights move the mean output of each unit.

    Args:
        error: [n, k, …] what was stored less the weight itself; a kernel's taps follow.
        mean: [k] E[x] of each input channel; of a convolution over all places, so that its border counts as its middle.

    Returns:
        float64 [n]; taken from the bias it leaves the mean where it was.

    Source: Nagel et al. 2019, data-free quantization, section 4.2.
    """
    taps = np.asarray(error, np.float64).reshape(*error.shape[:2], -1).sum(axis=2)
    shift: Array = taps @ np.asarray(mean, np.float64)
    return shift
