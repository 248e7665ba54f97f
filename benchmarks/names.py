"""A GRU encoder and decoder with attention that spell Arabic names in Latin letters."""

import json
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import packages
from benchmarks.ocr import edit_distance
from benchmarks.scores import Score, ratio
from benchmarks.sessions import open_session

NAMES = 400
_RESOURCES = "arabic_name_romanizer/resources/"
_BEGIN, _END, _UNKNOWN = 1, 2, 3
_LONGEST = 32
# Spellings seen once or twice are mostly accidents of the sources.
_SEEN = 3


@cache
def _tokens() -> tuple[str, ...]:
    text = packages.file("arabic-name-romanizer", f"{_RESOURCES}vocab.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["tokens"])


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    """Return all single names with their most frequent spelling, shuffled once and for all."""
    path = packages.file("arabic-name-romanizer", f"{_RESOURCES}names.sqlite3")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        query = "SELECT arabic_key, latin FROM units WHERE count >= ? ORDER BY arabic_key, count, latin DESC"
        rows = connection.execute(query, (_SEEN,))
        # Of equal keys the last row stays: the most frequent, then the first by the alphabet.
        best = {arabic: latin for arabic, latin in rows if set(latin.lower()) <= set(_tokens())}
    names = sorted(best.items())
    return tuple(names[index] for index in np.random.default_rng(0).permutation(len(names)))


def _source(arabic: str) -> NDArray[np.int64]:
    """Return ids [1, length]: unknown country, unknown role, the letters, the end."""
    index = {token: number for number, token in enumerate(_tokens())}
    marks = [index["<UNK_COUNTRY>"], index["<ROLE_UNKNOWN>"]]
    return np.array([[*marks, *(index.get(letter, _UNKNOWN) for letter in arabic), _END]], dtype=np.int64)


def _spelled(latin: str) -> list[int]:
    index = {token: number for number, token in enumerate(_tokens())}
    return [*(index.get(letter, _UNKNOWN) for letter in latin), _END]


class _Speller:
    """The two models behind one name at a time."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        self.encoder = open_session(encoder)
        self.decoder = open_session(decoder)
        self.feeds: list[dict[str, NDArray[Any]]] = []

    def begin(self, arabic: str) -> None:
        source = _source(arabic)
        feed = {"src": source, "src_mask": np.zeros_like(source, dtype=np.bool_)}
        self.memory, self.mask, self.hidden = self.encoder.run(None, feed)

    def step(self, prefix: list[int]) -> NDArray[np.float32]:
        """Return log-likelihoods [tokens] of what follows `prefix`, which grows by one from call to call."""
        feed = {"prefix": np.array([prefix], dtype=np.int64), "memory": self.memory, "src_mask": self.mask}
        self.feeds.append(feed | {"hidden": self.hidden})
        likelihood, self.hidden = self.decoder.run(None, self.feeds[-1])
        return np.asarray(likelihood[0])

    def spell(self, arabic: str) -> str:
        """Return the spelling, the likeliest letter at each step."""
        self.begin(arabic)
        prefix = [_BEGIN]
        while len(prefix) <= _LONGEST:
            best = int(self.step(prefix).argmax())
            if best == _END:
                break
            prefix.append(best)
        return "".join(_tokens()[token] for token in prefix[1:])

    def surprise(self, arabic: str, latin: str) -> float:
        """Return the negative log-likelihood of the whole spelling, its end included."""
        self.begin(arabic)
        prefix, total = [_BEGIN], 0.0
        for token in _spelled(latin):
            total -= float(self.step(prefix)[token])
            prefix.append(token)
        return total


def spelling(encoder: Path, decoder: Path) -> tuple[Score, Score]:
    """Character error of greedy spellings, and negative log-likelihood per character, of a pair of models."""
    speller = _Speller(encoder, decoder)
    errors, losses = [], []
    for arabic, latin in _pairs()[:NAMES]:
        errors.append((edit_distance(speller.spell(arabic).lower(), latin.lower()), len(latin)))
        losses.append((speller.surprise(arabic, latin), len(latin) + 1))
    return tuple(
        Score(task=task, items=np.array(items, dtype=float), statistic=ratio, higher_is_better=False)
        for task, items in (("names character error", errors), ("names nats per character", losses))
    )  # type: ignore[return-value] # a tuple of two


def encoder_calibration(samples: int = 64, letters: int = 6) -> dict[str, NDArray[Any]]:
    """Return sources [samples, letters + 3] of names that the task does not use, all of one length."""
    alike = [arabic for arabic, _ in _pairs()[NAMES:] if len(arabic) == letters][:samples]
    sources = np.concatenate([_source(arabic) for arabic in alike])
    return {"src": sources, "src_mask": np.zeros_like(sources, dtype=np.bool_)}


def decoder_calibration(encoder: Path, decoder: Path, samples: int = 64, letters: int = 6) -> dict[str, NDArray[Any]]:
    """Return whole feeds of the third step, stacked on a new axis 0, of names that the task does not use."""
    speller = _Speller(encoder, decoder)
    for arabic in [arabic for arabic, _ in _pairs()[NAMES:] if len(arabic) == letters][:samples]:
        speller.spell(arabic)
    third = [feed for feed in speller.feeds if feed["prefix"].shape[1] == 3]
    return {name: np.stack([feed[name] for feed in third]) for name in third[0]}
