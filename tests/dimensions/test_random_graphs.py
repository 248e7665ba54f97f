"""Whatever is said to be prunable can be cut, and the cut equals masking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dimensions.random_graphs import random_net
from tests.equality import BOUND, compare, error_in_doubles

SEEDS = st.integers(0, 2**32 - 1)
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


def check(seed: int) -> None:
    net = random_net(seed)
    held = net.traced()
    prunable = held.dimensions.prunable
    if not prunable:  # two groupings of the same channels that do not nest
        reasons = {why for dimension in held.dimensions.all for why in dimension.pinned}
        assert any("mixes it with its neighbours" in why for why in reasons), f"seed {seed}: {reasons}"
        return
    numbers = np.random.default_rng(seed)
    chosen = numbers.choice(len(prunable), size=min(len(prunable), 1 + seed % 3), replace=False)
    removals = {}
    for at in chosen:
        dimension = prunable[int(at)]
        count = int(numbers.integers(1, dimension.units))
        removals[dimension.index] = numbers.choice(dimension.units, size=count, replace=False).tolist()
    error, _ = compare(held, removals, net.checks())
    if error > BOUND:  # rounding of float32 behind a normalisation, or a wrong cut: float64 tells them apart
        assert error < 100 * BOUND, f"seed {seed}: {removals}"
        assert max(error_in_doubles(held, removals, feeds) for feeds in net.checks()) < 1e-11, f"seed {seed}"


@settings(max_examples=200, derandomize=True, **COMMON)  # type: ignore[arg-type]  # mixed values
@given(SEEDS)
@pytest.mark.timeout(600)
def test_a_random_cut_equals_its_mask(seed: int) -> None:
    check(seed)


@pytest.mark.nightly
@settings(max_examples=5000, **COMMON)  # type: ignore[arg-type]  # mixed values
@given(SEEDS)
@pytest.mark.timeout(0)
def test_many_random_cuts_equal_their_masks(seed: int) -> None:
    check(seed)
