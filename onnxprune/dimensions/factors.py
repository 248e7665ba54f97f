"""Factors: what an axis is made of, kept in classes by union-find.

A factor is a *leaf*, a *product* of factors (outermost first, as a Reshape splits an axis) or a *sum* of factors
(in order, as a Concat lays them end to end). Uniting two factors says that they are the same index set; a split found
later refines the whole class. Sizes are vectors: one entry for each run in which shapes were observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

Size = tuple[int, ...]
Indices = npt.NDArray[np.int64]


class Factor:
    """One node of the union-find forest; `parts` of the representative say how the class is refined."""

    __slots__ = ("op", "parent", "parts", "size")

    def __init__(self, size: Size, op: str = "", parts: tuple[Factor, ...] = ()) -> None:
        self.parent: Factor = self
        self.size = size
        self.op = op
        self.parts = parts

    @property
    def static(self) -> bool:
        """Whether the size is the same in every run."""
        return min(self.size) == max(self.size)


def find(factor: Factor) -> Factor:
    """The representative of the factor's class."""
    root = factor
    while root.parent is not root:
        root = root.parent
    while factor.parent is not root:
        factor.parent, factor = root, factor.parent
    return root


def is_one(size: Size) -> bool:
    """Whether the axis has a single index in every run, so that it holds no factor at all."""
    return max(size) == 1


def times(sizes: Iterable[Size], runs: int) -> Size:
    """Elementwise product over the runs."""
    total = [1] * runs
    for size in sizes:
        total = [a * b for a, b in zip(total, size, strict=True)]
    return tuple(total)


def ratio(whole: Size, part: Size) -> Size | None:
    """`whole / part` where it is a whole number in every run, else None."""
    if any(b == 0 or a % b for a, b in zip(whole, part, strict=True)):
        return None
    return tuple(a // b for a, b in zip(whole, part, strict=True))


def leaves(factor: Factor) -> list[Factor]:
    """Representatives of the leaves, in order; a leaf may occur more than once."""
    out: list[Factor] = []
    stack = [factor]
    while stack:
        root = find(stack.pop())
        if root.op:
            stack.extend(reversed(root.parts))
        else:
            out.append(root)
    return out


def shape_of(factor: Factor) -> str:
    """The form of the tree in text, leaves by size: two factors of the same form number their leaves alike."""
    root = find(factor)
    if not root.op:
        return str(root.size)
    return f"({(' x ' if root.op == 'product' else ' + ').join(shape_of(part) for part in root.parts)})"


def resize(factor: Factor, measure: Callable[[Factor], Size]) -> Size:
    """Size of the factor after every leaf has taken the size that `measure` gives."""
    root = find(factor)
    if not root.op:
        return measure(root)
    sizes = [resize(part, measure) for part in root.parts]
    if root.op == "product":
        return times(sizes, len(root.size))
    return tuple(sum(entries) for entries in zip(*sizes, strict=True))


def positions(factor: Factor) -> dict[Factor, Indices]:
    """Where each leaf's units lie in a static factor: leaf -> [units, k] indices."""
    root = find(factor)
    if not root.op:
        return {root: np.arange(root.size[0], dtype=np.int64).reshape(-1, 1)}
    out: dict[Factor, list[Indices]] = {}
    if root.op == "sum":
        offset = 0
        for part in root.parts:
            for leaf, where in positions(part).items():
                out.setdefault(leaf, []).append(where + offset)
            offset += part.size[0]
    else:
        before, after = 1, root.size[0]
        for part in root.parts:
            size = part.size[0]
            after //= size
            outer = np.arange(before, dtype=np.int64)[:, None] * (size * after)
            inner = np.arange(after, dtype=np.int64)[None, :]
            spread = (outer[:, :, None] + inner[:, None, :]).reshape(-1)  # [before * after]
            for leaf, where in positions(part).items():
                placed = (where[:, :, None] * after + spread[None, None, :]).reshape(len(where), -1)
                out.setdefault(leaf, []).append(placed)
            before *= size
    return {leaf: np.sort(np.concatenate(parts, axis=1), axis=1) for leaf, parts in out.items()}
