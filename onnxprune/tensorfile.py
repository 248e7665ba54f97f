"""Arrays by name in safetensors files: written one after the other, read by mapping the file."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from ml_dtypes import bfloat16

from onnxprune.memory import map_file

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

# The format's names; of other types nothing can be stored.
_TYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_METADATA = "__metadata__"


def chunks(arrays: Tensors, metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """A file's bytes, an array at a time; the widest types first, so that each array is aligned.

    Raises:
        ValueError: an array is of a type that the format does not have.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    end = 0
    for name in order:
        array = arrays[name]
        kind = _NAMES.get(array.dtype)
        if kind is None:
            raise ValueError(f"{name}: {array.dtype} cannot be stored")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        whole = np.ascontiguousarray(arrays[name]).reshape(-1)
        if whole.size:
            yield whole.view(np.uint8).data


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, mapped and read-only, and its metadata.

    Raises:
        OSError: it cannot be read.
        safetensors.SafetensorError, ValueError: it is damaged.
    """
    # The library looks at every offset before anything is mapped.
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata() or {})
    held = map_file(path)
    (length,) = struct.unpack("<Q", held[:8])
    header = json.loads(held[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == _METADATA:
            continue
        dtype, shape = _TYPES.get(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        if dtype is None:
            raise ValueError(f"{name}: type {entry['dtype']} is not known")
        start = 8 + length + int(entry["data_offsets"][0])
        stored: Array = np.frombuffer(held, np.uint8, math.prod(shape) * dtype.itemsize, start)
        tensors[name] = stored.view(dtype).reshape(shape)
    return tensors, metadata
