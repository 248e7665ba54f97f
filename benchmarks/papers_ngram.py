"""Trigram models of WordNet's definitions, pruned by counts and by Stolcke's criterion, with classes and without."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sessions import open_session
from onnxprune import spec
from onnxprune.model import Model, save
from onnxprune.ngrams.backoff import Table
from onnxprune.ngrams.building import as_model
from onnxprune.ngrams.clustering import clustered, word_classes
from onnxprune.ngrams.pruning import Joint, Selection, count_scores, rebuilt, stolcke, weighted_difference
from onnxprune.ngrams.text import CHAIN, Language, from_sentences
from onnxprune.passes import known
from onnxprune.protocol import Context

Array = np.ndarray[Any, Any]

_TRAINING, _HELD_OUT, _CLASSES, _SMALL = 12_000, 1_500, 64, 0.05


def figures(seed: int) -> dict[str, float]:
    """Sizes and perplexities for one split of the text."""
    training, held_out = split(seed)
    language = from_sentences(training, cutoff=2)
    joint = Joint((language.model,), CHAIN[:3])
    rows = windows(language, held_out)
    seen = counted(windows(language, training))

    def perplexity(one: Joint) -> float:
        return float(np.exp(-one.log_p(dict(zip(CHAIN, rows.T[::-1], strict=False))).mean()))

    by_count = Selection(joint, count_scores(joint, seen))
    by_entropy = Selection(joint, stolcke(joint))
    cutoff = by_count.at_threshold(3)
    small_cutoff = by_count.to_target(int(_SMALL * joint.parameters))
    fewer = by_entropy.to_target(cutoff.parameters)
    two = clustered(joint, word_classes(joint, _CLASSES))
    by_classes = Selection(two, stolcke(two))
    size = min(int(_SMALL * joint.parameters), small_cutoff.parameters)
    small = by_entropy.to_target(size)
    found = {
        "numbers": float(joint.parameters),
        "plain": perplexity(joint),
        "cutoff-numbers": float(cutoff.parameters),
        "cutoff": perplexity(cutoff),
        "stolcke-numbers": float(fewer.parameters),
        "stolcke": perplexity(fewer),
        "weighted-difference": perplexity(
            Selection(joint, weighted_difference(joint, seen)).to_target(cutoff.parameters)
        ),
        # A cutoff takes whole counts: the largest set under 5 %, where Stolcke's has as many numbers.
        "cutoff-5%-numbers": float(small_cutoff.parameters),
        "cutoff-5%": perplexity(small_cutoff),
        "stolcke-5%": perplexity(small),
        "classes-5%": perplexity(by_classes.to_target(size)),
        "equal-perplexity-share": smallest(by_classes, perplexity, perplexity(small), size) / small.parameters,
        "clustered-share": two.parameters / joint.parameters,
        "entropy-off": entropy_off(joint, seed),
    }
    return found | files(language, rows, seed)


def smallest(selection: Selection, perplexity: Callable[[Joint], float], wanted: float, most: int) -> int:
    """How many numbers the smallest model has that is as good; the target is halved down to 1 %."""
    low, high = 0, 2 * most
    while high - low > most // 100:
        middle = (low + high) // 2
        low, high = (low, middle) if perplexity(selection.to_target(middle)) <= wanted else (middle, high)
    return selection.to_target(high).parameters


def split(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Definitions to count, and others to look at."""
    from benchmarks.wordnet import nouns

    texts = [noun.definition for noun in nouns()]
    order = np.random.default_rng(seed).permutation(len(texts))[: _TRAINING + _HELD_OUT]
    words = [re.findall(r"[\w']+|[^\w\s]", texts[at].lower()) for at in order]
    return words[:_TRAINING], words[_TRAINING:]


def windows(language: Language, sentences: list[list[str]]) -> Array:
    """[n, 3] ids of each word behind the two before it; -1 where there is none."""
    numbers = {word: at for at, word in enumerate(language.words)}
    rows = []
    for words in sentences:
        ids = [-1, 0, *(numbers.get(word, 2) for word in words), 1]
        rows += [ids[at : at + 3] for at in range(len(ids) - 2)]
    return np.array(rows)


def counted(rows: Array) -> Any:
    """How often n-grams of a table occur among windows."""

    def counts(table: Table) -> Array:
        at = table.find(rows[:, -len(table.columns) :])
        return np.bincount(at[at >= 0], minlength=len(table))

    return counts


def entropy_off(joint: Joint, seed: int, tried: int = 20) -> float:
    """Largest difference of scores to the relative entropy of dropping one trigram, summed over all words."""
    model = joint.models[0]
    scores = stolcke(joint)[0][1]
    words = model.grams[0].ids[:, 0]
    history_rows, number = model.histories[1]
    worst = 0.0
    for at in np.random.default_rng(seed).choice(len(scores), tried, replace=False):
        u, v = history_rows[number[at]]
        ids = {CHAIN[0]: words, CHAIN[1]: np.full(len(words), v), CHAIN[2]: np.full(len(words), u)}
        stays = [np.ones(len(grams), bool) for grams in model.grams[1:]]
        stays[1][at] = False
        before, after = model.log_p(ids), rebuilt(model, stays).log_p(ids)
        history = joint.log_history(model.alphas[1].columns, np.array([[u, v]]))[0]
        entropy = float(np.exp(history) * (np.exp(before) * (before - after)).sum())
        worst = max(worst, abs(float(scores[at]) / np.expm1(entropy) - 1))
    return worst


def files(language: Language, rows: Array, seed: int) -> dict[str, float]:
    """What a file pruned to a fifth by the pass says, beside its model in memory, and its sums over all words."""
    from onnxprune.ngrams.reading import find_models

    model = as_model(language)
    one = spec.parse("ngram:keep=0.2", known())
    smaller: Model = one.apply(model, one.propose(model, (), Context()).edits)[0]
    ((site,), _) = find_models(smaller.graph)
    with tempfile.TemporaryDirectory() as folder:
        for name, each in (("plain", model), ("smaller", smaller)):
            save(each, Path(folder) / f"{name}.onnx")
        session = open_session(Path(folder) / "smaller.onnx")
        answers = session.run(None, {"ids": rows})[0]
        expected = site.joint.log_p(dict(zip(site.joint.chain, rows.T[::-1], strict=True)))
        words = np.arange(len(language.words))
        off = 0.0
        for row in rows[np.random.default_rng(seed).choice(len(rows), 100, replace=False)]:
            block = np.stack([np.full(len(words), row[0]), np.full(len(words), row[1]), words], axis=1)
            off = max(off, abs(float(np.exp(session.run(None, {"ids": block})[0].astype(np.float64)).sum()) - 1))
        sizes = [(Path(folder) / f"{name}.onnx").stat().st_size for name in ("plain", "smaller")]
    return {
        "file-share": sizes[1] / sizes[0],
        "sum-off": off,
        "answer-off": float(np.abs(answers - expected).max()),
    }
