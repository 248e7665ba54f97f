"""Int8 as training sees it: weights and activations rounded in each run, gradients straight through."""

from __future__ import annotations

from collections.abc import Callable

import torch

from onnxprune.learn.call import Tensor
from onnxprune.learn.matrices import Matrix
from onnxprune.learn.quantized import dynamic, rounded

_HIGHEST = 127.0
_TINY = 1e-12


def int8_weight(matrix: Matrix) -> Callable[[Tensor], Tensor]:
    """A weight on a symmetric int8 grid with one step for each output; zeros stay zeros.

    Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Integer-Arithmetic-Only Inference.
    """

    def view(weight: Tensor) -> Tensor:
        largest = weight.detach().abs().amax(dim=matrix.inputs, keepdim=True)
        step = torch.clamp(largest / _HIGHEST, min=_TINY)
        edge = torch.full((), _HIGHEST, device=weight.device)
        return rounded(weight / step, -edge, edge) * step

    return view


def int8_activation(x: Tensor) -> Tensor:
    """Activations as a product of integers reads them: 0 … 255 over their own range."""
    whole, scale, zero = dynamic(x)
    return (whole - zero) * scale
