"""Task scores that keep every item, so that two models can be compared on the same items."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Items = NDArray[np.float64]

RESAMPLES = 1000
_SEED = 0


def mean(items: Items) -> float:
    """Mean of column 0."""
    return float(items[:, 0].mean())


def ratio(items: Items) -> float:
    """Sum of column 0 over the sum of column 1: errors per character, loss per symbol."""
    return float(items[:, 0].sum() / items[:, 1].sum())


def pearson(items: Items) -> float:
    """Correlation of columns 0 and 1."""
    return float(np.corrcoef(items[:, 0], items[:, 1])[0, 1])


def spearman(items: Items) -> float:
    """Rank correlation of columns 0 and 1."""
    return pearson(np.stack([rankdata(items[:, 0]), rankdata(items[:, 1])], axis=1))


def auc(items: Items) -> float:
    """Share of pairs (positive, negative) that column 0 puts in the right order; column 1 is 1 for positives."""
    positive = items[:, 1] > 0
    count = positive.sum()
    if count in (0, len(items)):
        return float("nan")
    rank_sum = rankdata(items[:, 0])[positive].sum()
    return float((rank_sum - count * (count + 1) / 2) / (count * (len(items) - count)))


def f1(items: Items) -> float:
    """Harmonic mean of precision and recall; columns: hits, found, wanted."""
    hits, found, wanted = items.sum(axis=0)
    return float(2 * hits / (found + wanted))


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model's result in one task.

    Attributes:
        task: what was asked and how it is counted, such as `wordsim353 spearman`.
        items: [n, columns], what the statistic is taken over.
        statistic: items -> value.
        higher_is_better: direction.
    """

    task: str
    items: Items
    statistic: Callable[[Items], float]
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        """The statistic over all items."""
        return self.statistic(self.items)

    def interval(self) -> tuple[float, float]:
        """Return the bootstrap 95 % interval over items."""
        values = [self.statistic(self.items[index]) for index in _resamples(len(self.items))]
        return _interval(values)

    def against(self, reference: "Score") -> tuple[float, float, float]:
        """Return this value less the reference's, with the bootstrap 95 % interval over the shared items.

        The sign is the statistic's own: a positive difference of an error is a loss.
        """
        if len(self.items) != len(reference.items):
            raise ValueError(f"{self.task}: {len(self.items)} items cannot be paired with {len(reference.items)}.")
        values = [
            self.statistic(self.items[index]) - self.statistic(reference.items[index])
            for index in _resamples(len(self.items))
        ]
        return self.value - reference.value, *_interval(values)

    def loss(self, reference: "Score") -> float:
        """Return by how much this score is worse than the reference's, as a share of one; negative where better."""
        difference = self.value - reference.value
        return -difference if self.higher_is_better else difference


def _resamples(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(_SEED).integers(0, count, (RESAMPLES, count))


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)
