"""Histograms that grow, and where grids begin and end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.histogram import BINS, Histogram, histogram_of, merged
from onnxprune.solvers.ranges import METHODS, choose_range, expected_error

Array = np.ndarray[Any, Any]


def seen(values: Array) -> Histogram:
    found = histogram_of(values)
    assert found is not None
    return found


batches = st.lists(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).map(np.array), min_size=1, max_size=5
)


@settings(max_examples=60, deadline=None)
@given(parts=batches)
def test_batches_merge_to_what_all_of_them_at_once_give(parts: list[Array]) -> None:
    whole = seen(np.concatenate(parts))
    total = None
    for part in parts:
        total = merged(total, histogram_of(part))
    backwards = None
    for part in reversed(parts):
        backwards = merged(backwards, histogram_of(part))
    assert total is not None
    assert backwards is not None
    for other in (total, backwards):
        assert (other.first, other.exponent, other.low, other.high) == (
            whole.first,
            whole.exponent,
            whole.low,
            whole.high,
        )
        np.testing.assert_array_equal(other.counts, whole.counts)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40).map(np.array))
def test_memory_is_bounded_and_no_value_is_lost(values: Array) -> None:
    found = seen(values)
    assert len(found.counts) <= BINS + 1
    assert found.counts.sum() == len(values)
    edges = (found.first + np.arange(len(found.counts) + 1)) * found.width
    assert edges[0] <= values.min()
    assert values.max() <= edges[-1]


def test_nothing_finite_is_no_histogram() -> None:
    assert histogram_of(np.array([np.nan, np.inf])) is None
    assert merged(None, None) is None
    assert seen(np.array([1.0, np.nan, np.inf])).counts.sum() == 1


def outlying() -> Array:
    """Normal values, and one in a thousand ten times as large."""
    values = np.random.default_rng(0).standard_normal(200_000)
    values[::1000] *= 10
    return values


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_every_range_holds_zero_and_lies_within_what_was_seen(method: Any, sign: int) -> None:
    values = outlying() if sign == 0 else sign * np.abs(outlying())
    low, high = choose_range(seen(values), method)
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    assert low < high


def test_minmax_is_all_that_was_seen() -> None:
    values = outlying()
    assert choose_range(seen(values), "minmax") == (values.min(), values.max())


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_a_percentile_covers_its_share_and_little_more(percentile: float) -> None:
    values = outlying()
    histogram = seen(values)
    low, high = choose_range(histogram, "percentile", percentile=percentile)
    inside = np.mean((values >= low) & (values <= high))
    assert inside >= percentile / 100
    # The ends lie on edges of bins: one narrower, and the share is missed.
    tighter = np.mean((values >= low + histogram.width) & (values <= high - histogram.width))
    assert tighter < percentile / 100


def quantized_error(values: Array, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    steps = np.clip(np.rint(values / step) + zero, 0, 255)
    return float(np.mean(np.square((steps - zero) * step - values)))


def test_the_expected_error_is_that_of_quantizing() -> None:
    values = outlying()
    for low, high in [(-40.0, 40.0), (-4.0, 4.0), (-2.0, 3.0)]:
        assert expected_error(seen(values), low, high) == pytest.approx(quantized_error(values, low, high), rel=0.03)


def test_least_squares_beat_taking_everything() -> None:
    values = outlying()
    whole = quantized_error(values, *choose_range(seen(values), "minmax"))
    assert quantized_error(values, *choose_range(seen(values), "mse")) < whole


def test_entropy_cuts_off_what_is_rare() -> None:
    low, high = choose_range(seen(outlying()), "entropy")
    assert high - low < 0.8 * np.ptp(outlying())


def test_values_that_never_differ_have_a_range() -> None:
    assert choose_range(seen(np.full(5, 3.0)), "mse")[0] == 0.0
    assert choose_range(seen(np.zeros(5)), "entropy") == (0.0, 0.0)
