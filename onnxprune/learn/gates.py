"""Hard-concrete gates: random switches in [0, 1] that stand at exactly 0 or 1 much of the time, and have a gradient.

    s = sigmoid((ln u - ln(1 - u) + a) / beta),  z = min(1, max(0, s (zeta - gamma) + gamma)),  u uniform in (0, 1)

A gate is open where z is not 0, that is where s > -gamma / (zeta - gamma), whose log-odds are ln(-gamma / zeta); as
ln u - ln(1 - u) is logistic, P(z != 0) = sigmoid(a - beta ln(-gamma / zeta)).

Source: Louizos, Welling and Kingma 2018, Learning Sparse Neural Networks through L0 Regularization, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onnxprune.learn.call import Tensor

Array = np.ndarray[Any, Any]
# Between these a gate is neither open nor closed.
OPEN, CLOSED = 0.95, 0.05
# At the test FLOP and CoFi take this share of the logits, without noise.
_CALM = 0.8


@dataclass(frozen=True)
class HardConcrete:
    """The distribution of a gate by its logit `a`.

    Attributes:
        beta: temperature; the smaller, the more often a gate stands at 0 or 1.
        gamma: lower end that s is stretched to, under 0.
        zeta: upper end, above 1.
        epsilon: how far the uniform draws stay from 0 and 1.
    """

    beta: float
    gamma: float = -0.1
    zeta: float = 1.1
    epsilon: float = 1e-6

    def open_probability(self, logits: Tensor) -> Tensor:
        """P(z != 0) of each gate."""
        return torch.sigmoid(logits - self.beta * math.log(-self.gamma / self.zeta))

    def noise(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One uniform draw for each gate."""
        u = torch.rand(logits.shape, generator=generator).to(logits)
        return self.epsilon + (1 - 2 * self.epsilon) * u

    def at(self, logits: Tensor, u: Tensor) -> Tensor:
        """Z of each gate at its noise; its gradient goes to the logits."""
        return self._stretched(torch.sigmoid((torch.log(u) - torch.log1p(-u) + logits) / self.beta))

    def settled(self, logits: Tensor) -> Tensor:
        """Voita's gate at the test: sigmoid(a) stretched, without temperature or noise."""
        return self._stretched(torch.sigmoid(logits))

    def soft(self, logits: Tensor) -> Tensor:
        """What FLOP's and CoFi's survivors are worth at the test."""
        return torch.sigmoid(_CALM * logits / self.beta)

    def survivors(self, logits: Tensor) -> Tensor:
        """FLOP's and CoFi's gates at the test: the n - sum P(z != 0) smallest are 0, the others stay soft."""
        soft = self.soft(logits).detach().clone()
        closed = round(len(soft) - self.open_probability(logits).sum().item())
        soft[torch.argsort(soft, stable=True)[:closed]] = 0
        return soft

    def logit_for(self, rate: float) -> float:
        """The logit that FLOP starts from for a rate of dropping `rate`: ln((1 - rate) / rate)."""
        return math.log((1 - rate) / rate)

    def _stretched(self, s: Tensor) -> Tensor:
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)


# FLOP's code; Voita's code; the L0 paper, and CoFi after it.
FLOP = HardConcrete(beta=1.0)
VOITA = HardConcrete(beta=0.33)
L0 = HardConcrete(beta=2 / 3)


def polarised(values: Array) -> float:
    """The share of gates [n] that stand open or closed, not between."""
    return float(np.mean((values <= CLOSED) | (values >= OPEN))) if values.size else 1.0


def within_budget(
    values: Sequence[Array], costs: Sequence[float], budget: float, least: Sequence[int] | None = None
) -> list[Array]:
    """Which units stay when the most open ones fill a budget; the training saw their costs, the ranking need not.

    Args:
        values: [units] of each place, how open its gates are; what is 0 goes in any case.
        costs: of one unit of each place, above 0.
        budget: of all units that stay.
        least: units of each place that stay in any case, its most open ones; none by default.

    Returns:
        [units] of each place, true where a unit stays. Their costs sum up to the budget or less, and by less than
        the smallest unit that went although it was open.
    """
    order = sorted(
        ((float(value), place, unit) for place, each in enumerate(values) for unit, value in enumerate(each)),
        key=lambda entry: (-entry[0], entry[1], entry[2]),
    )
    kept = [np.zeros(len(each), np.bool_) for each in values]
    for place, count in enumerate(least or ()):
        kept[place][np.argsort(-values[place], kind="stable")[:count]] = True
    left = budget * (1 + 1e-9) - sum(cost * int(one.sum()) for cost, one in zip(costs, kept, strict=True))
    for value, place, unit in order:
        if value > 0 and not kept[place][unit] and costs[place] <= left:
            kept[place][unit] = True
            left -= costs[place]
    return kept
