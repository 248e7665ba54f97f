"""Which n-grams of a model go: scores, the closest set under a target, and the alphas of what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.ngrams.backoff import BackOff, Table
from onnxprune.solvers.backoff import log_alphas, stolcke_scores, weighted_differences

Array = np.ndarray[Any, Any]
# [n] how often each n-gram of a table was seen.
Counts = Callable[[Table], Array]

# A word that is never predicted begins sentences.
_NEVER = -30.0


@dataclass(frozen=True)
class Joint:
    """Models whose product predicts a word: one, or that of its class and that of the word in its class.

    Attributes:
        models: the last predicts the word itself.
        chain: columns of words: the predicted one, then the words before it, the nearest first.
    """

    models: tuple[BackOff, ...]
    chain: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Probabilities and alphas of all."""
        return sum(model.parameters for model in self.models)

    def log_p(self, ids: dict[str, Array]) -> Array:
        """[m] ln p of words behind histories."""
        found: Array = np.sum([model.log_p(ids) for model in self.models], axis=0)
        return found

    def log_history(self, columns: Sequence[str], rows: Array) -> Array:
        """[m] ln p of histories [m, columns], by the chain rule with the models themselves.

        What is never predicted stands where sentences begin: it is taken as often as the likeliest word, so that less
        goes there.
        """
        held = {name: rows[:, at] for at, name in enumerate(columns)}
        words = [name for name in self.chain[1:] if name in held]
        total = np.zeros(len(rows))
        for at in range(len(words)):
            # The word `at` places before the predicted one, behind those before it.
            ids = dict(zip(self.chain, (held[name] for name in words[at:]), strict=False))
            each = self.log_p(ids)
            if len(ids) == 1:
                likeliest = self.log_p({self.chain[0]: np.unique(self.models[-1].grams[0].ids)})
                each = np.where(each < _NEVER, likeliest.max(), each)
            total += each
        for model in self.models:
            # A history with the class of the word that is to come.
            if model.word in held and model.word not in words:
                total += model.log_p(held)
        return total


def stolcke(joint: Joint) -> list[list[Array]]:
    """Of each model, of each order from 2, [n] the rise of perplexity when the n-gram goes."""
    found = []
    for model in joint.models:
        scores = []
        for order in range(2, model.order + 1):
            rows, history = model.histories[order - 2]
            grams = model.grams[order - 1]
            lower = model.log_p(grams.as_ids(), order - 1)
            log_history = joint.log_history(model.alphas[order - 2].columns, rows)
            scores.append(stolcke_scores(grams.values, lower, history, log_history))
        found.append(scores)
    return found


def weighted_difference(joint: Joint, counts: Counts | None) -> list[list[Array]]:
    """As `stolcke`, by the weighted difference; without counts, by what the models themselves expect."""
    found = []
    for model in joint.models:
        scores = []
        for order in range(2, model.order + 1):
            grams, alphas = model.grams[order - 1], model.alphas[order - 2]
            rows, history = model.histories[order - 2]
            at = alphas.find(rows)
            alpha = np.where(at >= 0, alphas.values[at], 0.0)[history]
            lower = model.log_p(grams.as_ids(), order - 1)
            if counts is not None:
                seen = counts(grams)
            else:
                seen = np.exp(joint.log_history(alphas.columns, rows)[history] + grams.values)
            scores.append(weighted_differences(seen, grams.values, lower, alpha))
        found.append(scores)
    return found


def count_scores(joint: Joint, counts: Counts) -> list[list[Array]]:
    """As `stolcke`, by how often each n-gram was seen."""
    return [[counts(grams) for grams in model.grams[1:]] for model in joint.models]


class Selection:
    """Sets of n-grams by one threshold over all orders of all models."""

    def __init__(self, joint: Joint, scores: list[list[Array]]) -> None:
        self.joint = joint
        self.scores = scores
        self._paths = [
            [_paths(model, joint.chain, order) for order in range(3, model.order + 1)] for model in joint.models
        ]

    def at_threshold(self, threshold: float) -> Joint:
        """The models less every n-gram that scores below, but for those that longer ones which stay need."""
        stays = self.kept(threshold)
        return replace(self.joint, models=tuple(map(rebuilt, self.joint.models, stays)))

    def to_target(self, parameters: int) -> Joint:
        """The models with as many of the best n-grams as a number of parameters lets stay; the least where none do."""
        levels = np.unique(np.concatenate([one for of_model in self.scores for one in of_model]))
        low, high = 0, len(levels)
        while low < high:
            middle = (low + high) // 2
            if self._parameters(self.kept(levels[middle])) <= parameters:
                high = middle
            else:
                low = middle + 1
        return self.at_threshold(levels[low] if low < len(levels) else np.inf)

    def kept(self, threshold: float) -> list[list[Array]]:
        """Of each model, of each order from 2, [n] what stays: the best one of each order at least."""
        found = []
        for of_model, of_paths in zip(self.scores, self._paths, strict=True):
            stays = [(one >= threshold) | (np.arange(len(one)) == one.argmax()) for one in of_model]
            for at in range(len(stays) - 1, 0, -1):
                for path in of_paths[at - 1]:
                    needed = path[stays[at]]
                    stays[at - 1][needed[needed >= 0]] = True
            found.append(stays)
        return found

    def _parameters(self, stays: list[list[Array]]) -> int:
        total = 0
        for model, of_model in zip(self.joint.models, stays, strict=True):
            total += len(model.grams[0])
            for (rows, history), one in zip(model.histories, of_model, strict=True):
                total += int(one.sum()) + int(np.bincount(history[one], minlength=len(rows)).astype(bool).sum())
        return total


def _paths(model: BackOff, chain: tuple[str, ...], order: int) -> list[Array]:
    """[n] the places, in the order below, of what an n-gram's history is and of what it backs off to; -1 for none."""
    ids = model.grams[order - 1].as_ids()
    below = model.grams[order - 2]
    history = dict(zip(chain, (ids[name] for name in chain[1:] if name in ids), strict=False))
    return [
        below.find(np.stack([path[name] for name in below.columns], axis=1))
        for path in (history, ids)
        if set(below.columns) <= path.keys()
    ]


def rebuilt(model: BackOff, stays: Sequence[Array]) -> BackOff:
    """The model with the n-grams of orders 2, … that stay, and its alphas computed anew, the shortest first."""
    smaller = replace(model, grams=model.grams[:1], alphas=())
    for at, one in enumerate(stays):
        grams = model.grams[at + 1].only(one)
        lower = smaller.log_p(grams.as_ids())
        rows, history = model.histories[at]
        used, number = np.unique(history[one], return_inverse=True)
        values = log_alphas(grams.values, lower, number.ravel(), len(used))
        alphas = Table(columns=model.alphas[at].columns, ids=rows[used], values=values)
        smaller = replace(smaller, grams=(*smaller.grams, grams), alphas=(*smaller.alphas, alphas))
    return smaller
