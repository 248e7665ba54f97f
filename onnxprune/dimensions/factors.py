"""Factors: what an axis is made of, kept in classes by union-find.

A factor is a *leaf*, a *product* of factors (outermost first, as a Reshape splits an axis) or a *sum* of factors
(in order, as a Concat lays them end to end). Uniting two factors says that they are the same index set; a split found
later refines the whole class. Sizes are vectors: one entry for each run in which shapes were observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Conflict:
    """Factors whose boundaries do not nest, so that none of them can be cut."""

    factor: Factor
    why: str


class Forest:
    """Makes factors and unites them; what cannot be reconciled is collected in `conflicts`.

    Attributes:
        runs: length of every size vector.
        why: reason that a conflict found from now on carries.
        version: grows whenever a leaf is refined, so that a caller can wait for a fixed point.
    """

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.why = ""
        self.version = 0
        self.conflicts: list[Conflict] = []

    def leaf(self, size: Size) -> Factor:
        """A new class of the given size."""
        return Factor(size)

    def product(self, parts: Sequence[Factor]) -> Factor:
        """The factor whose index runs over all parts, the first outermost."""
        many = tuple(part for part in parts if not is_one(part.size))
        if len(many) == 1:
            return many[0]
        return Factor(times((p.size for p in many), self.runs), "product" if many else "", many)

    def sum(self, parts: Sequence[Factor]) -> Factor:
        """The factor whose index runs through the parts one after another."""
        some = tuple(part for part in parts if max(part.size) > 0)
        if len(some) == 1:
            return some[0]
        size = tuple(sum(entries) for entries in zip(*(p.size for p in some), strict=True))
        return Factor(size, "sum", some)

    def split_product(self, factor: Factor, sizes: Sequence[Size]) -> list[Factor]:
        """Refine the factor into a product of new factors of these sizes and return those."""
        parts = [self.leaf(size) for size in sizes]
        self.unite(factor, self.product(parts))
        return parts

    def split_sum(self, factor: Factor, sizes: Sequence[Size]) -> list[Factor]:
        """Refine the factor into segments of these sizes and return those."""
        parts = [self.leaf(size) for size in sizes]
        self.unite(factor, self.sum(parts))
        return parts

    def unite(self, first: Factor, second: Factor) -> None:
        """Say that both are the same index set, refining both to their common refinement."""
        a, b = find(first), find(second)
        if a is b:
            return
        if a.size != b.size:
            self.clash([a, b])
            return
        if is_one(a.size):
            return
        if not a.op or not b.op:
            a, b = (b, a) if a.op else (a, b)
            self.version += bool(b.op)
            a.parent = b
        elif a.op == b.op == "product":
            self.match(a.parts, b.parts)
            self._point(b, a)
        elif a.op == b.op == "sum":
            self._match_sums(a, b)
            self._point(b, a)
        else:
            a, b = (a, b) if a.op == "product" else (b, a)
            self._lay_sum_on_product(a, b)
            self._point(b, a)

    def match(self, outer_first: Sequence[Factor], others: Sequence[Factor]) -> None:
        """Unite two sequences that number the same elements in row-major order."""
        left, right = list(reversed(outer_first)), list(reversed(others))
        while left and right:
            a, b = self._pop(left), self._pop(right)
            if a is None or b is None:
                right.extend([b] if b is not None else [])
                left.extend([a] if a is not None else [])
                continue
            if a.size == b.size:
                self.unite(a, b)
            elif (inner := ratio(a.size, b.size)) is not None:
                left.extend(self._carve(a, b, inner))
            elif (inner := ratio(b.size, a.size)) is not None:
                right.extend(self._carve(b, a, inner))
            else:
                self._give_up(a, b, left, right)
        rest = [f for f in (*left, *right) if not is_one(f.size)]
        if rest:
            self.clash(rest)

    def clash(self, factors: Iterable[Factor]) -> None:
        """Record that these cannot be cut, for the current reason."""
        self.conflicts.extend(Conflict(factor, self.why) for factor in factors)

    def pairs(self, first: Factor, second: Factor) -> list[tuple[Factor, Factor]] | None:
        """Refine both alike without uniting them; their leaves side by side, None where the forms disagree."""
        a, b = find(first), find(second)
        if a is b:
            return []
        if shape_of(a) != shape_of(b):
            copies: dict[Factor, Factor] = {}
            self.unite(self._copy(a, copies), b)
            for leaf, copy in copies.items():
                if find(copy).op:
                    self.unite(leaf, self._copy(copy, {}))
            if shape_of(a) != shape_of(b):
                return None
        return list(zip(leaves(a), leaves(b), strict=True))

    def _copy(self, factor: Factor, copies: dict[Factor, Factor]) -> Factor:
        root = find(factor)
        if root.op:
            return Factor(root.size, root.op, tuple(self._copy(part, copies) for part in root.parts))
        if root not in copies:
            copies[root] = Factor(root.size)
        return copies[root]

    @staticmethod
    def _point(child: Factor, parent: Factor) -> None:
        child, parent = find(child), find(parent)
        if child is not parent:
            child.parent = parent

    @staticmethod
    def _pop(stack: list[Factor]) -> Factor | None:
        while stack:
            root = find(stack.pop())
            if root.op == "product":
                stack.extend(reversed(root.parts))
            elif not is_one(root.size):
                return root
        return None

    def _carve(self, big: Factor, outer: Factor, inner: Size) -> list[Factor]:
        """Split `big` into `outer` and an inner rest, which is returned."""
        if big.op == "sum" and any(ratio(part.size, inner) is None for part in big.parts):
            rest = self.leaf(inner)
            self.clash([big, outer, rest])
            return [rest]
        head, tail = self.split_product(big, [outer.size, inner])
        self.unite(head, outer)
        return [tail]

    def _give_up(self, a: Factor, b: Factor, left: list[Factor], right: list[Factor]) -> None:
        """No boundary in common here: pin everything up to the next one."""
        lefts, rights = [a], [b]
        while (pa := times((f.size for f in lefts), self.runs)) != (
            pb := times((f.size for f in rights), self.runs)
        ) and (left or right):
            side, stack = (lefts, left) if (sum(pa) <= sum(pb) and left) or not right else (rights, right)
            more = self._pop(stack)
            if more is not None:
                side.append(more)
        self.clash([*lefts, *rights])

    def _match_sums(self, a: Factor, b: Factor) -> None:
        left, right = list(reversed(a.parts)), list(reversed(b.parts))
        while left and right:
            x, y = find(left.pop()), find(right.pop())
            if x.size == y.size:
                self.unite(x, y)
            elif all(i <= j for i, j in zip(x.size, y.size, strict=True)):
                head, tail = self._cut_off(y, x)
                self.unite(head, x)
                right.append(tail)
            elif all(i >= j for i, j in zip(x.size, y.size, strict=True)):
                head, tail = self._cut_off(x, y)
                self.unite(head, y)
                left.append(tail)
            else:
                self.clash([x, y, *left, *right])
                return

    def _cut_off(self, long: Factor, short: Factor) -> list[Factor]:
        rest = tuple(i - j for i, j in zip(long.size, short.size, strict=True))
        return self.split_sum(long, [short.size, rest])

    def _lay_sum_on_product(self, product: Factor, total: Factor) -> None:
        """(a + b)·inner = a·inner + b·inner, where every segment is a multiple of the inner size."""
        inner = product.parts[1:]
        width = times((part.size for part in inner), self.runs)
        counts = [ratio(part.size, width) for part in total.parts]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            self.clash([product, total])
            return
        parts = total.parts
        heads = self.split_sum(product.parts[0], known)
        for part, head in zip(parts, heads, strict=True):
            self.unite(part, self.product([head, *inner]))


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
