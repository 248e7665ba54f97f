"""Centroids on a line: near the best there are, at their own means, the same every time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.kmeans import centroids, nearest

Array = np.ndarray[Any, Any]


def error(values: Array, weights: Array, found: Array) -> float:
    """Σ weight · squared distance to the nearest centroid."""
    return float(np.sum(weights * np.square(values - found[nearest(values, found)])))


def best_of_all(values: Array, weights: Array, count: int) -> float:
    """By trying every way to cut the sorted values into `count` runs, which is how the best ones lie on a line."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]

    def run(start: int, stop: int) -> float:
        mean = np.average(values[start:stop], weights=weights[start:stop])
        return float(np.sum(weights[start:stop] * np.square(values[start:stop] - mean)))

    ways = itertools.combinations(range(1, len(values)), count - 1)
    return min(sum(itertools.starmap(run, itertools.pairwise([0, *cuts, len(values)]))) for cuts in ways)


def test_the_error_is_mostly_the_least_there_is() -> None:
    """Lloyd's algorithm stops at local optima, which may be several times the best; of 200 fixed draws few are."""
    ratios = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        count, wanted = int(generator.integers(5, 12)), int(generator.integers(2, 5))
        values, weights = generator.standard_normal(count), generator.uniform(0.1, 2, count)
        best = best_of_all(values, weights, wanted)
        ratios.append(error(values, weights, centroids(values, weights, wanted)) / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) <= 1 + 1e-9
    assert np.mean(np.array(ratios) <= 1.5) >= 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 15, 16, 255]), st.sampled_from([500, 100_000]))
def test_each_centroid_is_the_mean_of_what_is_nearest_to_it(seed: int, wanted: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    values, weights = generator.standard_normal(count), generator.uniform(0, 1, count)
    found = centroids(values, weights, wanted)
    assert len(found) <= wanted
    assert (np.diff(found) > 0).all()
    place = nearest(values, found)
    held = np.bincount(place, weights, len(found))
    means = np.bincount(place, weights * values, len(found)) / np.where(held > 0, held, 1)
    # Rounds are limited and large inputs are binned: a centroid is where its own lie, up to a thousandth of the range.
    assert np.abs(means - found)[held > 0].max() < 2e-2 * np.ptp(values)


def test_sixteen_numbers_for_a_bell_curve_lose_what_theory_says() -> None:
    # Max 1960: the least error of 16 levels for a unit normal is 0.009497; even steps at their best lose 0.01154.
    values = np.random.default_rng(0).standard_normal(200_000)
    loss = error(values, np.ones(len(values)), centroids(values, None, 16)) / len(values)
    assert loss == pytest.approx(0.0095, rel=0.02)


def test_numbers_that_matter_more_get_the_nearer_centroids() -> None:
    values = np.concatenate([np.linspace(-1, 0, 500), np.linspace(0.002, 1, 500)])
    weights = np.where(values > 0, 100.0, 1.0)
    found = centroids(values, weights, 16)
    # Density to the power of 1/3 [Panter and Dite]: 100^(1/3) = 4.6 as many where the weight is.
    assert np.sum(found > 0) == pytest.approx(16 * 4.64 / 5.64, abs=1)


def test_few_numbers_stay_themselves() -> None:
    assert centroids(np.array([3.0, 1.0, 3.0, 2.0]), None, 16).tolist() == [1.0, 2.0, 3.0]


def test_weights_of_zero_count_for_nothing_and_all_of_zero_for_one() -> None:
    assert centroids(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 0.0]), 2).tolist() == [1.0, 2.0]
    assert centroids(np.array([1.0, 2.0]), np.zeros(2), 2).tolist() == [1.0, 2.0]
