"""LabelEncoder nodes as arrays, whichever of their attributes hold the keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers

Array = np.ndarray[Any, Any]

DOMAIN = "ai.onnx.ml"


def is_encoder(node: gs.Node) -> bool:
    """Whether a node looks whole numbers up."""
    return bool(node.op == "LabelEncoder" and node.domain == DOMAIN and _keys(node) is not None)


def keys_of(node: gs.Node) -> Array:
    """[n] int64 keys."""
    keys = _keys(node)
    return np.empty(0, np.int64) if keys is None else keys


def values_of(node: gs.Node) -> Array | None:
    """[n] float32 or int64 values; None where they are text."""
    if "values_floats" in node.attrs:
        return np.asarray(node.attrs["values_floats"], np.float32)
    if "values_int64s" in node.attrs:
        return np.asarray(node.attrs["values_int64s"], np.int64)
    values = _tensor(node.attrs.get("values_tensor"))
    return values if values is not None and values.dtype.kind in "if" else None


def default_of(node: gs.Node) -> Array:
    """What other keys get: a scalar of the values' type."""
    values = values_of(node)
    kind = np.dtype(np.float32) if values is None else values.dtype
    default = _tensor(node.attrs.get("default_tensor"))
    if default is not None:
        return default.reshape(()).astype(kind)
    # As the operator's own schema has it.
    floating = kind.kind == "f"
    return np.asarray(node.attrs.get("default_float" if floating else "default_int64", -0.0 if floating else -1), kind)


def write_encoder(node: gs.Node, keys: Array, values: Array) -> None:
    """Give a node other keys and values, in the attributes that it has."""
    if "keys_int64s" in node.attrs:
        node.attrs["keys_int64s"] = keys.tolist()
    else:
        node.attrs["keys_tensor"] = _as_held(node.attrs["keys_tensor"], keys)
    if "values_floats" in node.attrs:
        node.attrs["values_floats"] = values.astype(np.float32).tolist()
    else:
        node.attrs["values_tensor"] = _as_held(node.attrs["values_tensor"], values)


def _keys(node: gs.Node) -> Array | None:
    if "keys_int64s" in node.attrs:
        return np.asarray(node.attrs["keys_int64s"], np.int64)
    keys = _tensor(node.attrs.get("keys_tensor"))
    return keys if keys is not None and keys.dtype == np.int64 else None


def _tensor(held: Any) -> Array | None:
    if isinstance(held, gs.Constant):
        return numbers(held)
    if isinstance(held, onnx.TensorProto):
        values: Array = onnx.numpy_helper.to_array(held)
        return values
    return held if isinstance(held, np.ndarray) else None


def _as_held(held: Any, values: Array) -> Any:
    if isinstance(held, gs.Constant):
        return gs.Constant(held.name, values.astype(numbers(held).dtype))
    if isinstance(held, onnx.TensorProto):
        kind = onnx.helper.tensor_dtype_to_np_dtype(held.data_type)
        return onnx.numpy_helper.from_array(values.astype(kind), held.name)
    return values.astype(held.dtype)
