"""Predictive clustering: a word's class is predicted first, then the word within its class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnxprune.ngrams.backoff import BackOff, Classes, Table
from onnxprune.ngrams.pruning import Joint
from onnxprune.ngrams.rows import distinct
from onnxprune.solvers.exchange import exchange_classes

Array = np.ndarray[Any, Any]

CLASS = "class"


def word_classes(joint: Joint, classes: int) -> Classes:
    """Classes of a model's words by what its own bigrams expect.

    Source: Goodman and Gao 2000, Language model size reduction by pruning and clustering, section 3.
    """
    model = joint.models[-1]
    words = model.grams[0].ids[:, 0]
    pairs = model.grams[1]
    rows, history = model.histories[0]
    expected = np.exp(joint.log_history(model.alphas[0].columns, rows)[history] + pairs.values)
    at = model.grams[0].find(pairs.as_ids()[model.word][:, None])
    known = at >= 0
    found = exchange_classes(history[known], at[known], expected[known], np.exp(model.grams[0].values), classes)
    return Classes(of=model.word, words=words, classes=found, other=int(found.max()) + 1)


def clustered(joint: Joint, classes: Classes) -> Joint:
    """Two models whose product is the one given, for every history and every word.

    An n-gram's class is stored where one of its words is; what both models leave out backs off as before. So nothing
    changes until n-grams go, and the models are larger than the one.

    Source: Goodman and Gao 2000, Language model size reduction by pruning and clustering: P(Z|xy) · P(z|xyZ).
    """
    model = joint.models[-1]
    column = {CLASS: classes}
    whole = replace(model, classes=column)
    of_class = BackOff(word=CLASS, grams=(_class_masses(model, classes),), alphas=(), unknown=model.unknown)
    first = model.grams[0]
    shares = first.values - of_class.grams[0].values[_places(of_class.grams[0], {CLASS: classes(first.ids[:, 0])})]
    of_word = BackOff(word=model.word, grams=(replace(first, values=shares),), alphas=(), classes=column)
    for order in range(2, model.order + 1):
        ids = whole.complete(model.grams[order - 1].as_ids())
        columns = model.alphas[order - 2].columns
        touched, number = _distinct((*columns, CLASS), ids)
        # P(Z|h) = Σ p(z|h) over what is stored + alpha(h) · (P(Z|h') - Σ p(z|h') over the same).
        lower = np.exp(model.log_p(ids, order - 1))
        at = model.alphas[order - 2].find(touched.ids[:, :-1])
        alpha = np.exp(np.where(at >= 0, model.alphas[order - 2].values[at], 0.0))
        below = np.exp(of_class.log_p(touched.as_ids()))
        left = np.maximum(below - np.bincount(number, lower, len(touched)), 0)
        mass = np.bincount(number, np.exp(model.grams[order - 1].values), len(touched)) + alpha * left
        grams = replace(touched, columns=(*columns, CLASS), values=np.log(mass))
        of_class = replace(of_class, grams=(*of_class.grams, grams), alphas=(*of_class.alphas, model.alphas[order - 2]))
        share = replace(model.grams[order - 1], values=model.grams[order - 1].values - np.log(mass)[number])
        weights = replace(touched, values=np.log(alpha) + np.log(below) - np.log(mass))
        of_word = replace(of_word, grams=(*of_word.grams, share), alphas=(*of_word.alphas, weights))
    return replace(joint, models=(replace(of_class, classes=column), of_word))


def _class_masses(model: BackOff, classes: Classes) -> Table:
    mass = np.bincount(classes(model.grams[0].ids[:, 0]), np.exp(model.grams[0].values))
    used = np.nonzero(mass)[0]
    return Table(columns=(CLASS,), ids=used[:, None], values=np.log(mass[used]))


def _places(table: Table, ids: dict[str, Array]) -> Array:
    return table.find(np.stack([ids[name] for name in table.columns], axis=1))


def _distinct(columns: tuple[str, ...], ids: dict[str, Array]) -> tuple[Table, Array]:
    """Rows of these columns, each once, and the number of each given one."""
    rows = np.stack([ids[name] for name in columns], axis=1)
    found, number = distinct(columns, rows)
    return Table(columns=columns, ids=found, values=np.zeros(len(found))), number
