"""Embedding tables with all that reads them, and what sample inputs say about their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.calibration import Statistics
from onnxprune.codes import refuse_head
from onnxprune.errors import Declined
from onnxprune.graph import numbers
from onnxprune.low_rank import refuse_shared
from onnxprune.sites import Site
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]

# Each cluster holds so many times the tokens of the one before, as frequencies fall.
GROWTH = 4


@dataclass(frozen=True)
class Table:
    """A table with all that reads it.

    Attributes:
        heads: products with the transposed table, or with a copy of it.
        copies: stored constants of the same numbers, transposed or not, that only heads read.
    """

    site: Site
    weight: Weight
    heads: tuple[Use, ...]
    copies: tuple[Weight, ...]

    @property
    def indices(self) -> frozenset[str]:
        """What its rows are looked up by."""
        gathers = [use.node.inputs[1] for use in self.weight.uses if use.role == "embedding"]
        return frozenset(tensor.name for tensor in gathers if not isinstance(tensor, gs.Constant))


def copies_of(weight: Weight, others: Iterable[Weight]) -> Iterator[Weight]:
    """Stored copies of a table that only heads read: exporters give a tied head its own, transposed."""
    rows, width = weight.constant.shape
    for other in others:
        constant = other.constant
        shape = tuple(constant.shape)
        if other is weight or shape not in {(rows, width), (width, rows)} or constant.dtype != weight.constant.dtype:
            continue
        values, table = numbers(constant), numbers(weight.constant)
        turned = shape == (width, rows) and np.array_equal(values.T, table)
        if not turned and not (shape == (rows, width) and np.array_equal(values, table)):
            continue
        try:
            refuse_shared(other)
            for use in other.uses:
                refuse_head(use, transposed=not turned)
        except Declined:
            continue
        yield other


def counts_of(table: Table, statistics: Statistics | None) -> Array | None:
    """[rows] how often the samples look up each row; None where they do not tell."""
    if statistics is None:
        return None
    rows = int(table.weight.constant.shape[0])
    counts = np.zeros(rows)
    for name in sorted(table.indices & statistics.tokens.keys()):
        tokens, times = statistics.tokens[name]
        # Negative indices count from the end, as in Gather.
        np.add.at(counts, tokens % rows, times)
    return counts if counts.any() else None


def clusters_of(counts: Array, clusters: int) -> list[Array]:
    """Tokens of each cluster, the most frequent first; within one in the table's order."""
    shares = np.cumsum(float(GROWTH) ** np.arange(clusters))
    order = np.argsort(-counts, kind="stable")
    parts = np.split(order, (len(counts) * shares[:-1] / shares[-1]).astype(np.int64))
    return [np.sort(part) for part in parts if len(part)]


def places_of(parts: Sequence[Array]) -> Array:
    """[tokens] each token's row among the rows of all clusters, every one of which ends with a row of its own."""
    places = np.zeros(sum(map(len, parts)), np.int64)
    start = 0
    for part in parts:
        places[part] = start + np.arange(len(part))
        start += len(part) + 1
    return places.astype(np.uint16 if start <= np.iinfo(np.uint16).max else np.uint32)
