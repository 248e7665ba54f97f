"""Gates by their formulas: how often they are open, what they are at the test, what a budget keeps, the price of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.learn.gates import FLOP, L0, VOITA, HardConcrete, polarised, within_budget
from onnxprune.learn.lagrangian import Lagrangian

LAWS = {"flop": FLOP, "voita": VOITA, "l0": L0}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("law", "odds"),
    # At logit 0 the odds are (zeta / -gamma)^beta = 11^beta: FLOP 11 : 1.
    [("flop", 11.0), ("voita", 11**0.33), ("l0", 11 ** (2 / 3))],
)
def test_a_gate_starts_as_open_as_its_paper_says(law: str, odds: float) -> None:
    found = float(LAWS[law].open_probability(torch.zeros(())))
    assert found == pytest.approx(odds / (1 + odds), rel=1e-6)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_a_gate_is_open_as_often_as_its_probability_says(law: str, logit: float) -> None:
    logits = torch.full((20_000,), logit)
    drawn = LAWS[law].at(logits, LAWS[law].noise(logits, torch.Generator().manual_seed(1)))
    p = float(LAWS[law].open_probability(torch.tensor(logit)))
    # Four standard deviations of a share of 20 000 draws.
    assert float((drawn != 0).float().mean()) == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 20_000))
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1


def test_a_draw_follows_its_formula() -> None:
    """With u = 1/2 there is no noise: s = sigmoid(a / beta), z = 1.2 s - 0.1."""
    logits = torch.tensor([0.3, -0.2])
    u = torch.rand(2, generator=torch.Generator().manual_seed(3)).double()
    u = 1e-6 + (1 - 2e-6) * u
    s = torch.sigmoid((torch.log(u / (1 - u)) + logits) / 0.33)
    wanted = (1.2 * s - 0.1).clamp(0, 1)
    drawn = VOITA.at(logits, VOITA.noise(logits, torch.Generator().manual_seed(3)))
    torch.testing.assert_close(drawn, wanted.float(), rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=8))
def test_what_is_more_open_by_its_logit_is_so_by_every_rule(numbers: list[float]) -> None:
    logits = torch.tensor(sorted(numbers))
    for law in LAWS.values():
        for values in (law.open_probability(logits), law.settled(logits), law.soft(logits), law.survivors(logits)):
            assert bool((values.diff() >= 0).all())


def test_voitas_gate_at_the_test_forgets_the_temperature() -> None:
    # sigmoid(ln 3) = 3/4: 1.2 * 0.75 - 0.1 = 0.8; at logits of 4 and -4 it stands at 1 and 0.
    settled = VOITA.settled(torch.tensor([math.log(3), 4.0, -4.0]))
    assert settled.tolist() == pytest.approx([0.8, 1.0, 0.0])


def test_flops_survivors_stay_soft_and_the_rest_is_zero() -> None:
    logits = torch.tensor([2.0, -9.0, 0.0, 6.0])
    # P(z != 0): sigmoid(2 + 2.398) = .9879, sigmoid(-6.6) = .0013, .9167, .9998: 2.906 open, 1 of 4 closed.
    assert FLOP.survivors(logits).tolist() == pytest.approx([sigmoid(1.6), 0.0, 0.5, sigmoid(4.8)])


def test_a_rate_of_dropping_is_a_logit() -> None:
    # ln((1 - 0.1) / 0.1) = ln 9.
    assert FLOP.logit_for(0.1) == pytest.approx(math.log(9))


def test_gradients_reach_gates_that_stand_between() -> None:
    logits = torch.zeros(200, requires_grad=True)
    L0.at(logits, L0.noise(logits, torch.Generator().manual_seed(0))).sum().backward()
    assert logits.grad is not None
    share = float((logits.grad > 0).float().mean())
    assert 0.1 < share < 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4),
    st.lists(st.integers(1, 30), min_size=4, max_size=4),
    st.floats(0, 1),
)
def test_what_stays_fills_the_budget(values: list[list[float]], costs: list[int], share: float) -> None:
    arrays = [np.array(each) for each in values]
    whole = sum(len(each) * cost for each, cost in zip(arrays, costs, strict=False))
    kept = within_budget(arrays, [float(cost) for cost in costs[: len(arrays)]], share * whole)
    used = sum(int(one.sum()) * cost for one, cost in zip(kept, costs, strict=False))
    assert used <= share * whole + 1e-6
    left_out = [
        cost
        for one, each, cost in zip(kept, arrays, costs, strict=False)
        for stays, value in zip(one, each, strict=True)
        if not stays and value > 0
    ]
    assert all(share * whole - used < cost for cost in left_out)


def test_the_most_open_stay() -> None:
    kept = within_budget([np.array([0.2, 0.9]), np.array([0.5, 0.0])], [10.0, 10.0], 20.0)
    assert [one.tolist() for one in kept] == [[False, True], [True, False]]


def test_polarised_is_the_share_at_either_end() -> None:
    assert polarised(np.array([0.0, 0.05, 0.5, 1.0])) == 0.75


def test_the_price_of_a_miss_follows_its_formula() -> None:
    found = Lagrangian(target=0.5, warmup=100)
    with torch.no_grad():
        found.prices.copy_(torch.tensor([2.0, 3.0]))
    # After 40 of 100 steps the target is 0.2; 0.1 is gone, -0.1 missed: 2 * -0.1 + 3 * 0.01 = -0.17.
    assert found.target_at(40) == pytest.approx(0.2)
    assert found.target_at(400) == 0.5
    gone = torch.tensor(0.1, requires_grad=True)
    penalty = found.penalty(gone, 40)
    assert penalty.item() == pytest.approx(-0.17)
    penalty.backward()
    # d/de = l1 + 2 l2 (e - t) = 2 - 0.6; d/dl1 = e - t, d/dl2 = (e - t)^2.
    assert gone.grad is not None
    assert gone.grad.item() == pytest.approx(1.4)
    assert found.prices.grad is not None
    assert found.prices.grad.tolist() == pytest.approx([-0.1, 0.01])


def trained(law: HardConcrete, target: float, steps: int = 800) -> tuple[torch.Tensor, float]:
    """Forty gates of which each is worth something else; the least worth are to go."""
    worth = torch.linspace(0.0, 1.0, 40)
    logits = torch.nn.Parameter(torch.full((40,), 2.0))
    price = Lagrangian(target=target, warmup=100)
    groups: list[dict[str, Any]] = [{"params": [logits]}, {"params": [price.prices], "maximize": True}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        many = logits.expand(16, 40)
        z = law.at(many, law.noise(many, torch.Generator().manual_seed(step)))
        loss = (worth * (1 - z).square()).mean()
        gone = 1 - law.open_probability(logits).mean()
        (loss + price.penalty(gone, step)).backward()
        optimizer.step()
    return logits.detach(), 1 - law.open_probability(logits).mean().item()


@pytest.mark.parametrize("law", LAWS)
def test_the_expected_size_meets_its_target_and_the_least_worth_go(law: str) -> None:
    logits, gone = trained(LAWS[law], 0.6)
    assert gone == pytest.approx(0.6, abs=0.02)
    # Worth rises along the gates: the closed ones stand first.
    opened = LAWS[law].settled(logits) > 0.5
    assert int(opened[:20].sum()) <= 2
    assert int(opened[-12:].sum()) >= 11
