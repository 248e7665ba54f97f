"""Arrays as torch holds them: floats in one type, whole numbers in one that torch computes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from onnxprune.errors import ModelError
from onnxprune.learn.call import Tensor

Array = np.ndarray[Any, Any]

# The types that torch lacks, and what holds their values.
_WIDENED = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "int4": np.int8, "uint4": np.uint8}


def is_float(values: Array) -> bool:
    """Whether an array holds floats of any width."""
    return bool(values.dtype.kind == "f") or values.dtype.name == "bfloat16"


def to_torch(values: Array, floating: torch.dtype) -> Tensor:
    """A copy of an array; every float type becomes `floating`.

    Raises:
        ModelError: it holds text.
    """
    if is_float(values):
        wide = values
        if floating == torch.float32 and values.dtype == np.float64:
            # Masks of the largest double stay finite.
            limit = float(np.finfo(np.float32).max)
            wide = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
        return torch.from_numpy(np.array(wide, dtype=np.float64 if floating == torch.float64 else np.float32))
    if values.dtype.name in _WIDENED:
        return torch.from_numpy(values.astype(_WIDENED[values.dtype.name]))
    if values.dtype == object or values.dtype.kind in "SU":
        raise ModelError("The torch module computes with numbers, got text. Recover models without strings.")
    return torch.from_numpy(np.array(values))


def on_one_device(given: list[Tensor | None], host: tuple[int, ...]) -> list[Tensor | None]:
    """Whole numbers follow the floats that they are used with; sizes and axes stay."""
    elsewhere = next((x.device for x in given if x is not None and x.device.type != "cpu"), None)
    if elsewhere is None:
        return given
    return [x if x is None or slot in host else x.to(elsewhere) for slot, x in enumerate(given)]
