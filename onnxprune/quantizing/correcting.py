"""What rounding a convolution's weights does to its mean output, so that its bias can take it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.solvers.smoothing import expected_shift
from onnxprune.weights import Weight

Array = np.ndarray[Any, Any]


def output_shift(weight: Weight, values: Array, means: Mapping[str, Array]) -> Array | None:
    """How far stored weights move the mean of each output channel.

    Args:
        weight: read by one convolution.
        values: what its integers stand for, as stored.
        means: [channels] of tensors, by name.

    Returns:
        float32 [output channels]; None where several read the weight, or what they read is not known.
    """
    if len(weight.uses) != 1:
        return None
    (use,) = weight.uses
    mean = means.get(use.node.inputs[0].name)
    if mean is None or use.role != "conv":
        return None
    groups = int(use.node.attrs.get("group", 1))
    error = values.astype(np.float64) - weight.constant.values
    if use.node.op == "ConvTranspose":
        # [groups, outputs, inputs, …]; each place is reached by every stride-th tap, so that a stride shares them out.
        error = error.reshape(groups, -1, *error.shape[1:]).swapaxes(1, 2)
        error = error / np.prod(use.node.attrs.get("strides", (1,)))
    else:
        error = error.reshape(groups, -1, *error.shape[1:])
    if mean.size != groups * error.shape[2]:
        # Means of a model before its channels were cut, as a search has them, say nothing of this one.
        return None
    parts = [expected_shift(part, own) for part, own in zip(error, mean.reshape(groups, -1), strict=True)]
    return np.concatenate(parts).astype(np.float32)
