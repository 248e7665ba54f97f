"""Masks zero what they say, and Wanda sees through rescaled norms."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.wanda import (
    Blocks,
    blocks_mask,
    cumulative_mask,
    magnitude_scores,
    share_mask,
    wanda_scores,
)
from tests.solvers.drawing import correlated

SIZES = {"seed": st.integers(0, 2**32 - 1), "k": st.integers(1, 20), "n": st.integers(1, 8)}


@settings(max_examples=30, deadline=None)
@given(**SIZES, sparsity=st.floats(0, 1))
def test_each_output_loses_its_lowest_share(seed: int, k: int, n: int, sparsity: float) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (k, n)).astype(float)
    kept = share_mask(scores, sparsity)
    count = int(np.floor(k * sparsity + 1e-9))
    for column in range(n):
        gone = sorted(range(k), key=lambda row: (scores[row, column], row))[:count]
        assert sorted(gone) == list(np.flatnonzero(~kept[:, column]))


@settings(max_examples=30, deadline=None)
@given(**SIZES, sparsity=st.floats(0, 1))
def test_a_whole_layer_loses_its_lowest_share(seed: int, k: int, n: int, sparsity: float) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (k, n)).astype(float)
    kept = share_mask(scores, sparsity, group="layer")
    count = int(np.floor(k * n * sparsity + 1e-9))
    gone = sorted(range(k * n), key=lambda place: (scores.flat[place], place))[:count]
    assert sorted(gone) == list(np.flatnonzero(~kept))


@settings(max_examples=30, deadline=None)
@given(**SIZES, blocks=st.sampled_from([Blocks(2, 4), Blocks(4, 8), Blocks(1, 4), Blocks(3, 4)]))
def test_every_block_keeps_its_highest(seed: int, k: int, n: int, blocks: Blocks) -> None:
    """Ties go to the later weight; a rest at the end keeps up to as many as a whole block does."""
    scores = np.random.default_rng(seed).integers(0, 3, (k, n)).astype(float)
    kept = blocks_mask(scores, blocks)
    for column in range(n):
        for start in range(0, k, blocks.of):
            places = range(start, min(k, start + blocks.of))
            best = sorted(places, key=lambda row: (scores[row, column], row))[-(blocks.of - blocks.zeros) :]
            assert sorted(best) == [row for row in places if kept[row, column]]


def test_half_of_four_is_two() -> None:
    """A share must not fall to the count below by rounding, as 0.29 · 100 does, which is 28.999…, by truncation."""
    assert (~share_mask(np.arange(100.0)[:, None], 0.29)).sum() == 29
    assert (~share_mask(np.arange(4.0)[:, None], 0.5)).sum() == 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sparsity=st.sampled_from([0.3, 0.5, 0.6, 0.7]))
def test_wanda_is_unchanged_where_norm_gains_are_rescaled_and_magnitude_is_not(seed: int, sparsity: float) -> None:
    """Six inputs grow by 32 and their rows shrink by as much, which leaves the outputs as they were.

    A power of two, so that every product is the same to the last bit.
    """
    rng = np.random.default_rng(seed)
    inputs, weight = correlated(rng, 64, 40), rng.standard_normal((40, 12))
    factor = np.ones(40)
    factor[rng.permutation(40)[:6]] = 32
    scaled = weight / factor[:, None]
    norms, louder = np.linalg.norm(inputs, axis=0), np.linalg.norm(inputs * factor, axis=0)
    once, twice = wanda_scores(weight, norms), wanda_scores(scaled, louder)
    np.testing.assert_array_equal(once, twice)
    np.testing.assert_array_equal(share_mask(once, sparsity), share_mask(twice, sparsity))
    np.testing.assert_array_equal(blocks_mask(once, Blocks(2, 4)), blocks_mask(twice, Blocks(2, 4)))
    plain, disturbed = (share_mask(magnitude_scores(held), sparsity) for held in (weight, scaled))
    assert (plain != disturbed).any()


def test_wanda_keeps_more_of_the_output_than_magnitude_where_inputs_differ() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 40)) * rng.uniform(0.05, 5, 40)
    weight = rng.standard_normal((40, 12))

    def missed(scores: object) -> float:
        kept = share_mask(np.asarray(scores), 0.5)
        return float(np.square(inputs @ (weight * ~kept)).sum())

    assert missed(wanda_scores(weight, np.linalg.norm(inputs, axis=0))) < 0.5 * missed(magnitude_scores(weight))


def test_cumulative_masks_reach_the_share_and_take_more_where_scores_are_uneven() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.5, 1, (200, 20))
    scores[:, :10] = rng.pareto(1, (200, 10))
    for sparsity in (0.2, 0.5, 0.8):
        kept = cumulative_mask(scores, sparsity)
        assert abs((~kept).mean() - sparsity) <= 1 / 4000 + 1e-12
        gone = (~kept).sum(axis=0)
        assert gone[:10].min() > gone[10:].max()
    assert cumulative_mask(scores, 0).all()
    assert not cumulative_mask(scores, 1).any()
