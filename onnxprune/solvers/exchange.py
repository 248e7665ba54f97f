"""Words put into classes that tell most about what follows a word."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_ROUNDS = 8
# A round that moves fewer words than this share of them ends the search.
_SETTLED = 0.002


def exchange_classes(before: Array, words: Array, counts: Array, mass: Array, classes: int) -> Array:
    """The class of each word: words are moved to the class that gains most, one by one, until few move.

    What rises is Σ f(N(y, Z)) - Σ f(N(Z)), f(x) = x ln x: the log-likelihood of the class Z of a word given the word y
    before it, less that of classes alone.

    Args:
        before: [n] number of the word y of each pair, from 0.
        words: [n] number of the word z behind it, from 0.
        counts: [n] how often the pair occurs; any multiple.
        mass: [words] how often each word occurs, in the same unit.
        classes: how many, 1 at least.

    Returns:
        [words] class of each word, from 0; the likeliest words begin in turn in different classes.

    Source: Martin, Liermann and Ney 1998, Algorithms for bigram and trigram word clustering, section 3; Goodman and Gao
    2000 for its predictive form.
    """
    size = len(mass)
    classes = min(classes, size)
    found = np.empty(size, np.int64)
    found[np.argsort(-mass, kind="stable")] = np.arange(size) % classes
    order = np.argsort(words, kind="stable")
    before, words, counts = before[order], words[order], counts[order].astype(np.float64)
    ends = np.searchsorted(words, np.arange(size + 1))
    pairs = np.zeros((int(before.max(initial=-1)) + 1, classes))
    np.add.at(pairs, (before, found[words]), counts)
    totals = np.bincount(found, mass, classes)
    movable = np.nonzero(np.diff(ends))[0]
    terms = _entropy(pairs)
    for _ in range(_ROUNDS):
        moved = 0
        for word in movable:
            rows, own = before[ends[word] : ends[word + 1]], counts[ends[word] : ends[word + 1]]
            home = found[word]
            with_it, without = pairs[rows] + own[:, None], terms[rows]
            with_it[:, home] -= own
            without[:, home] = _entropy(with_it[:, home] - own)
            gain = (_entropy(with_it) - without).sum(axis=0)
            rest = totals.copy()
            rest[home] -= mass[word]
            gain -= _entropy(rest + mass[word]) - _entropy(rest)
            best = int(gain.argmax())
            if gain[best] <= gain[home] + 1e-12:
                continue
            pairs[rows, home] -= own
            pairs[rows, best] += own
            totals[home], totals[best] = rest[home], totals[best] + mass[word]
            terms[rows, home], terms[rows, best] = _entropy(pairs[rows, home]), _entropy(pairs[rows, best])
            found[word] = best
            moved += 1
        if moved <= _SETTLED * len(movable):
            break
    return found


def likelihood(before: Array, words: Array, counts: Array, mass: Array, classes: Array) -> float:
    """What `exchange_classes` raises, for one assignment [words] of classes."""
    count = int(classes.max()) + 1
    pairs = np.bincount(before * count + classes[words], counts)
    return float(_entropy(pairs).sum() - _entropy(np.bincount(classes, mass)).sum())


def _entropy(values: Array) -> Array:
    """X ln x, 0 at 0; what rounding left below 0 is 0."""
    whole = np.maximum(values, 0)
    found: Array = whole * np.log(np.where(whole > 0, whole, 1))
    return found
