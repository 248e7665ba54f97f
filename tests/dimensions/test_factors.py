"""Factors: refinement by uniting, and where the units of a leaf lie."""

from __future__ import annotations

import numpy as np

from onnxprune.dimensions.factors import Factor, find, leaves, positions, resize, shape_of
from onnxprune.dimensions.forest import Forest


def size(*runs: int) -> tuple[int, ...]:
    return runs if len(runs) > 1 else runs * 2


def forest() -> Forest:
    made = Forest(2)
    made.why = "because"
    return made


def test_two_products_meet_in_their_common_refinement() -> None:
    """2 x 12 and 8 x 3 both refine into 2 x 4 x 3."""
    f = forest()
    a, b = f.leaf(size(24)), f.leaf(size(24))
    f.split_product(a, [size(2), size(12)])
    f.split_product(b, [size(8), size(3)])
    f.unite(a, b)
    assert [leaf.size[0] for leaf in leaves(a)] == [2, 4, 3]
    assert leaves(a) == leaves(b)
    assert not f.conflicts


def test_products_that_do_not_nest_are_a_conflict() -> None:
    """4 x 6 and 6 x 4: the boundary after 4 lies inside the first 6."""
    f = forest()
    a, b = f.leaf(size(24)), f.leaf(size(24))
    f.split_product(a, [size(4), size(6)])
    f.split_product(b, [size(6), size(4)])
    f.unite(a, b)
    assert {conflict.why for conflict in f.conflicts} == {"because"}
    assert len(f.conflicts) == 4


def test_a_reshape_is_followed_around_a_dynamic_axis() -> None:
    """[b, s, 12] -> [b·s, 4, 3]: sizes are vectors over the runs."""
    f = forest()
    b, s, width = f.leaf((2, 3)), f.leaf((5, 7)), f.leaf(size(12))
    flat, heads, inner = f.leaf((10, 21)), f.leaf(size(4)), f.leaf(size(3))
    f.match([b, s, width], [flat, heads, inner])
    assert leaves(flat) == [find(b), find(s)]
    assert leaves(width) == [find(heads), find(inner)]


def test_sums_meet_in_all_their_boundaries() -> None:
    f = forest()
    a, b = f.leaf(size(10)), f.leaf(size(10))
    f.split_sum(a, [size(4), size(6)])
    f.split_sum(b, [size(7), size(3)])
    f.unite(a, b)
    assert [leaf.size[0] for leaf in leaves(a)] == [4, 3, 3]


def test_a_sum_of_equal_products_is_a_product_of_a_sum() -> None:
    """[q | k | v] of 4 heads x 2, seen as 3 x 8: each third is the same 8 columns."""
    f = forest()
    packed = f.leaf(size(24))
    thirds = f.split_sum(packed, [size(8)] * 3)
    f.split_product(packed, [size(3), size(8)])
    assert find(thirds[0]) is find(thirds[1]) is find(thirds[2])
    assert shape_of(packed) == "(((1, 1) + (1, 1) + (1, 1)) x (8, 8))"


def test_a_sum_that_cannot_be_divided_pins_what_follows_too() -> None:
    """3 + 5 as 4 x 2: neither the rest of the sum nor what it is matched with may be cut."""
    f = forest()
    total = f.sum([f.leaf(size(3)), f.leaf(size(5))])
    outer, inner = f.leaf(size(4)), f.leaf(size(2))
    f.match([total], [outer, inner])
    pinned = {leaf for conflict in f.conflicts for leaf in leaves(conflict.factor)}
    assert {find(outer), find(inner)} <= pinned


def test_positions_of_a_factor_in_the_middle() -> None:
    """2 x 3 x 2: unit u of the middle holds 2u, 2u+1 and, six on, 2u+6, 2u+7."""
    f = forest()
    axis = f.leaf(size(12))
    _, middle, _ = f.split_product(axis, [size(2), size(3), size(2)])
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    np.testing.assert_array_equal(positions(axis)[find(middle)], expected)


def test_positions_of_a_factor_in_two_segments() -> None:
    """[x | y | x] with x of 2 and y of 3: unit u of x holds u and u + 5."""
    f = forest()
    x, y = f.leaf(size(2)), f.leaf(size(3))
    np.testing.assert_array_equal(positions(f.sum([x, y, x]))[x], [[0, 5], [1, 6]])


def test_a_size_after_a_cut_follows_the_tree() -> None:
    """(4 + 2) x 3 with 4 cut to 1 is 9."""
    f = forest()
    four = f.leaf(size(4))
    axis = f.product([f.sum([four, f.leaf(size(2))]), f.leaf(size(3))])
    measure = {four: size(1)}
    assert resize(axis, lambda leaf: measure.get(leaf, leaf.size)) == (9, 9)


def test_pairing_refines_both_sides_without_uniting_them() -> None:
    f = forest()
    a, b = f.leaf(size(12)), f.leaf(size(12))
    f.split_product(a, [size(4), size(3)])
    pairs = f.pairs(a, b)
    assert pairs is not None
    assert [(x.size[0], y.size[0]) for x, y in pairs] == [(4, 4), (3, 3)]
    assert all(find(x) is not find(y) for x, y in pairs)


def test_a_factor_of_one_entry_is_left_out() -> None:
    f = forest()
    assert f.product([f.leaf(size(1)), Factor(size(5))]).size == (5, 5)
