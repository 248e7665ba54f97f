"""Numbers as bits, counted, and as digits that share bytes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]

# Types of which two numbers share a byte: no operator but Cast takes them, so they are decoded a byte each.
NARROW = {
    np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)): np.dtype(wide)
    for kind, wide in ((onnx.TensorProto.INT4, np.int8), (onnx.TensorProto.UINT4, np.uint8))
}

# How many digits of each base a byte holds.
_BASES = {2: 8, 3: 5, 4: 4, 6: 3, 16: 2, 256: 1}
_MOST = 256
# Numbers that are looked at together; bounds what counting takes in memory.
_CHUNK = 2**22
_SAMPLE = 2**14


def as_bits(values: Array) -> Array:
    """The same memory as unsigned integers."""
    return values.view(np.dtype(f"u{values.dtype.itemsize}"))


def storable(values: Array) -> Array:
    """[n] the numbers in a row, of a type that operators take."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.astype(NARROW[flat.dtype]) if flat.dtype in NARROW else flat


def base_for(levels: int) -> int:
    """The smallest base whose digits tell `levels` numbers apart."""
    return next(base for base in _BASES if base >= levels)


def symbols_in_a_byte(base: int) -> int:
    """How many digits of a base a byte holds."""
    return _BASES[base]


def base_of(symbols: int) -> int:
    """The base of which a byte holds `symbols` digits."""
    return next(base for base, held in _BASES.items() if held == symbols)


@cache
def digits(symbols: int) -> Array:
    """[256, symbols] uint8: each byte's digits, the highest first."""
    base = base_of(symbols)
    places = base ** np.arange(symbols - 1, -1, -1)
    table: Array = (np.arange(256)[:, None] // places % base).astype(np.uint8)
    table.setflags(write=False)
    return table


def join_digits(numbers: Array, base: int) -> Array:
    """Bytes [ceil(n / symbols)] of digits [n]; the last byte ends in zeros."""
    symbols = _BASES[base]
    if symbols == 1:
        return numbers.astype(np.uint8)
    whole = np.zeros(-(-len(numbers) // symbols) * symbols, np.uint8)
    whole[: len(numbers)] = numbers
    rows = whole.reshape(-1, symbols)
    joined = rows[:, 0].copy()
    for at in range(1, symbols):
        joined *= np.uint8(base)
        joined += rows[:, at]
    return joined


def split_digits(codes: Array, symbols: int, count: int) -> Array:
    """The first `count` digits [n] of bytes."""
    if symbols == 1:
        return codes[:count]
    split: Array = digits(symbols)[codes].reshape(-1)[:count]
    return split


def counts_of_bytes(values: Array) -> Array:
    """[256] how often each byte occurs."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(values), _CHUNK):
        counts += np.bincount(values[start : start + _CHUNK], minlength=256)
    return counts


def distinct(bits: Array) -> Array | None:
    """The different numbers, sorted; None where there are more than 256."""
    if bits.dtype == np.uint8:
        return np.flatnonzero(counts_of_bytes(bits)).astype(np.uint8)
    found = np.unique(bits[:_SAMPLE])
    for start in range(0, len(bits), _CHUNK):
        if len(found) > _MOST:
            return None
        # One byte a symbol is all that codes can hold: what is known already is not sorted again.
        part = bits[start : start + _CHUNK]
        place = np.minimum(np.searchsorted(found, part), len(found) - 1)
        unknown = part[found[place] != part]
        if len(unknown):
            some = np.unique(unknown[:_SAMPLE])
            found = np.union1d(found, some if len(some) > _MOST else np.unique(unknown))
    return found if len(found) <= _MOST else None


def most_frequent(bits: Array) -> tuple[Any, int]:
    """The number that occurs most often, and how many are others; of wide types the most frequent of a sample."""
    if bits.dtype == np.uint8:
        counts = counts_of_bytes(bits)
        best = np.uint8(np.argmax(counts))
        return best, int(len(bits) - counts[best])
    sample = bits[:: max(1, len(bits) // _SAMPLE)]
    numbers, counts = np.unique(sample, return_counts=True)
    best = numbers[np.argmax(counts)]
    same = sum(int(np.count_nonzero(bits[start : start + _CHUNK] == best)) for start in range(0, len(bits), _CHUNK))
    return best, len(bits) - same
