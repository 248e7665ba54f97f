"""The figures of one output, and how a reader of reports meets them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Kind = Literal["scored", "state", "integer", "uncompared"]


@dataclass(frozen=True, kw_only=True)
class OutputFigures:
    """How far one output moved over all samples; None where a figure is not defined.

    Attributes:
        kind: "scored" floats; a "state" or cache that the next call reads; an "integer" (or bool or string) output,
            compared by agreement; "uncompared" sequences and the like.
        explained: 1 - Σ‖y-ŷ‖² / Σ‖y-ȳ‖²; 1 - relative L2 for an output without variance.
        cosine_mean: mean cosine of the vectors along the fixed axes.
        cosine_p05: fifth percentile of the same.
        max_abs: largest |y-ŷ|.
        relative_l2: sqrt(Σ‖y-ŷ‖² / Σ‖y‖²).
        top1_agreement: share of vectors whose largest element is the same; of equal elements for integers.
        largest: largest |y| of the reference, to which exactness is relative.
        failed: whether the output is broken, whatever its figures.
        why: the reason, where it failed or was not compared.
    """

    kind: Kind
    explained: float | None = None
    cosine_mean: float | None = None
    cosine_p05: float | None = None
    max_abs: float | None = None
    relative_l2: float | None = None
    top1_agreement: float | None = None
    largest: float | None = None
    failed: bool = False
    why: str | None = None

    @property
    def score(self) -> float:
        """What a floor bounds: -inf where the output is broken, NaN where nothing was compared."""
        if self.failed:
            return -math.inf
        value = self.explained if self.largest is not None else self.top1_agreement
        return math.nan if value is None else value

    @property
    def deviation(self) -> float:
        """Largest error relative to the largest value; of integers, the share that differs; infinite if broken."""
        if self.failed:
            return math.inf
        if self.max_abs is None or self.largest is None:
            return 0.0 if self.top1_agreement is None else 1 - self.top1_agreement
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self.largest if self.largest else math.inf

    def to_json(self) -> dict[str, float | str | None]:
        """Figures by name; null where a figure is undefined or infinite."""
        return {
            "kind": self.kind,
            "explained": finite(self.explained),
            "cosine_mean": finite(self.cosine_mean),
            "cosine_p05": finite(self.cosine_p05),
            "max_abs": finite(self.max_abs),
            "relative_l2": finite(self.relative_l2),
            "top1_agreement": finite(self.top1_agreement),
            "why": self.why,
        }


@dataclass(frozen=True)
class Terms:
    """What resampling needs of each sample: the score is 1 - Σerror/Σscale, or 1 - the root of that quotient.

    Attributes:
        error: [samples].
        scale: [samples].
        root: whether the root is taken.
    """

    error: Array
    scale: Array
    root: bool = False

    def scores(self, weights: Array) -> Array:
        """Scores of resamples; weights [resamples, samples] count how often each sample was drawn."""
        error, scale = weights @ self.error, weights @ self.scale
        quotient = np.full(error.shape, np.inf)
        np.divide(error, scale, out=quotient, where=scale > 0)
        quotient[error == 0] = 0.0
        return 1 - (np.sqrt(quotient) if self.root else quotient)


def finite(value: float | None) -> float | None:
    """The value where JSON can hold it."""
    return value if value is not None and math.isfinite(value) else None
