"""What single n-grams of a back-off model are worth, and the weights of its histories that let it sum to one.

An entry is a word w behind a history h, stored with p(w|h); what is not stored is alpha(h) · p(w|h'), h' being the
history less its oldest word. Entries are given in any order, with the number of their history.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Mass below this is rounding: p are read from 32 bits.
_MASS = 1e-9


def log_alphas(log_p: Array, log_lower: Array, history: Array, histories: int) -> Array:
    """Logarithm of alpha(h), which makes Σ_w p(w|h) one.

    Args:
        log_p: [n] ln p(w|h) of the entries.
        log_lower: [n] ln p(w|h') of the same words.
        history: [n] number of each entry's history.
        histories: how many there are.

    Returns:
        [histories]; 0 where a history has no entry.
    """
    left, below = _masses(log_p, log_lower, history, histories)
    found: Array = np.log(left) - np.log(below)
    return found


def stolcke_scores(log_p: Array, log_lower: Array, history: Array, log_history: Array) -> Array:
    """By what share perplexity rises when one entry alone is dropped, and its history's alpha computed anew.

    Args:
        log_p: [n] ln p(w|h).
        log_lower: [n] ln p(w|h').
        history: [n] number of each entry's history.
        log_history: [histories] ln p(h).

    Returns:
        [n] exp(D) - 1, D being the relative entropy of the model before to the one after.

    Source: Stolcke 1998, Entropy-based pruning of backoff language models, section 3.
    """
    left, below = _masses(log_p, log_lower, history, len(log_history))
    alpha = np.log(left) - np.log(below)
    p, lower = np.exp(log_p), np.exp(log_lower)
    after = np.log(left[history] + p) - np.log(below[history] + lower)
    change = p * (log_lower + after - log_p) + left[history] * (after - alpha[history])
    found: Array = np.expm1(-np.exp(log_history[history]) * change)
    return found


def weighted_differences(counts: Array, log_p: Array, log_lower: Array, log_alpha: Array) -> Array:
    """How often an entry was seen times how far its logarithm lies above what backing off would give.

    Args:
        counts: [n] of the whole n-grams; any multiple of their probability ranks alike.
        log_p: [n] ln p(w|h).
        log_lower: [n] ln p(w|h').
        log_alpha: [n] ln alpha(h).

    Source: Seymore and Rosenfeld 1996, Scalable backoff language models, section 3.
    """
    found: Array = counts * (log_p - log_alpha - log_lower)
    return found


def _masses(log_p: Array, log_lower: Array, history: Array, histories: int) -> tuple[Array, Array]:
    """[histories] what the entries leave of one, of p(·|h) and of p(·|h')."""
    left = 1 - np.bincount(history, np.exp(log_p), histories)
    below = 1 - np.bincount(history, np.exp(log_lower), histories)
    return np.maximum(left, _MASS), np.maximum(below, _MASS)
