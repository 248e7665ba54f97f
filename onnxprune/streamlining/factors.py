"""Axes as products of factors, followed through views and permutations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

# An axis's or a factor's size in each run.
Size = tuple[int, ...]


class Factors:
    """What became of a tensor's axes: every axis now is a product of factors of the axes that it had.

    Axes of one entry hold no factor: views put them in and take them out as they like.

    Args:
        axes: sizes of the axes at the start, in each run.
    """

    def __init__(self, axes: Sequence[Size]) -> None:
        self._sizes: dict[int, Size] = {}
        self._new = count()
        self._start = [self._factor(size) for size in axes]
        self._now = [list(axis) for axis in self._start]

    def _factor(self, size: Size) -> list[int]:
        if all(n == 1 for n in size):
            return []
        name = next(self._new)
        self._sizes[name] = size
        return [name]

    def permute(self, order: Sequence[int]) -> None:
        """A Transpose."""
        self._now = [self._now[at] for at in order]

    def view(self, axes: Sequence[Size]) -> bool:
        """A Reshape to axes of these sizes; False where they are no products of factors in their order."""
        left = [name for axis in self._now for name in axis]
        result: list[list[int]] = []
        for size in axes:
            held: list[int] = []
            rest = size
            while any(n != 1 for n in rest):
                if not left:
                    return False
                first = self._sizes[left[0]]
                if _divides(first, rest):
                    rest = _quotient(rest, first)
                    held.append(left.pop(0))
                elif _divides(rest, first):
                    left[:1] = self._split(left[0], rest)
                else:
                    return False
            result.append(held)
        # Splits may have renamed what earlier axes hold; what is left must be nothing.
        self._now = result
        return not left

    def _split(self, name: int, outer: Size) -> list[int]:
        whole = self._sizes.pop(name)
        parts = [next(self._new), next(self._new)]
        self._sizes[parts[0]], self._sizes[parts[1]] = outer, _quotient(whole, outer)
        for axes in (self._start, self._now):
            for axis in axes:
                if name in axis:
                    at = axis.index(name)
                    axis[at : at + 1] = parts
        return parts

    def moves(self, before: Sequence[Size], after: Sequence[Size]) -> list[list[Any]] | None:
        """The fewest Reshapes and a Transpose that lead from the first axes to what they are now.

        Args:
            before: sizes of the axes at the start.
            after: sizes of the axes now.

        Returns:
            `["Transpose", order]` and `["Reshape", target]` in order; None where a target cannot be written down.
        """
        start, now = ([name for axis in axes for name in axis] for axes in (self._start, self._now))
        if start == now:
            if list(before) == list(after):
                return []
            target = _target(before, after)
            return None if target is None else [["Reshape", target]]
        axes, sizes, moves = [list(axis) for axis in self._start], list(before), list[list[Any]]()
        if not _blocks(axes, now):
            axes = _runs(start, now)
            sizes = [self._product(axis) for axis in axes]
            target = _target(before, sizes)
            if target is None:
                return None
            moves.append(["Reshape", target])
        order = sorted(range(len(axes)), key=lambda at: _place(axes, at, now, self._now))
        sizes = [sizes[at] for at in order]
        moves.append(["Transpose", order])
        if sizes != list(after):
            target = _target(sizes, after)
            if target is None:
                return None
            moves.append(["Reshape", target])
        return moves

    def _product(self, names: Sequence[int]) -> Size:
        runs = len(next(iter(self._sizes.values())))
        result = [1] * runs
        for name in names:
            result = [a * b for a, b in zip(result, self._sizes[name], strict=True)]
        return tuple(result)


def _divides(one: Size, other: Size) -> bool:
    return all(a and b % a == 0 for a, b in zip(one, other, strict=True))


def _quotient(one: Size, other: Size) -> Size:
    return tuple(a // b for a, b in zip(one, other, strict=True))


def _blocks(axes: Sequence[Sequence[int]], now: Sequence[int]) -> bool:
    """Whether each axis's factors still stand together in their order."""
    text = list(now)
    return all(not axis or text[text.index(axis[0]) :][: len(axis)] == list(axis) for axis in axes)


def _runs(start: Sequence[int], now: Sequence[int]) -> list[list[int]]:
    """The start's factors in the longest blocks that stay together."""
    follows = dict(pairwise(now))
    blocks: list[list[int]] = []
    for name in start:
        if blocks and follows.get(blocks[-1][-1]) == name:
            blocks[-1].append(name)
        else:
            blocks.append([name])
    return blocks


def _place(
    axes: Sequence[Sequence[int]], at: int, now: Sequence[int], wanted: Sequence[Sequence[int]]
) -> tuple[float, int]:
    """Where an axis goes; one of a single entry goes where one is wanted, or to the front."""
    if axes[at]:
        return (float(list(now).index(axes[at][0])), at)
    # Single entries: the nth goes where the nth wanted one stands.
    nth = sum(not axis for axis in axes[:at])
    places = [place for place, axis in enumerate(wanted) if not axis]
    if nth >= len(places):
        return (-1.0, at)
    before = [name for axis in wanted[: places[nth]] for name in axis]
    return (list(now).index(before[-1]) + 0.5 if before else -0.5, at)


def _target(before: Sequence[Size], after: Sequence[Size]) -> list[int] | None:
    """A Reshape's literal target: sizes that never change, 0 for those of the same axis, -1 for one more."""
    target: list[int] = []
    for at, size in enumerate(after):
        fixed = len(set(size)) == 1 and len(size) > 1
        if fixed and size[0]:
            target.append(size[0])
        elif at < len(before) and before[at] == size:
            target.append(0)
        elif -1 not in target:
            target.append(-1)
        else:
            return None
    return target
