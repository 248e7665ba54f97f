"""Sums of two products in sixteen bits, as x64 without VNNI takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxprune.solvers.saturation import PORTABLE_MAX, columns_at_risk, saturating_product

Array = np.ndarray[Any, Any]

products = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 4)).flatmap(
    lambda sizes: st.tuples(npst.arrays(np.uint8, sizes[:2]), npst.arrays(np.int8, sizes[1:]))
)


def test_a_pair_is_cut_to_sixteen_bits() -> None:
    # 255·127 + 255·127 = 64770, cut to 32767; the other pair is 2·1 + 0.
    x = np.array([[255, 255, 2]], np.uint8)
    w = np.array([[127], [127], [1]], np.int8)
    assert saturating_product(x, w).tolist() == [[32767 + 2]]
    assert saturating_product(x, -w).tolist() == [[-32768 - 2]]


def test_terms_that_are_no_neighbours_do_not_meet() -> None:
    x = np.full((1, 4), 255, np.uint8)
    w = np.array([[127], [-1], [127], [-1]], np.int8)
    assert saturating_product(x, w).tolist() == [[2 * 255 * 126]]
    assert not columns_at_risk(w).any()


@settings(max_examples=150, deadline=None)
@given(product=products)
def test_a_column_that_is_not_at_risk_is_exact(product: tuple[Array, Array]) -> None:
    x, w = product
    exact = x.astype(np.int64) @ w.astype(np.int64)
    safe = ~columns_at_risk(w, x.max(axis=0, initial=0))
    np.testing.assert_array_equal(saturating_product(x, w)[:, safe], exact[:, safe])


@settings(max_examples=150, deadline=None)
@given(product=products)
def test_a_column_at_risk_saturates_for_some_input(product: tuple[Array, Array]) -> None:
    _, w = product
    worst = np.stack([np.where(w > 0, 255, 0), np.where(w < 0, 255, 0)]).astype(np.uint8)
    for column in np.flatnonzero(columns_at_risk(w)):
        exact = worst[:, :, column].astype(np.int64) @ w[:, column].astype(np.int64)
        assert (saturating_product(worst[:, :, column], w[:, [column]])[:, 0] != exact).any()


@settings(max_examples=50, deadline=None)
@given(w=npst.arrays(np.int8, (8, 4), elements=st.integers(-PORTABLE_MAX - 1, PORTABLE_MAX + 1)))
def test_seven_bits_never_saturate(w: Array) -> None:
    # 255·64 + 255·64 = 32640 < 32767
    assert not columns_at_risk(w).any()


@pytest.mark.parametrize("largest", [100, np.array([255, 1, 255, 1])])
def test_what_activations_really_reach_lessens_the_risk(largest: Any) -> None:
    w = np.full((4, 1), 127, np.int8)
    # 100·127·2 = 25400 and 256·127 = 32512 fit into sixteen bits, 2·255·127 does not.
    assert columns_at_risk(w).all()
    assert not columns_at_risk(w, largest).any()
