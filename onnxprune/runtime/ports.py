"""Inputs and outputs of a model, and the types of what goes in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

_DTYPES = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(string)": np.object_,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        dtype: numpy's type; None for types without one (bfloat16, sequences, maps).
        shape: sizes; a name or None where an axis is dynamic.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """As the user would write it: `input_ids int64 [batch, sequence]`."""
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype or 'of an unsupported type'} [{sizes}]"


def declared(tensor: gs.Tensor) -> Port:
    """What a graph says of an input or output."""
    sizes = tuple(size if isinstance(size, int | str) else None for size in tensor.shape or ())
    known = isinstance(tensor.dtype, type | np.dtype)
    return Port(tensor.name, np.dtype(tensor.dtype) if known else None, sizes)


def port_of(value: Any) -> Port:
    """What a session says of an input or output."""
    dtype = _DTYPES.get(value.type)
    return Port(value.name, None if dtype is None else np.dtype(dtype), tuple(value.shape))
