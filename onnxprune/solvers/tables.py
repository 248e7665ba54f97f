"""Low-rank codes of embedding tables, whose rows matter as often as they are looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.solvers.gram import Array, Matrix

# Rows that are brought to double precision at a time.
_BLOCK_ROWS = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class TableFactors:
    """The best codes of a table [rows, d] at every rank.

    Attributes:
        values: [d] Σ over rows of weight · (part of the row along each direction)², falling: what dropping it costs.
        directions: [d, d], orthonormal columns by falling value.
    """

    values: Matrix
    directions: Matrix

    def at(self, table: Array, rank: int) -> tuple[Array, Array]:
        """Codes [rows, rank] and projection [rank, d], float32."""
        encode = self.directions[:, :rank].astype(np.float32)
        return np.asarray(table, np.float32) @ encode, np.ascontiguousarray(encode.T)


def table_factors(table: Array, weights: Array) -> TableFactors:
    """Codes and projection that minimise Σ_v weights_v · ‖e_v - ê_v‖² at each rank.

    Args:
        table: [rows, d].
        weights: [rows], not negative: how much a row's error counts.

    Source: weighted low-rank approximation with separable weights; Srebro and Jaakkola 2003, section 2.
    """
    rows, width = table.shape
    gram = np.zeros((width, width))
    for start in range(0, rows, _BLOCK_ROWS):
        block = np.asarray(table[start : start + _BLOCK_ROWS], np.float64)
        gram += (block * weights[start : start + _BLOCK_ROWS, None]).T @ block
    values, vectors = np.linalg.eigh(gram)
    return TableFactors(values=np.maximum(values[::-1], 0), directions=vectors[:, ::-1])


def allot_by_size(values: Sequence[Array], costs: Sequence[int], budget: int) -> tuple[int, ...]:
    """Ranks of several tables that together keep most, for at most `budget` numbers; at least 1 each.

    Taking the part first that keeps most a number is the optimum up to the last rank taken, since values fall.

    Args:
        values: of each table, falling: what each further rank keeps.
        costs: numbers that one rank of each table takes.
        budget: numbers in all.
    """
    ranks, spent, full = [1] * len(values), sum(costs), set()
    for table in _by_worth(values, costs):
        if table in full:
            continue
        if spent + costs[table] > budget:
            full.add(table)
            continue
        ranks[table] += 1
        spent += costs[table]
    return tuple(ranks)


def allot_by_energy(values: Sequence[Array], costs: Sequence[int], energy: float) -> tuple[int, ...]:
    """Ranks of several tables that together keep this share of the sum of all `values`; at least 1 each.

    Args:
        values: of each table, falling: what each further rank keeps.
        costs: numbers that one rank of each table takes.
        energy: in (0, 1].
    """
    # Rounding must not ask for a rank that keeps nothing.
    wanted = energy * float(sum(part.sum() for part in values)) * (1 - 1e-12)
    ranks, kept = [1] * len(values), float(sum(part[0] for part in values))
    for table in _by_worth(values, costs):
        if kept >= wanted:
            break
        kept += float(values[table][ranks[table]])
        ranks[table] += 1
    return tuple(ranks)


def _by_worth(values: Sequence[Array], costs: Sequence[int]) -> Iterator[int]:
    """Tables in the order in which their second and further ranks keep most a number."""
    worth = np.concatenate([part[1:] / cost for part, cost in zip(values, costs, strict=True)])
    tables = np.repeat(np.arange(len(values)), [len(part) - 1 for part in values])
    yield from (int(tables[at]) for at in np.argsort(-worth, kind="stable"))
