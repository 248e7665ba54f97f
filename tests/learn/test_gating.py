"""Prices of open gates, and the decision which stay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.learn.gated import Gated, Gates
from onnxprune.learn.gates import VOITA
from onnxprune.learn.gating import FixedPrice, SizePrice, rounded


def gates(*logits: list[float], costs: tuple[int, ...] = ()) -> Gates:
    """Places of units with these logits; each unit costs as many numbers as `costs` says, one by default."""
    given_ = costs or (1,) * len(logits)
    places = [
        Gated(f"heads.{at}", len(one), cost, {}) for at, (one, cost) in enumerate(zip(logits, given_, strict=True))
    ]
    apart = [np.array(one) for one in logits]
    return Gates(places, VOITA, start=0.0, spread=0.0, seed=0, apart=apart)


def open_probability(logit: float) -> float:
    """P(z != 0) = sigmoid(a - beta ln(-gamma / zeta)), beta .33, gamma -.1, zeta 1.1."""
    return 1 / (1 + math.exp(-(logit - 0.33 * math.log(0.1 / 1.1))))


def test_a_fixed_price_is_for_the_mean_over_layers_of_open_gates() -> None:
    held = gates([0.0, 1.0], [-2.0])
    expected = (open_probability(0) + open_probability(1) + open_probability(-2)) / 2
    price = FixedPrice(0.5)
    assert price.prices is None
    assert price.of(held, 3).item() == pytest.approx(0.5 * expected, rel=1e-6)
    assert price.of(held, 300).item() == price.of(held, 3).item()


def test_a_size_costs_nothing_before_its_price_has_found_itself_and_then_what_is_missed() -> None:
    held = gates([0.0, 0.0], costs=(10,))
    price = SizePrice(held.whole_cost, 0.5, warmup=10)
    assert price.prices is not None
    assert price.of(held, 10).item() == 0
    with torch.no_grad():
        price.prices.copy_(torch.tensor([-2.0, 3.0]))
    # Gone is 1 - p; halfway through the rise a quarter is to be gone.
    missed = 1 - open_probability(0) - 0.25
    assert price.of(held, 5).item() == pytest.approx(-2 * missed + 3 * missed**2, rel=1e-5)


def test_a_price_below_zero_pulls_gates_shut() -> None:
    held = gates([0.0, 1.0])
    price = SizePrice(held.whole_cost, 0.5, warmup=0)
    assert price.prices is not None
    with torch.no_grad():
        price.prices.copy_(torch.tensor([-1.0, 0.0]))
    price.of(held, 0).backward()
    # More of the share gone is worth something: a step down the gradient lowers every logit.
    assert held.logits[0].grad is not None
    assert (held.logits[0].grad > 0).all()


def test_without_a_count_gates_above_a_half_stay() -> None:
    # Voita's gate at the test is sigmoid(a) stretched to 1.2 sigmoid(a) - .1: a half at a = 0.
    values = rounded(0)(gates([-0.1, 0.1, 5.0], [-5.0]))
    assert [one.tolist() for one in values] == [[0, 1, 1], [0]]


@settings(deadline=None, max_examples=50)
@given(
    logits=st.lists(st.lists(st.floats(-20, 20), min_size=1, max_size=6), min_size=1, max_size=4),
    count=st.integers(1, 24),
)
def test_a_count_is_met_by_the_most_open_even_where_all_are_nearly_shut(logits: list[list[float]], count: int) -> None:
    held = gates(*logits)
    whole = sum(len(one) for one in logits)
    values = np.concatenate(rounded(min(count, whole))(held))
    assert set(values.tolist()) <= {0.0, 1.0}
    assert int(values.sum()) == min(count, whole)
    p = np.concatenate([one.detach().numpy() for one in held.open_probabilities()])
    assert p[values == 1].min() >= p[values == 0].max(initial=0)
