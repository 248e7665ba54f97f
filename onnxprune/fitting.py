"""Arrays against the inputs that they are meant for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime import Array, Port

_FAMILIES = {"b": "whole", "i": "whole", "u": "whole", "f": "float", "U": "text", "O": "text"}


def fits(shape: tuple[int, ...], port: Port) -> bool:
    """Whether an array of `shape` can be one feed of an input."""
    # onnxruntime shows an input of unknown rank as if it were a scalar.
    if not port.shape:
        return True
    return len(shape) == len(port.shape) and all(
        not isinstance(wanted, int) or wanted == size for wanted, size in zip(port.shape, shape, strict=True)
    )


def check_names(source: str, arrays: Mapping[str, Array], ports: Sequence[Port]) -> None:
    """Refuse arrays for no input, and inputs without an array."""
    known = {port.name for port in ports}
    listed = ", ".join(sorted(known)) or "none"
    for name in sorted(arrays.keys() - known):
        raise DataError(f"{source}: {name!r} is no input of the model. Its inputs: {listed}.")
    for name in sorted(known - arrays.keys()):
        raise DataError(f"{source}: input {name!r} is missing. The model's inputs: {listed}.")


def check_nan(source: str, name: str, stack: Array) -> None:
    """Refuse NaN in `stack` [samples, ...]."""
    if stack.dtype.kind != "f":
        return
    bad = np.isnan(stack).reshape(len(stack), -1).any(axis=1)
    if bad.any():
        where = f" in sample {int(bad.argmax())}" if len(stack) > 1 else ""
        raise DataError(f"{source}: input {name!r} must be numbers, got NaN{where}. Leave that sample out.")


def typed(source: str, port: Port, array: Array) -> Array:
    """The array in the input's type, if not one of its values changes by that."""
    if port.dtype is None:
        raise DataError(f"{source}: input {port.name!r} is of a type that arrays do not have. Export it as float32.")
    if array.dtype == port.dtype:
        return array
    cast = None
    if _FAMILIES.get(array.dtype.kind) == _FAMILIES.get(port.dtype.kind, "none"):
        with np.errstate(over="ignore"):
            cast = array.astype(port.dtype)
    if cast is None or not _same_values(cast, array):
        raise DataError(
            f"{source}: input {port.name!r} must be {port.dtype}, got {array.dtype}. Convert it with .astype."
        )
    return cast


def _same_values(cast: Array, array: Array) -> bool:
    if array.dtype.kind in "UO":
        return True
    if array.dtype.kind == "f":
        # A NaN is told as such later.
        return bool(np.array_equal(cast.astype(array.dtype), array, equal_nan=True))
    # Between signed and unsigned the way there and back says nothing: both wrap.
    return bool(np.array_equal(cast.astype(array.dtype), array) and ((cast < 0) == (array < 0)).all())
