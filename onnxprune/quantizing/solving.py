"""The integers and scales of one weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.errors import Declined
from onnxprune.int8_weights import scale_axes
from onnxprune.plan import Tensors
from onnxprune.solvers.quantize import round_to_grid, symmetric_scale
from onnxprune.weights import Weight

Array = np.ndarray[Any, Any]


def solve_weight(weight: Weight, forms: dict[str, str]) -> tuple[Tensors, dict[str, Any]]:
    """`weight`, int8, and `scale`, which broadcasts against it; and in which layout they are.

    Raises:
        Declined: the readers want different scales.
    """
    axes = {scale_axes(use, form, weight) for use, form in zip(weight.uses, forms.values(), strict=True)}
    if len(axes) > 1:
        raise Declined("its readers need their scales on different axes")
    (kept,) = axes
    layout: dict[str, Any] = {}
    values = weight.constant.values
    if set(forms.values()) == {"dynamic"} and len({use.reads_transposed for use in weight.uses}) == 1:
        # The product's own layout, so that no Transpose is left to run.
        if weight.uses[0].reads_transposed:
            values, kept = values.T, tuple(1 - axis for axis in kept)
            layout["transposed"] = True
        layout["layout"] = "product"
    # A row's scale is looked up with the row; half precision halves its cost and is rounded before the weights.
    small = set(forms.values()) == {"gather"} and _fits_half(values, kept)
    scale = symmetric_scale(values, kept, dtype=np.float16 if small else np.float32)
    return {"weight": round_to_grid(values, scale), "scale": scale}, layout


def _fits_half(values: Array, kept: tuple[int, ...]) -> bool:
    """Whether every scale is a normal half-precision number, so that rounding it costs less than 0.05 %."""
    scale = symmetric_scale(values, kept)
    return bool(scale.min() > np.finfo(np.float16).tiny and scale.max() < np.finfo(np.float16).max)
