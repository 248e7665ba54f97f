"""Uniting factors: the common refinement of two ways to divide one axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxprune.dimensions.factors import Factor, Size, find, is_one, leaves, ratio, shape_of, times


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
