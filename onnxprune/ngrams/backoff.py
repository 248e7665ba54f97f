"""A back-off model as tables of ids: what it says of words, whatever file it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from onnxprune.ngrams.rows import distinct, packed, sizes_of

Array = np.ndarray[Any, Any]
Ids = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers by ids.

    Attributes:
        columns: what the ids are, one name each.
        ids: [n, columns] not negative, no row twice.
        values: [n] natural logarithms.
    """

    columns: tuple[str, ...]
    ids: Array
    values: Array

    def __len__(self) -> int:
        """How many numbers there are."""
        return len(self.values)

    @cached_property
    def _sorted(self) -> tuple[Array, Array, Array]:
        """Sizes of the columns, packed rows in ascending order, and their places."""
        sizes = sizes_of(self.columns, self.ids)
        keys = packed(self.ids, sizes)
        order = np.argsort(keys, kind="stable")
        return sizes, keys[order], order

    def find(self, rows: Array) -> Array:
        """[m] place of each row of ids [m, columns]; -1 where the table does not have it."""
        sizes, known_keys, order = self._sorted
        if not len(known_keys):
            return np.full(len(rows), -1)
        known = np.all((rows >= 0) & (rows < sizes), axis=1)
        keys = packed(np.where(known[:, None], rows, 0), sizes)
        at = np.minimum(np.searchsorted(known_keys, keys), len(known_keys) - 1)
        found: Array = np.where(known & (known_keys[at] == keys), order[at], -1)
        return found

    def only(self, kept: Array) -> Table:
        """The rows where `kept` [n] is true."""
        return Table(columns=self.columns, ids=self.ids[kept], values=self.values[kept])

    def as_ids(self) -> dict[str, Array]:
        """The ids of each column."""
        return {name: self.ids[:, at] for at, name in enumerate(self.columns)}


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A column that follows from another: the class of a word.

    Attributes:
        of: the other column.
        words: [n] its ids.
        classes: [n] what they become.
        other: what all further ids become.
    """

    of: str
    words: Array
    classes: Array
    other: int

    def __call__(self, ids: Array) -> Array:
        """[m] classes of ids [m]."""
        table = Table(columns=(self.of,), ids=self.words[:, None], values=self.classes)
        at = table.find(ids[:, None])
        found: Array = np.where(at >= 0, self.classes[at], self.other)
        return found


@dataclass(frozen=True, kw_only=True)
class BackOff:
    """P(word | history): the longest n-gram that is stored, else the history's alpha times what the next shorter says.

    Attributes:
        word: the column that is predicted.
        grams: ln p, of order 1, 2, …; each has the columns of the one before, and more.
        alphas: ln alpha, of order 2, …; the columns are the history of that order.
        classes: columns that follow from others, by name.
        unknown: ln p of a word that no unigram has.
    """

    word: str
    grams: tuple[Table, ...]
    alphas: tuple[Table, ...]
    classes: Mapping[str, Classes] = field(default_factory=dict)
    unknown: float = 0.0

    @property
    def order(self) -> int:
        """Words of the longest n-gram."""
        return len(self.grams)

    @property
    def parameters(self) -> int:
        """Probabilities and alphas."""
        return sum(map(len, (*self.grams, *self.alphas)))

    def complete(self, ids: Ids) -> dict[str, Array]:
        """Ids with the columns that follow from them."""
        whole = dict(ids)
        for name, classes in self.classes.items():
            if classes.of in ids and name not in whole:
                whole[name] = classes(ids[classes.of])
        return whole

    def log_p(self, ids: Ids, order: int | None = None) -> Array:
        """[m] ln p of words behind histories; columns that are missing make the history shorter.

        Args:
            ids: [m] of each column.
            order: longest n-gram to look at; all where it is None.
        """
        whole = self.complete(ids)
        found = _looked_up(self.grams[0], whole, self.unknown)
        for grams, alphas in list(zip(self.grams[1:], self.alphas, strict=True))[
            : None if order is None else order - 1
        ]:
            if not {*grams.columns, *alphas.columns} <= whole.keys():
                break
            found = _looked_up(grams, whole, found + _looked_up(alphas, whole, 0.0))
        return found

    @cached_property
    def histories(self) -> tuple[tuple[Array, Array], ...]:
        """Of each order from 2: ids [histories, columns of the alpha], and [n] the number of each n-gram's history."""
        return tuple(self._histories(order) for order in range(2, self.order + 1))

    def _histories(self, order: int) -> tuple[Array, Array]:
        columns = self.alphas[order - 2].columns
        whole = self.complete(self.grams[order - 1].as_ids())
        rows = np.stack([whole[name] for name in columns], axis=1)
        return distinct(columns, rows)


def _looked_up(table: Table, ids: Ids, default: Any) -> Array:
    at = table.find(np.stack([ids[name] for name in table.columns], axis=1))
    found: Array = np.where(at >= 0, table.values[at] if len(table) else 0.0, default)
    return found
