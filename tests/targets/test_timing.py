"""Ratios and percentiles of timings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxprune.targets.timing import Latency, Ratio, Timed, latency, paired_ratio


def test_the_ratio_is_the_median_of_pairs_not_the_pair_of_medians() -> None:
    # Pairs 2, 2, 4: their median is 2, while the medians' quotient is 10 / 5.
    assert paired_ratio([2, 10, 100], [1, 5, 25]).ratio == 2
    # Pairs 1/3, 1, 3: their median is 1; medians 2 and 2 agree only by chance of the order.
    assert paired_ratio([1, 2, 3], [3, 2, 1]).ratio == 1


def test_a_slow_spell_that_hits_both_cancels() -> None:
    spells = np.array([1.0, 30.0, 1.0, 7.0, 1.0] * 6)
    found = paired_ratio(4 * spells, 2 * spells)
    assert (found.ratio, found.low, found.high, found.runs) == (2, 2, 2, 30)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # Log-normal noise with rare slow spells; the true median ratio is 1.5. 400 trials of 41 pairs.
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        a = 1.5 * np.exp(0.1 * random.standard_normal(41)) * random.choice([1, 5], 41, p=[0.95, 0.05])
        b = np.exp(0.1 * random.standard_normal(41)) * random.choice([1, 5], 41, p=[0.95, 0.05])
        found = paired_ratio(a, b, seed=trial)
        covered += found.low <= 1.5 <= found.high
    # 95 % of 400 is 380; 4 standard errors (4.4 each) below and above leave room for the bootstrap's own error.
    assert 362 <= covered <= 398


def test_the_same_seed_gives_the_same_interval() -> None:
    random = np.random.default_rng(1)
    a, b = random.random(25) + 1, random.random(25) + 1
    assert paired_ratio(a, b, seed=3) == paired_ratio(a, b, seed=3)
    assert paired_ratio(a, b).low < paired_ratio(a, b).high


def test_one_pair_has_no_interval() -> None:
    found = paired_ratio([3.0], [2.0])
    assert math.isnan(found.low)
    assert found.to_json() == {"ratio": 1.5, "low": None, "high": None, "runs": 1}


def test_unpaired_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        paired_ratio([1.0, 2.0, 3.0], [1.0, 2.0])


def test_latency_gives_percentiles() -> None:
    # 0 … 100: the percentiles are the numbers.
    assert latency(np.arange(101.0)) == Latency(50, 10, 90)


def test_the_json_of_a_timing_has_the_keys_of_the_report() -> None:
    timed = Timed(name="a.onnx", load_ms=5.0, latency_ms=Latency(2.0, 1.0, 3.0), speedup=Ratio(2.0, 1.9, 2.1, 40))
    assert timed.to_json() == {
        "load_ms": 5.0,
        "latency_ms": {"median": 2.0, "p10": 1.0, "p90": 3.0},
        "speedup": {"ratio": 2.0, "low": 1.9, "high": 2.1, "runs": 40},
    }
