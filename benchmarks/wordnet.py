"""WordNet's nouns as clean text: definitions, the words they define, and their 25 classes."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks import packages

_SEED = 0


@dataclass(frozen=True)
class Noun:
    """One sense of a noun.

    Attributes:
        word: its first word, spaces for underscores.
        definition: its gloss without the examples.
        field: number of its lexicographer file, 3 (Tops) to 28.
    """

    word: str
    definition: str
    field: int


@cache
def nouns() -> tuple[Noun, ...]:
    """Return all nouns in an order shuffled once and for all: the first are for tasks, the last for calibration."""
    text = (packages.debian("wordnet-base") / "usr/share/wordnet/data.noun").read_text(encoding="utf-8")
    found = tuple(_noun(line) for line in text.splitlines() if not line.startswith("  "))
    return tuple(found[index] for index in np.random.default_rng(_SEED).permutation(len(found)))


def _noun(line: str) -> Noun:
    # offset lex_filenum ss_type w_cnt word ... | gloss; "example" (wndb(5WN)).
    data, gloss = line.split(" | ", 1)
    _, field, _, _, word, *_ = data.split()
    return Noun(word.replace("_", " "), gloss.split('; "')[0].strip(), int(field))
