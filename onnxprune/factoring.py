"""Factors of linears: by which method, how many, and which linears share the left one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onnxprune.errors import Declined
from onnxprune.graph import elements
from onnxprune.linears import Linear, Seen
from onnxprune.low_rank import refuse_constant
from onnxprune.model import Model
from onnxprune.progress import Progress, Turn
from onnxprune.sharing import each
from onnxprune.solvers.lowrank import (
    Factors,
    asvd_factors,
    break_even_rank,
    fisher_factors,
    rank_for_ratio,
    sharing_pays,
    svd_factors,
    whitened_factors,
)
from onnxprune.solvers.reconstruction import bias_gain

Array = np.ndarray[Any, Any]
Method = Literal["asvd", "fwsvd", "svd", "svd-llm"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """How much of each linear stays; one of the three is set.

    Attributes:
        energy: the least share of the squared singular values that a pair keeps, as the method weighs them.
        ratio: the largest share of the numbers that a pair holds.
        rank: of every pair.
    """

    energy: float | None = None
    ratio: float | None = None
    rank: int | None = None

    def rank_of(self, factors: Factors, k: int, n: int) -> int:
        """The rank of a pair that stands for [k, n]."""
        if self.energy is not None:
            return factors.rank_for_energy(self.energy)
        if self.ratio is not None:
            # A small share of a small weight is one direction, not none.
            return max(rank_for_ratio(self.ratio, k, n), int(self.ratio > 0))
        return self.rank or 0

    def __str__(self) -> str:
        """As the option that set it."""
        return next(f"{name}={value}" for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True, eq=False)
class Pair:
    """Factors that stand for one linear, or for several side by side that read the same input.

    Attributes:
        left: [k, rank].
        right: [rank, n of all linears].
        gains: [readers, n of all linears] what the outputs gain for equal means; None without sample inputs.
    """

    linears: tuple[Linear, ...]
    left: Array
    right: Array
    gains: Array | None

    @property
    def rank(self) -> int:
        """Columns of `left`."""
        return int(self.left.shape[1])

    @property
    def columns(self) -> int:
        """Output features of all linears."""
        return int(self.right.shape[1])


def decompose(method: Method, matrix: Array, seen: Sequence[Seen], fisher: Array | None = None) -> Factors:
    """Factors of a weight [k, n] whose readers take in what was `seen`, and whose gradients are `fisher`."""
    if method == "fwsvd" and fisher is not None:
        return fisher_factors(matrix, fisher)
    if method == "svd" or not seen:
        return svd_factors(matrix)
    rows = sum(one.rows for one in seen)
    if not rows:
        raise Declined("no sample holds a row that it reads")
    if method == "asvd":
        return asvd_factors(matrix, np.sum([one.mean_abs * (one.rows / rows) for one in seen], axis=0))
    # Each reader has a bias of its own that takes up its mean.
    moments = [(one.gram - np.outer(one.mean, one.mean)) * (one.rows / rows) for one in seen if one.gram is not None]
    return whitened_factors(matrix, np.sum(moments, axis=0))


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A weight that is to be decomposed: plain data, as `decompose` takes it."""

    method: Method
    matrix: Array
    seen: tuple[Seen, ...]
    fisher: Array | None = None


def factors_in_turn(
    method: Method, linears: Sequence[Linear], seen: Callable[[Linear], tuple[Seen, ...]], progress: Progress
) -> Iterator[Callable[[], Factors]]:
    """Of each linear alone, what is called for its factors; it raises Declined where there are none."""

    def works() -> Iterator[Decomposition | str]:
        for at, linear in enumerate(linears, 1):
            progress(Turn(f"decompose {linear.weight.constant.name}", at, len(linears), kind="factor"))
            try:
                yield Decomposition(method, linear.matrix, seen(linear), linear.fisher)
            except Declined as reason:
                yield str(reason)

    return each(decomposed, works())


def decomposed(work: Decomposition | str) -> Factors:
    """Factors of a weight.

    Raises:
        Declined: there are none; text is the reason that was known before.
    """
    if isinstance(work, str):
        raise Declined(work)
    return decompose(work.method, work.matrix, work.seen, work.fisher)


class Solver:
    """Solves linears, alone or together, for one goal."""

    def __init__(self, method: Method, goal: Goal, model: Model, seen: Callable[[Linear], tuple[Seen, ...]]) -> None:
        self.method = method
        self.goal = goal
        self._model = model
        self._seen = seen

    def alone(self, linear: Linear, factors: Factors) -> Pair:
        """A pair for one linear of its factors.

        Raises:
            Declined: the goal's rank saves nothing.
        """
        return self._pair((linear,), factors, self.goal.rank_of(factors, *linear.matrix.shape))

    def together(
        self, linears: Sequence[Linear], apart: Mapping[str, Factors], costs: Mapping[str, int]
    ) -> Pair | None:
        """A pair with one left factor for linears that read the same input; None where it does not pay.

        It pays where it meets an energy for every one of them with fewer numbers, or misses less of their outputs, each
        as a share of its own, in as many numbers. A rank that was given is each linear's own.

        Args:
            linears: each with a single reader.
            apart: each one's factors, by weight.
            costs: numbers that each one takes alone, by weight.
        """
        if self.goal.rank is not None:
            return None
        names = [linear.weight.constant.name for linear in linears]
        columns = [linear.matrix.shape[1] for linear in linears]
        # Each counts as much as the others, however large its outputs are.
        wholes = [float(np.linalg.norm(apart[name].values)) or 1.0 for name in names]
        wide = np.concatenate([one.matrix / whole for one, whole in zip(linears, wholes, strict=True)], axis=1)
        gradients = [one.fisher for one in linears if one.fisher is not None]
        shared = decompose(
            self.method, wide, self._seen(linears[0]), np.concatenate(gradients, axis=1) if gradients else None
        )
        k, n = wide.shape
        if self.goal.ratio is not None:
            parts = zip(names, wholes, strict=True)
            scaled = [replace(apart[name], values=apart[name].values / whole) for name, whole in parts]
            if not sharing_pays(scaled, shared, self.goal.ratio):
                return None
            rank = self.goal.rank_of(shared, k, n)
        else:
            rank = _rank_for_each(shared, columns, self.goal.energy or 0.0)
            if rank * (k + n) >= sum(costs[name] for name in names):
                return None
        try:
            return self._pair(tuple(linears), replace(shared, right=shared.right * np.repeat(wholes, columns)), rank)
        except Declined:
            return None

    def _pair(self, linears: tuple[Linear, ...], factors: Factors, rank: int) -> Pair:
        wide = np.concatenate([one.matrix for one in linears], axis=1)
        k, n = wide.shape
        most = break_even_rank(k, n)
        if rank > most:
            raise Declined(f"{self.goal} is rank {rank} of {k}x{n}: a pair saves nothing above {most}")
        if rank == 0:
            for linear in linears:
                for use in linear.weight.uses:
                    refuse_constant(use, self._model)
        left, right = factors.at(rank)
        seen = self._seen(linears[0])
        gains = np.array([bias_gain(wide, left @ right, one.mean) for one in seen]) if seen else None
        return Pair(linears, left, right, gains)


def _rank_for_each(shared: Factors, columns: Sequence[int], energy: float) -> int:
    """The least rank that keeps this share of every block of columns."""
    directions = np.square(shared.right) / np.maximum(np.square(shared.right).sum(axis=1, keepdims=True), 1e-300)
    parts = np.square(shared.values)[:, None] * np.add.reduceat(directions, np.cumsum([0, *columns[:-1]]), axis=1)
    missed = parts.sum(axis=0) - np.cumsum(parts, axis=0)
    short = (missed > (1 - energy + 1e-12) * parts.sum(axis=0)).any(axis=1)
    return int(short.sum()) + 1 if parts.any() else 0


def groups(linears: Sequence[Linear], *, joint: bool) -> list[list[Linear]]:
    """Linears that read the same input through one product each, in data order; others alone."""
    held: dict[Any, list[Linear]] = {}
    for linear in linears:
        uses = linear.weight.uses
        alone = not joint or len(uses) > 1 or uses[0].role != "linear"
        held.setdefault(linear.weight.constant.name if alone else linear.sources[0], []).append(linear)
    return list(held.values())


def numbers_of(pair: Pair) -> int:
    """Numbers in both factors."""
    return int(pair.left.size + pair.right.size)


def numbers_apart(linear: Linear) -> int:
    """Numbers in a linear as it is."""
    return elements(linear.weight.constant)
