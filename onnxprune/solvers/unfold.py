"""A convolution's input as the rows of a matrix, so that solvers for linears serve convolutions too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def unfold(
    images: Array, kernel: Sequence[int], *, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> Array:
    """Patches as rows (im2col).

    Args:
        images: [batch, channels, *space].
        kernel: sizes of the kernel, one a spatial axis.
        strides: steps between patches.
        pads: zeros before each axis, then after each axis, as in ONNX.
        dilations: steps inside a patch.

    Returns:
        [batch * positions, channels * prod(kernel)], so that rows @ weight.reshape(out, -1).T is the convolution.
    """
    space = len(kernel)
    widths = [(0, 0), (0, 0), *zip(pads[:space], pads[space:], strict=True)]
    padded = np.pad(images, widths)
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=tuple(range(2, 2 + space)))
    positions = tuple(slice(None, None, step) for step in strides)
    inside = tuple(slice(None, None, step) for step in dilations)
    patches = windows[(slice(None), slice(None), *positions, *inside)]
    # [batch, channels, *positions, *kernel] -> [batch, *positions, channels, *kernel]
    order = (0, *range(2, 2 + space), 1, *range(2 + space, 2 + 2 * space))
    rows = patches.transpose(order)
    return rows.reshape(-1, images.shape[1] * int(np.prod(kernel)))
