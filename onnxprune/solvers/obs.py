"""Structured optimal brain surgeon: which units go first, where those that stay are refitted after each removal.

The weights themselves are not updated on the way. A removal's score needs, of the inverse second moment P = H⁻¹ and of
K = W·Wᵀ, only the blocks of the unit on the diagonal: tr(W_Sᵀ·P_SS⁻¹·W_S) = tr(P_SS⁻¹·K_SS). Both matrices change by a
few columns at each removal, which are gathered and applied many at a time; both are computed anew, from the definition,
whenever two fifths of the rows have gone, which frees their place and the rounding that has piled up. For a square
weight the cost is some 6·k³ multiplications, nearly all in matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, solve_triangular

from onnxprune.solvers.gram import DAMPING, Array, Matrix, centred, damped, dead_inputs, inverse

# Columns gathered before they are applied: few enough to stay in the cache, enough for matrix products.
_GATHERED = 64
# Rows that are gone are dropped from the matrices, and these computed anew, below this share of rows.
_REBUILD_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """One linear that takes in the units.

    Attributes:
        weight: [k, n], applied as x @ weight.
        gram: [k, k], E[xᵀx] over the rows; several consumers' on one scale.
        groups: [units, g], the inputs that belong to each unit; disjoint. Inputs in no group always stay.
        mean: [k] E[x] where a bias may absorb it: then only what varies counts. None: no bias.
    """

    weight: Array
    gram: Array
    groups: Array
    mean: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """Every level of one greedy pass.

    Attributes:
        units: [units] in the order of removal.
        losses: [units] after each removal, the refitted output's error in all: ‖X(W - Ŵ)‖² / ‖XW‖², the ridge counted
            on both sides. Never falls; 1 at the end where every input belongs to a unit.
    """

    units: tuple[int, ...]
    losses: Matrix


def removal_order(
    weight: Array, gram: Array, groups: Array, *, mean: Array | None = None, damping: float = DAMPING
) -> Order:
    """The order in which units of one linear are best removed, and the error after each removal.

    Args:
        weight: [k, n], applied as x @ weight.
        gram: [k, k], E[xᵀx]; without a mean, any multiple.
        groups: [units, g], the inputs of each unit.
        mean: [k] E[x], where a bias may absorb it.
        damping: share of the mean diagonal that is added to it.

    Source: Kurtic, Frantar, Alistarh 2023, ZipLM, section 3.1; Frantar and Alistarh 2022, Optimal Brain Compression.
    """
    return joint_removal_order([Consumer(weight=weight, gram=gram, groups=groups, mean=mean)], damping=damping)


def joint_removal_order(consumers: Sequence[Consumer], *, damping: float = DAMPING) -> Order:
    """As `removal_order`, of units that several linears take in: their errors add up."""
    states = [_State(consumer, damping) for consumer in consumers]
    count = len(consumers[0].groups)
    energy = sum(state.energy for state in states)
    alive = np.ones(count, dtype=bool)
    order: list[int] = []
    losses = np.zeros(count)
    lost = 0.0
    for step in range(count):
        for state in states:
            state.rebuild_where_due(alive)
        score = np.where(alive, sum(state.scores(alive) for state in states), np.inf)
        unit = int(np.argmin(score))
        lost += float(score[unit])
        order.append(unit)
        losses[step] = lost / energy if energy > 0 else 0.0
        alive[unit] = False
        for state in states:
            state.remove(unit)
    return Order(units=tuple(order), losses=losses)


class _State:
    """P and K of one consumer, less the rows that have gone."""

    def __init__(self, consumer: Consumer, damping: float) -> None:
        covariance = centred(consumer.gram, consumer.mean)
        weight = np.array(consumer.weight, dtype=np.float64)
        # What never moves costs nothing: a bias takes over its part, or there is none.
        weight[dead_inputs(consumer.gram, covariance)] = 0
        self._hessian, _ = damped(covariance, damping)
        self._groups = np.asarray(consumer.groups, dtype=np.intp)
        self._weight = weight
        self._product = self._hessian @ weight
        self.energy = float(np.vdot(weight, self._product))
        self._fixed = np.ones(len(weight), dtype=bool)
        self._fixed[self._groups.ravel()] = False
        self._rows = 0
        self._left = 0

    def rebuild_where_due(self, alive: Array) -> None:
        """Compute P, K and their diagonal blocks from the definition, where enough rows have gone."""
        first = not self._rows
        if not first and self._left > self._rows * _REBUILD_SHARE:
            return
        stays = self._fixed.copy()
        stays[self._groups[alive].ravel()] = True
        rows = np.flatnonzero(stays)
        self._rows = self._left = len(rows)
        hessian = self._hessian if first else np.asfortranarray(self._hessian[np.ix_(rows, rows)])
        self._inverse = inverse(hessian)
        # Least squares on the rows that stay is what the sequence of updates would have come to.
        weight = self._weight if first else blas.dsymm(1.0, self._inverse, self._product[rows], lower=1)
        self._energies = blas.dsyrk(1.0, np.asfortranarray(weight), lower=1)
        self._places = (np.cumsum(stays) - 1)[self._groups]
        self._inverse_blocks = _diagonal(self._inverse, self._places, alive)
        self._energy_blocks = _diagonal(self._energies, self._places, alive)
        width = max(_GATHERED, self._groups.shape[1])
        self._gathered = 0
        self._roots, self._columns, self._others = (np.zeros((width, self._rows)) for _ in range(3))

    def scores(self, alive: Array) -> Matrix:
        """[units] the error that removing each unit adds, after the best refit."""
        found = np.zeros(len(alive))
        inverses, energies = self._inverse_blocks[alive], self._energy_blocks[alive]
        if self._groups.shape[1] == 1:
            found[alive] = energies[:, 0, 0] / inverses[:, 0, 0]
        else:
            found[alive] = np.trace(np.linalg.solve(inverses, energies), axis1=1, axis2=2)
        return np.maximum(found, 0)

    def remove(self, unit: int) -> None:
        """Take a unit's rows out: P loses U·Uᵀ, K loses C·Dᵀ + D·Cᵀ."""
        at = self._places[unit]
        size = len(at)
        if self._gathered + size > len(self._roots):
            self._apply()
        done = slice(0, self._gathered)
        inverse_rows = _rows_of(self._inverse, at) - self._roots[done, at].T @ self._roots[done]
        energy_rows = _rows_of(self._energies, at)
        energy_rows -= self._columns[done, at].T @ self._others[done] + self._others[done, at].T @ self._columns[done]
        factor = np.linalg.cholesky(self._inverse_blocks[unit])
        root = solve_triangular(factor, inverse_rows, lower=True, check_finite=False)
        column = solve_triangular(factor, root, lower=True, trans="T", check_finite=False)
        other = energy_rows - self._energy_blocks[unit] @ column / 2
        new = slice(self._gathered, self._gathered + size)
        self._roots[new], self._columns[new], self._others[new] = root, column, other
        self._gathered += size
        self._left -= size
        self._inverse_blocks -= _outer(root, root, self._places)
        change = _outer(column, other, self._places)
        self._energy_blocks -= change + change.transpose(0, 2, 1)

    def _apply(self) -> None:
        """Bring P and K up to date with all that was gathered."""
        done = slice(0, self._gathered)
        columns, others = self._columns[done].T, self._others[done].T
        self._inverse = blas.dsyrk(-1.0, self._roots[done].T, beta=1.0, c=self._inverse, lower=1, overwrite_c=1)
        self._energies = blas.dsyr2k(-1.0, columns, others, beta=1.0, c=self._energies, lower=1, overwrite_c=1)
        self._gathered = 0


def _rows_of(lower: Matrix, at: Array) -> Matrix:
    """Rows [g, k] of a symmetric matrix of which only the lower triangle is kept."""
    found = np.empty((len(at), len(lower)))
    for row, place in zip(found, at, strict=True):
        row[:place] = lower[place, :place]
        row[place:] = lower[place:, place]
    return found


def _diagonal(lower: Matrix, places: Array, alive: Array) -> Matrix:
    """[units, g, g] blocks on the diagonal; the identity for units that have gone."""
    blocks = np.tile(np.eye(places.shape[1]), (len(places), 1, 1))
    held = places[alive]
    row, column = held[:, :, None], held[:, None, :]
    blocks[alive] = lower[np.maximum(row, column), np.minimum(row, column)]
    return blocks


def _outer(left: Matrix, right: Matrix, places: Array) -> Matrix:
    """[units, g, g] blocks on the diagonal of leftᵀ·right, each [size, k]."""
    if places.shape[1] == 1:
        at = places[:, 0]
        return np.asarray((left[0, at] * right[0, at])[:, None, None])
    return np.asarray(left[:, places].transpose(1, 2, 0) @ right[:, places].transpose(1, 0, 2))
