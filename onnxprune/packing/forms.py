"""Lossless forms of a sequence of numbers, and the smallest of them.

Numbers are compared by their bits, so that what is decoded equals what was encoded bit for bit: minus zero stays minus
zero, and every NaN itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.packing.symbols import (
    Array,
    as_bits,
    base_for,
    distinct,
    join_digits,
    most_frequent,
    split_digits,
    symbols_in_a_byte,
)

# What the operators of a form and the descriptions of its tensors take in the file, measured with short names.
CODED_OVERHEAD = 420
MASKED_OVERHEAD = 900
FILLED_OVERHEAD = 200
# Places of numbers are int32; zeros are looked up behind the values, at up to twice their count.
LARGEST_COUNT = 2**30


@dataclass(frozen=True, eq=False)
class Dense:
    """Numbers as they are, [n]."""

    values: Array

    @property
    def count(self) -> int:
        """Numbers."""
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, the operators of the form included."""
        return int(self.values.nbytes)

    @property
    def words(self) -> str:
        """As reports say it."""
        return "dense"

    def decoded(self) -> Array:
        """The numbers, [n]."""
        return self.values


@dataclass(frozen=True, eq=False)
class Filled:
    """The same number `count` times; `value` is [1]."""

    value: Array
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file, the operators of the form included."""
        return int(self.value.nbytes) + FILLED_OVERHEAD

    @property
    def words(self) -> str:
        """As reports say it."""
        return "one number"

    def decoded(self) -> Array:
        """The numbers, [n]."""
        return np.repeat(self.value, self.count)


@dataclass(frozen=True, eq=False)
class Coded:
    """Few different numbers, each as a symbol; one to eight symbols share a byte.

    Attributes:
        codes: uint8 [ceil(n / symbols)], the first symbol in the highest digit.
        codebook: [base], or [up to 256] where a byte is one symbol.
        symbols: in a byte.
        count: n.
    """

    codes: Array
    codebook: Array
    symbols: int
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file, the operators of the form included."""
        return int(self.codes.nbytes + self.codebook.nbytes) + CODED_OVERHEAD

    @property
    def words(self) -> str:
        """As reports say it."""
        return f"codebook of {8 / self.symbols:.3g} bits"

    def decoded(self) -> Array:
        """The numbers, [n]."""
        numbers: Array = self.codebook[split_digits(self.codes, self.symbols, self.count)]
        return numbers


@dataclass(frozen=True, eq=False)
class Masked:
    """A bit a number that says whether it differs from the most frequent one, and those that do in their order.

    Attributes:
        bits: of uint8 [ceil(n / 8)], the first number in the highest bit.
        values: of [set bits].
        background: [1], the number where no bit is set.
        count: n.
    """

    bits: Form
    values: Form
    background: Array
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file, the operators of the form included."""
        return self.bits.nbytes + self.values.nbytes + int(self.background.nbytes) + MASKED_OVERHEAD

    @property
    def words(self) -> str:
        """As reports say it."""
        return "bitmap" if isinstance(self.values, Dense) else f"bitmap and {self.values.words}"

    def decoded(self) -> Array:
        """The numbers, [n]."""
        numbers = np.repeat(self.background, self.count)
        places = np.unpackbits(self.bits.decoded(), count=self.count).view(np.bool_)
        # By bits: an assignment of floats might quieten a NaN.
        as_bits(numbers)[places] = as_bits(self.values.decoded())
        return numbers


Form = Dense | Filled | Coded | Masked


def decoding_bytes(form: Form) -> int:
    """What is in use beside the dense numbers until a session is made: the runtime keeps all steps to the end."""
    if isinstance(form, Masked):
        inner = decoding_bytes(form.bits) + decoding_bytes(form.values)
        item, set_bits = form.background.dtype.itemsize, form.values.count
        # Of each byte its place, its set bits and their sum; of each number two places; values, and zeros behind them.
        return int(inner + form.bits.count * 12 + form.count * (8 + item) + set_bits * 3 * item)
    if isinstance(form, Coded):
        return int(len(form.codes) * (4 + form.symbols * form.codebook.dtype.itemsize))
    return 0


def payload_bytes(form: Form) -> int:
    """Bytes of a form's numbers, without the operators that decode them."""
    if isinstance(form, Masked):
        return payload_bytes(form.bits) + payload_bytes(form.values) + int(form.background.nbytes)
    if isinstance(form, Coded):
        return int(form.codes.nbytes + form.codebook.nbytes)
    return int((form.value if isinstance(form, Filled) else form.values).nbytes)


def encode(values: Array, *, masks: bool = True) -> Form:
    """The smallest form of a sequence.

    Args:
        values: [n] of any type of 1, 2, 4 or 8 bytes.
        masks: whether the runtime of the model can expand bitmaps.

    Returns:
        A form whose `decoded()` has the same bits. Dense where no other is smaller, its own operators counted.
    """
    count, item = len(values), values.dtype.itemsize
    if not count or count > LARGEST_COUNT:
        return Dense(values)
    bits = as_bits(values)
    background, others = most_frequent(bits)
    if not others:
        return _smaller(Filled(values[:1].copy(), count), Dense(values))
    levels = distinct(bits)
    best, name = count * item, "dense"
    if levels is not None and (size := _coded_size(count, len(levels), item)) < best:
        best, name = size, "coded"
    if masks:
        # Which numbers are there besides the background is known where all are known; else they are dense.
        rest = others * item if levels is None else min(others * item, _coded_size(others, len(levels) - 1, item))
        if (count + 7) // 8 + rest + MASKED_OVERHEAD < best:
            name = "masked"
    if name == "coded" and levels is not None:
        return coded(values, bits_to(levels, values.dtype))
    if name == "masked":
        return _masked(values, background)
    return Dense(values)


def coded(values: Array, codebook: Array) -> Coded:
    """Numbers by their symbols; every number must stand in `codebook`, which need not be sorted."""
    base = base_for(len(codebook))
    order = np.argsort(as_bits(codebook), kind="stable")
    places = np.searchsorted(as_bits(codebook)[order], as_bits(values))
    symbols = order[places].astype(np.uint8)
    return from_symbols(symbols, codebook, base)


def from_symbols(symbols: Array, codebook: Array, base: int | None = None) -> Coded:
    """Numbers that are known by their places in a codebook.

    Args:
        symbols: uint8 [n].
        codebook: [up to 256].
        base: of the digits that bytes are made of; the smallest that fits by default.
    """
    base = base_for(len(codebook)) if base is None else base
    in_a_byte = symbols_in_a_byte(base)
    # Unused symbols need a number too: the table of all bytes is made from the codebook.
    padded = codebook if in_a_byte == 1 else np.concatenate([codebook, codebook[:1].repeat(base - len(codebook))])
    return Coded(join_digits(symbols, base), padded, in_a_byte, len(symbols))


def _masked(values: Array, background: Any) -> Masked:
    bits = as_bits(values)
    places = bits != background
    packed = np.packbits(places)
    kept = values[places]
    fill = bits_to(np.array([background], bits.dtype), values.dtype)
    return Masked(encode(packed), encode(kept, masks=False), fill, len(values))


def _coded_size(count: int, levels: int, item: int) -> int:
    if levels > 256:
        return count * item
    base = base_for(max(levels, 1))
    per_byte = symbols_in_a_byte(base)
    book = levels if per_byte == 1 else base
    return -(-count // per_byte) + book * item + CODED_OVERHEAD


def _smaller(one: Form, other: Form) -> Form:
    return one if one.nbytes < other.nbytes else other


def bits_to(bits: Array, dtype: np.dtype[Any]) -> Array:
    """The inverse of `as_bits`."""
    return bits.view(dtype)


__all__ = ["Coded", "Dense", "Filled", "Form", "Masked", "coded", "encode", "from_symbols"]
