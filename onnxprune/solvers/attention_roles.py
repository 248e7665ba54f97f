"""What an attention head looks at, told from its maps alone.

Source: Voita et al. 2019, Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the Rest Can Be
Pruned, section 5. Syntactic roles need a parse of the text and are not assessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# A head is positional if so many tokens look at one fixed offset most.
POSITIONAL_SHARE = 0.9
OFFSETS = (-1, 1)
# A head is a rare-token head if so many tokens look at their sentence's rarest token most.
RARE_SHARE = 0.5
# A head is confident if its largest weight is so large on average.
CONFIDENT = 0.8


@dataclass
class Looks:
    """Counts over the maps of one head.

    Attributes:
        tokens: that looked at something that counts.
        weight: Σ of each token's largest weight.
        offsets: how many could look, and did look most, at each offset.
        rare: how many looked most at the rarest token, where there is one.
        asked: tokens of samples that have a rarest token.
    """

    tokens: int = 0
    weight: float = 0.0
    offsets: dict[int, list[int]] | None = None
    rare: int = 0
    asked: int = 0

    def add(self, attention: Array, counted: Array, rarest: Array | None) -> None:
        """Take in one sample.

        Args:
            attention: [queries, keys], rows sum to one.
            counted: [tokens] which are real and no separators; those alone look and are looked at.
            rarest: [tokens] which are the rarest; None where that is not known.
        """
        places = np.flatnonzero(counted)
        if len(places) < 3 or attention.shape[0] != attention.shape[1]:
            return
        seen = attention[np.ix_(places, places)]
        best = places[seen.argmax(axis=1)]
        self.tokens += len(places)
        self.weight += float(seen.max(axis=1).sum())
        held = self.offsets if self.offsets is not None else {offset: [0, 0] for offset in OFFSETS}
        for offset in OFFSETS:
            could = np.isin(places + offset, places)
            held[offset][0] += int(could.sum())
            held[offset][1] += int((best[could] == places[could] + offset).sum())
        self.offsets = held
        if rarest is not None and rarest[places].any():
            self.asked += len(places)
            self.rare += int(rarest[best].sum())

    def result(self) -> Role:
        """The role, with the shares behind it."""
        if not self.tokens or self.offsets is None:
            return Role("not assessed", None, None, None, None)
        shares = {offset: hit / could if could else 0.0 for offset, (could, hit) in self.offsets.items()}
        offset = max(shares, key=lambda one: shares[one])
        rare = self.rare / self.asked if self.asked else None
        confidence = self.weight / self.tokens
        name = "none"
        if shares[offset] >= POSITIONAL_SHARE:
            name = "positional"
        elif rare is not None and rare >= RARE_SHARE:
            name = "rare-token"
        elif confidence >= CONFIDENT:
            name = "confident"
        return Role(name, shares[offset], offset, rare, confidence)


@dataclass(frozen=True)
class Role:
    """What one head does.

    Attributes:
        name: positional, rare-token, confident, none, or not assessed.
        positional: largest share of tokens that look most at one offset of -1 or +1.
        offset: which.
        rare: share of tokens that look most at their sample's rarest token.
        confidence: mean of the largest weight of each token.
    """

    name: str
    positional: float | None
    offset: int | None
    rare: float | None
    confidence: float | None


def rarest_of(tokens: Array, counted: Array, counts: dict[int, int]) -> Array | None:
    """[tokens] the least frequent ones that count, by how often all samples hold them; None where all are alike."""
    places = np.flatnonzero(counted)
    frequency = np.array([counts.get(int(tokens[place]), 0) for place in places])
    if not len(frequency) or frequency.min() == frequency.max():
        return None
    found = np.zeros(len(tokens), np.bool_)
    found[places[frequency == frequency.min()]] = True
    return found
