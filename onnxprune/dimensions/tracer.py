"""What a walk over the operators collects: the factors of every axis, and what is done to them where.

Every tensor has one list of axes where it is made. A tensor that several nodes read has a list of its own at each use,
tied to the first one only afterwards (see `ties`), because some of those ties can be broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, Indices, Size, find, is_one
from onnxprune.dimensions.forest import Forest
from onnxprune.dimensions.values import Values

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]
Axes = list[Factor]
Slot = tuple[str, int]


@dataclass(frozen=True)
class Tie:
    """The axes of a tensor where it is made, and where one of its several readers reads it."""

    tensor: str
    slot: Slot
    made: tuple[Factor, ...]
    read: tuple[Factor, ...]


@dataclass(frozen=True)
class Pinning:
    """A factor that must keep its size."""

    factor: Factor
    why: str


@dataclass(frozen=True)
class Produced:
    """A weight's axis that a contraction leaves in its output."""

    slot: Slot
    axis: int
    factor: Factor


@dataclass(frozen=True)
class Consumed:
    """An axis that a node sums over; `weight` is the slot and axis of the constant operand, if there is one."""

    slot: Slot
    axis: int
    factor: Factor
    op: str
    weight: tuple[Slot, int] | None


@dataclass(frozen=True)
class SizedAttribute:
    """An attribute that names sizes: one number, or a list of them."""

    node: str
    name: str
    factors: tuple[Factor, ...]
    many: bool


def names(text: str) -> frozenset[str]:
    """A set of operators, written as words."""
    return frozenset(text.split())


def key_of(node: gs.Node) -> str:
    """What a node is known by: the first output with a name."""
    return str(next((t.name for t in node.outputs if t.name), node.name))


def label(node: gs.Node) -> str:
    """The node in a reason."""
    return f"{node.op} {node.name or key_of(node)!r}"


@dataclass(frozen=True, eq=False)
class Sink:
    """An operator that states sizes or positions by an input.

    Attributes:
        kind: which input, and how it is restated.
        picks: entries that it takes of an axis.
        order: the axes that its bounds speak of.
    """

    kind: str
    picks: Mapping[int, Indices] = field(default_factory=dict)
    order: tuple[int, ...] = ()


class Tracer:
    """The state of one walk; operators call its methods."""

    def __init__(self, graph: gs.Graph, shapes: Shapes, overridable: frozenset[str]) -> None:
        self.graph = graph
        self.runs = max((len(each) for each in shapes.values()), default=1)
        self.forest = Forest(self.runs)
        self.opset = int(graph.opset or 1)
        self.overridable = overridable
        self.values = Values(shapes, self.runs)
        self.made: dict[str, Axes] = {}
        self.read: dict[Slot, Axes] = {}
        self.ties: list[Tie] = []
        self.pins: list[Pinning] = []
        self.produced: list[Produced] = []
        self.consumed: list[Consumed] = []
        self.batches: list[tuple[Factor, str]] = []
        self.carried: list[Factor] = []
        self.branches: list[tuple[Factor, str]] = []
        self.sized: list[SizedAttribute] = []
        self.sinks: dict[str, Sink] = {}
        self.buried: dict[str, tuple[int, str]] = {}
        self.interface: list[tuple[str, int, Factor, str]] = []
        self.constants: dict[str, gs.Constant] = {}
        self.derived: set[str] = set()
        self._shapes = shapes
        self._readers: dict[str, int] = {}
        self.known: set[str] = {tensor.name for tensor in graph.inputs}
        self._survey()

    def _survey(self) -> None:
        """Count readers, and find what is computed from constants alone."""
        for node in self.graph.nodes:
            fixed = True
            self.known.update(t.name for t in node.outputs)
            for tensor in node.inputs:
                if not tensor.name:
                    continue
                self.known.add(tensor.name)
                if isinstance(tensor, gs.Constant) and tensor.name not in self.overridable:
                    self.constants[tensor.name] = tensor
                elif tensor.name not in self.derived:
                    fixed = False
                if node.op not in {"Shape", "Size"}:
                    self._readers[tensor.name] = self._readers.get(tensor.name, 0) + 1
            if fixed and len(node.inputs) and not node.op.startswith("Random"):
                self.derived.update(t.name for t in node.outputs)

    def is_constant(self, node: gs.Node, index: int) -> bool:
        """Whether an input does not depend on the graph's inputs."""
        tensor = self.tensor(node, index)
        return tensor is not None and (tensor.name in self.constants or tensor.name in self.derived)

    @staticmethod
    def tensor(node: gs.Node, index: int) -> gs.Tensor | None:
        """An input, None where it is left out."""
        if index >= len(node.inputs) or not node.inputs[index].name:
            return None
        return node.inputs[index]

    def shape(self, tensor: gs.Tensor) -> list[Size] | None:
        """One size vector for every axis; None where it was not observed."""
        if isinstance(tensor, gs.Constant):
            return [(int(n),) * self.runs for n in tensor.shape]
        seen = self._shapes.get(tensor.name)
        if seen is None or len(seen) != self.runs or len({len(each) for each in seen}) != 1:
            return None
        return [tuple(int(each[axis]) for each in seen) for axis in range(len(seen[0]))]

    def axes(self, tensor: gs.Tensor) -> Axes:
        """The axes of a tensor of known shape, where it is made."""
        if tensor.name not in self.made:
            sizes = self.shape(tensor)
            self.made[tensor.name] = [self.forest.leaf(size) for size in sizes or ()]
        return self.made[tensor.name]

    def input(self, node: gs.Node, index: int) -> Axes:
        """The axes of an input as this node reads it; empty for an input left out."""
        tensor = self.tensor(node, index)
        if tensor is None:
            return []
        slot = (key_of(node), index)
        if slot not in self.read:
            made = self.axes(tensor)
            if self._readers.get(tensor.name, 0) > 1 and made:
                read = [self.forest.leaf(factor.size) for factor in made]
                self.ties.append(Tie(tensor.name, slot, tuple(made), tuple(read)))
                self.read[slot] = read
            else:
                self.read[slot] = made
        return self.read[slot]

    def output(self, node: gs.Node, index: int = 0) -> Axes:
        """The axes of an output; empty where it is left out or was not observed."""
        if index >= len(node.outputs) or not node.outputs[index].name:
            return []
        return self.axes(node.outputs[index])

    def numbers(self, node: gs.Node, index: int) -> np.ndarray[Any, Any] | None:
        """The value of an integer input where it is known and the same in every run."""
        tensor = self.tensor(node, index)
        return None if tensor is None else self.values.fixed(tensor)

    def unite(self, first: Factor, second: Factor) -> None:
        """Say that two axes are the same index set."""
        self.forest.unite(first, second)

    def unite_all(self, first: Sequence[Factor], second: Sequence[Factor], skip: Iterable[int] = ()) -> None:
        """Unite two lists of axes pairwise, those in `skip` left out."""
        left_out = set(skip)
        for axis, (a, b) in enumerate(zip(first, second, strict=False)):
            if axis not in left_out:
                self.unite(a, b)

    def broadcast(self, axes: Sequence[Factor], output: Sequence[Factor]) -> None:
        """Unite an operand with an elementwise result, aligned at the last axis, single entries aside."""
        for axis, out in zip(reversed(axes), reversed(output), strict=False):
            if not is_one(axis.size):
                self.unite(axis, out)

    def pin(self, factor: Factor, why: str) -> None:
        """Forbid cutting a factor."""
        if not is_one(factor.size):
            self.pins.append(Pinning(factor, why))

    def pin_all(self, node: gs.Node, why: str) -> None:
        """Forbid cutting anything that a node touches."""
        for index in range(len(node.inputs)):
            for factor in self.input(node, index):
                self.pin(factor, why)
        for index in range(len(node.outputs)):
            for factor in self.output(node, index):
                self.pin(factor, why)

    def produce(self, node: gs.Node, index: int, axis: int) -> None:
        """Record that this axis of a constant operand becomes an axis of the output."""
        if self.is_constant(node, index):
            axes = self.input(node, index)
            self.produced.append(Produced((key_of(node), index), axis % len(axes), axes[axis]))

    def consume(self, node: gs.Node, index: int, axis: int, weight: tuple[int, int] | None = None) -> None:
        """Record that the node sums over an axis, against an axis of the input `weight[0]`, if that is constant."""
        axes = self.input(node, index)
        axis %= len(axes)
        if is_one(axes[axis].size):
            return
        key = key_of(node)
        held = None
        if weight is not None and self.is_constant(node, weight[0]):
            held = ((key, weight[0]), weight[1] % len(self.input(node, weight[0])))
        self.consumed.append(Consumed((key, index), axis, axes[axis], node.op, held))

    def branch(self, node: gs.Node, parts: Sequence[Factor]) -> Factor | None:
        """The axis that lays attentions of one head each end to end: heads x width; None where parts are others.

        Every part must be made by a weight of its own, and be carried through a product of two activations.
        """
        roots = [find(part) for part in parts]
        own = {find(each.factor) for each in self.produced} & {find(factor) for factor in self.carried}
        alike = len({root.size for root in roots}) == 1 and roots[0].static and not is_one(roots[0].size)
        if len(roots) < 2 or len(set(roots)) < len(roots) or not alike or not own.issuperset(roots):
            return None
        for root in roots[1:]:
            self.unite(roots[0], root)
        heads = self.forest.leaf((len(roots),) * self.runs)
        self.branches.append((heads, key_of(node)))
        self.batches.append((heads, node.op))
        self.sink(node, "concat")
        return self.forest.product([heads, roots[0]])

    def attribute(self, node: gs.Node, name: str, *factors: Factor, many: bool = False) -> None:
        """Record that an attribute states the size of a factor."""
        self.sized.append(SizedAttribute(key_of(node), name, factors, many))

    def sink(
        self, node: gs.Node, kind: str, picks: Mapping[int, Indices] | None = None, order: Sequence[int] = ()
    ) -> None:
        """Record that the node states sizes of its output, or positions in its input."""
        self.sinks[key_of(node)] = Sink(kind, picks or {}, tuple(order))
