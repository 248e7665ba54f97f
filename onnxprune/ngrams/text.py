"""Back-off models from text and from ARPA files."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.ngrams.backoff import BackOff, Table
from onnxprune.ngrams.rows import distinct
from onnxprune.solvers.backoff import log_alphas

Array = np.ndarray[Any, Any]

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
# Columns by their distance from the predicted word.
CHAIN = ("word", "before.1", "before.2", "before.3", "before.4")
_LN10 = float(np.log(10))
_LARGEST_ORDER = len(CHAIN)


@dataclass(frozen=True, kw_only=True)
class Language:
    """A model with its words.

    Attributes:
        words: by id.
    """

    model: BackOff
    words: tuple[str, ...]


def from_sentences(
    sentences: Sequence[Sequence[str]], *, order: int = 3, discount: float = 0.7, cutoff: int = 0
) -> Language:
    """A back-off model of counts, absolutely discounted.

    Sentences are taken to begin with `<s>`, which is never predicted, and to end with `</s>`. What unigrams are
    discounted by goes to `<unk>`, which stands for every other word.

    Args:
        sentences: words of each.
        order: words of the longest n-grams, 2 … 5.
        discount: taken from each count, in (0, 1).
        cutoff: words that occur no more often become `<unk>`.

    Raises:
        DataError: no words, or an order or discount out of range.

    Source: Ney, Essen and Kneser 1994, On structuring probabilistic dependences, section 3, in its back-off form.
    """
    if not 2 <= order <= _LARGEST_ORDER:
        raise DataError(f"order must be 2 … {_LARGEST_ORDER}, got {order}.")
    if not 0 < discount < 1:
        raise DataError(f"discount must be in (0, 1), got {discount}.")
    names = Counter(word for sentence in sentences for word in sentence)
    if not names:
        raise DataError("A language model needs text: there is no word in it.")
    known = [word for word, count in names.most_common() if count > cutoff and word not in {START, END, UNKNOWN}]
    words = (START, END, UNKNOWN, *known)
    numbers = {word: at for at, word in enumerate(words)}
    stream: list[int] = []
    for sentence in sentences:
        stream += [-1] * (order - 2) + [0] + [numbers.get(word, 2) for word in sentence] + [1]
    tokens = np.array(stream)
    found = [_counted(tokens, length) for length in range(1, order + 1)]
    return Language(model=_discounted(found, discount), words=words)


def _counted(tokens: Array, length: int) -> tuple[Array, Array]:
    """Rows [n, length], oldest word first, and how often each was seen; none predicts a sentence's beginning."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length)
    whole = (windows >= 0).all(axis=1) & (windows[:, 1:] != 0).all(axis=1) & (windows[:, -1] != 0)
    rows, number = distinct(CHAIN[:length], windows[whole])
    return rows, np.bincount(number)


def _discounted(found: Sequence[tuple[Array, Array]], discount: float) -> BackOff:
    rows, counts = found[0]
    mass = np.zeros(max(rows.max(), 2) + 1)
    mass[rows[:, 0]] = (counts - discount) / counts.sum()
    mass[2] += 1 - mass.sum()
    # As ARPA files have it for what is never predicted.
    values = np.log(mass, out=np.full(len(mass), -99 * _LN10), where=mass > 0)
    first = Table(columns=CHAIN[:1], ids=np.arange(len(mass))[:, None], values=values)
    model = BackOff(word=CHAIN[0], grams=(first,), alphas=(), unknown=float(values[2]))
    for at, (rows, counts) in enumerate(found[1:], 1):
        history, number = distinct(CHAIN[1 : at + 1], rows[:, :-1])
        log_p = np.log((counts - discount) / np.bincount(number, counts)[number])
        model = _longer(model, at, rows, log_p, history, number)
    return model


def _longer(model: BackOff, at: int, rows: Array, log_p: Array, history: Array, number: Array) -> BackOff:
    columns = tuple(reversed(CHAIN[: at + 1]))
    grams = Table(columns=columns, ids=rows, values=log_p)
    values = log_alphas(log_p, model.log_p(grams.as_ids()), number, len(history))
    alphas = Table(columns=columns[:-1], ids=history, values=values)
    return BackOff(word=model.word, grams=(*model.grams, grams), alphas=(*model.alphas, alphas), unknown=model.unknown)


def sentences_of(path: Path) -> list[list[str]]:
    """Words of each line: runs of letters, digits and apostrophes in lower case, and single other signs.

    Raises:
        DataError: the file cannot be read as UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error}). Give a text file or an .arpa file.") from error
    lines = (re.findall(r"[\w']+|[^\w\s]", line.lower()) for line in text.splitlines())
    return [words for words in lines if words]


def from_arpa(path: Path) -> Language:
    """The model of an ARPA file, its alphas as they stand there.

    Raises:
        DataError: the file is none, or damaged.
    """
    sections = _sections(path)
    words = tuple(line[1] for line in sections[0])
    numbers = {word: at for at, word in enumerate(words)}
    grams, alphas = [], []
    for length, lines in enumerate(sections, 1):
        columns = tuple(reversed(CHAIN[:length]))
        rows = np.array([[_number(numbers, word, path) for word in line[1].split(" ")] for line in lines]).reshape(
            -1, length
        )
        values = np.array([line[0] for line in lines]) * _LN10
        if length == 1 and START in numbers:
            # Some tools write it as certain, though it is never predicted.
            values[numbers[START]] = -99 * _LN10
        backs = np.array([line[2] for line in lines]) * _LN10
        grams.append(Table(columns=columns, ids=rows, values=values))
        if length < len(sections):
            shifted = tuple(reversed(CHAIN[1 : length + 1]))
            # A table holds one alpha at least.
            used = (backs != 0) | ~backs.any()
            alphas.append(Table(columns=shifted, ids=rows[used], values=backs[used]))
    unknown = numbers.get(UNKNOWN)
    default = float(grams[0].values[unknown]) if unknown is not None else -99 * _LN10
    return Language(
        model=BackOff(word=CHAIN[0], grams=tuple(grams), alphas=tuple(alphas), unknown=default), words=words
    )


def _number(numbers: Mapping[str, int], word: str, path: Path) -> int:
    if word not in numbers:
        raise DataError(f"{path}: every word must stand among the 1-grams, {word!r} does not.")
    return numbers[word]


def _sections(path: Path) -> list[list[tuple[float, str, float]]]:
    """Of each length: log10 p, words apart by one space, log10 alpha (0 where there is none)."""
    sections: list[list[tuple[float, str, float]]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in _lines(file):
                if line.startswith("\\") and line.endswith("-grams:"):
                    sections.append([])
                elif sections and not line.startswith("\\"):
                    sections[-1].append(_entry(line, len(sections), path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error}). Give an .arpa file.") from error
    if not 2 <= len(sections) <= _LARGEST_ORDER or not all(sections):
        raise DataError(
            f"{path}: an ARPA file must hold n-grams of 1 to 2 … {_LARGEST_ORDER} words, got {len(sections)} sections."
        )
    return sections


def _lines(file: Any) -> Iterator[str]:
    for line in file:
        if stripped := line.strip():
            yield stripped


def _entry(line: str, length: int, path: Path) -> tuple[float, str, float]:
    fields = line.split()
    with contextlib.suppress(ValueError):
        if not np.isfinite([float(fields[0]), float(fields[-1]) if len(fields) == length + 2 else 0.0]).all():
            raise ValueError(line)
        if len(fields) == length + 1:
            return float(fields[0]), " ".join(fields[1:]), 0.0
        if len(fields) == length + 2:
            return float(fields[0]), " ".join(fields[1:-1]), float(fields[-1])
    raise DataError(f"{path}: a line of {length}-grams must hold a logarithm and {length} words, got {line!r}.")
