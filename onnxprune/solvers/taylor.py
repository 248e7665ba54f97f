"""How much weights matter, by gradients: first and second order, summed over what goes together.

Sources: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning; Ma et al. 2023, LLM-Pruner, section
3.2; Michel et al. 2019, Are Sixteen Heads Really Better than One?
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Order = Literal["taylor", "taylor2", "taylor-mixed", "vector"]
Aggregate = Literal["sum", "prod", "max", "last"]


@dataclass(frozen=True, eq=False)
class WeightGradient:
    """What samples say about one weight.

    Attributes:
        value: the weight, as it computes.
        total: Σ over samples of dL/dw, of its shape.
        square: mean over samples of (dL/dw)², the diagonal of the empirical Fisher matrix.
    """

    value: Array
    total: Array
    square: Array


@dataclass(frozen=True, eq=False)
class GateGradient:
    """What samples say about gates that would multiply units, [units] each.

    Attributes:
        absolute: mean over samples of |dL/dgate| (Michel et al.).
        square: mean over samples of (dL/dgate)².
        elementwise: mean over samples of Σ |x · dL/dx| over a unit's entries.
    """

    absolute: Array
    square: Array
    elementwise: Array


def saliency(gradient: WeightGradient, order: Order) -> Array:
    """Of each number, what the loss changes by when it goes; `vector` is signed and to be summed before its size."""
    first = gradient.value.astype(np.float64) * gradient.total
    if order == "vector":
        return first
    if order == "taylor":
        return np.abs(first)
    second = np.square(gradient.value, dtype=np.float64) * gradient.square
    return np.asarray(second if order == "taylor2" else np.abs(first - 0.5 * second))


def unit_taylor(
    parts: Iterable[tuple[WeightGradient, int, Array]], units: int, order: Order, aggregate: Aggregate = "sum"
) -> Array:
    """[units] from every weight that goes with them.

    Args:
        parts: (gradient, axis, elements [units, k]): which entries of the weight's axis belong to each unit.
        units: how many there are.
        order: `vector` takes the size of each entry's signed sum; the others sum sizes of numbers.
        aggregate: over the weights of a unit: LLM-Pruner's sum, product, largest, or last alone.
    """
    scores = []
    for gradient, axis, elements in parts:
        numbers = saliency(gradient, order)
        others = tuple(at for at in range(numbers.ndim) if at != axis % numbers.ndim)
        entries = numbers.sum(axis=others)
        scores.append(np.abs(entries)[elements].sum(axis=1))
    if not scores:
        return np.zeros(units)
    stack = np.stack(scores)
    folds = {"sum": stack.sum(axis=0), "prod": stack.prod(axis=0), "max": stack.max(axis=0), "last": stack[-1]}
    return np.asarray(folds[aggregate])


def block_taylor(gradients: Iterable[WeightGradient]) -> float:
    """Σ |w · Σ dL/dw| over all numbers of a block.

    Source: Kim et al. 2024, Shortened LLaMA, section 3.1.
    """
    return float(sum(saliency(gradient, "taylor").sum() for gradient in gradients))
