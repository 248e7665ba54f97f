"""What is encoded is decoded bit for bit, and never takes more than dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.packing import Coded, Dense, Filled, Masked, encode

Array = np.ndarray[Any, Any]
DTYPES = ("bool", "int8", "uint8", "int16", "float16", "int32", "float32", "float64", "int64")


@st.composite
def sequences(draw: st.DrawFn) -> Array:
    """Numbers of any type, mostly one of them or of few kinds, of lengths that fill no byte."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    count = draw(st.integers(1, 20_000))
    levels = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 16, 17, 255, 256, 257, 5000]))
    share = draw(st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9, 0.99, 1.0]))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = numbers.integers(0, 256, (levels, dtype.itemsize), np.uint8)
    if dtype == np.bool_:
        kinds &= 1
    values = kinds.view(dtype).reshape(-1)[numbers.integers(0, levels, count)]
    values.view(f"u{dtype.itemsize}")[numbers.random(count) < share] = draw(st.integers(0, 1))
    return values


@settings(max_examples=150, deadline=None)
@given(sequences())
def test_what_is_decoded_has_the_bits_that_were_encoded(values: Array) -> None:
    form = encode(values)
    decoded = form.decoded()
    assert decoded.dtype == values.dtype
    assert decoded.tobytes() == values.tobytes()


@settings(max_examples=80, deadline=None)
@given(sequences())
def test_a_form_never_takes_more_than_the_numbers_themselves(values: Array) -> None:
    assert encode(values).nbytes <= values.nbytes


@settings(max_examples=40, deadline=None)
@given(sequences())
def test_without_masks_no_bitmap_comes(values: Array) -> None:
    form = encode(values, masks=False)
    assert not isinstance(form, Masked)
    assert form.decoded().tobytes() == values.tobytes()


def drawn(count: int, levels: int, share: float) -> Array:
    """int8 numbers of so many kinds besides zero, `share` of them zero."""
    numbers = np.random.default_rng(0)
    values = numbers.integers(1, levels + 1, count).astype(np.int8)
    values[numbers.permutation(count)[: round(share * count)]] = 0
    return values


@pytest.mark.parametrize(
    ("levels", "share", "bits"),
    [
        # A bit a number, and 8 for each quarter that is not zero: 1 + 0.25 · 8.
        (120, 0.75, 3.0),
        # 15 kinds besides zero fit 4 bits: 1 + 0.5 · 4.
        (15, 0.5, 3.0),
        # 3 kinds and zero are 4 symbols, of which a byte holds four.
        (3, 0.25, 2.0),
        # Five of 3 kinds share a byte: 8 / 5.
        (2, 1 / 3, 1.6),
    ],
)
def test_the_bits_of_a_number_are_those_that_its_form_promises(levels: int, share: float, bits: float) -> None:
    count = 400_000
    assert 8 * encode(drawn(count, levels, share)).nbytes / count == pytest.approx(bits, rel=0.02)


def test_each_form_is_chosen_where_it_is_smallest() -> None:
    assert isinstance(encode(drawn(10_000, 120, 0.0)), Dense)
    assert isinstance(encode(drawn(10_000, 120, 1.0)), Filled)
    assert isinstance(encode(drawn(10_000, 15, 0.0)), Coded)
    sparse = encode(drawn(100_000, 120, 0.98))
    assert isinstance(sparse, Masked)
    # One byte of the bitmap in seven has a bit set, so that the bitmap is worth a bitmap of its own.
    assert isinstance(sparse.bits, Masked)
    assert isinstance(sparse.values, Dense)
    both = encode(drawn(100_000, 15, 0.6))
    assert isinstance(both, Masked)
    assert isinstance(both.values, Coded)


def test_minus_zero_and_every_nan_keep_their_bits() -> None:
    values = np.zeros(5000, np.float32)
    values[::7] = -0.0
    values[::11] = np.nan
    values.view(np.uint32)[::13] = 0x7FC00001
    form = encode(values)
    assert not isinstance(form, Dense)
    assert form.decoded().tobytes() == values.tobytes()
