"""What tracing finds, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxprune.dimensions.factors import Factor, Indices, find, is_one, leaves, positions
from onnxprune.dimensions.tracer import Axes, Sink, SizedAttribute, Slot, Tie

Kind = Literal["heads", "widths", "channels", "neurons"]
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})


@dataclass(frozen=True, eq=False)
class Member:
    """An axis that holds the units of a dimension.

    Attributes:
        tensor: name of the tensor.
        axis: of the tensor.
        elements: [units, k], which indices of the axis belong to each unit.
        constant: whether the tensor is stored: a weight, a bias, a table.
    """

    tensor: str
    axis: int
    elements: Indices
    constant: bool


@dataclass(frozen=True)
class Producer:
    """A node that computes units from a weight. `weight` is the stored constant, `axis` the units' axis in it.

    A Concat that lays attentions of one head each end to end has no weight.
    """

    node: str
    op: str
    weight: str
    axis: int


@dataclass(frozen=True)
class Consumer:
    """A node that sums units away: input number `input`, axis `axis`; against `weight`, empty where it has none."""

    node: str
    op: str
    input: int
    axis: int
    weight: str
    weight_axis: int


@dataclass(frozen=True, eq=False)
class Dimension:
    """Axes that can only be cut together.

    Attributes:
        index: position in `Dimensions.all`, in order of first appearance.
        units: how many there are.
        kind: heads (batch-like in a softmax or fused attention), widths (inside a head), channels (of convolutions)
            or neurons.
        members: every static axis of every tensor that holds units.
        pinned: why it cannot be cut; empty where it can.
        producers: where units are computed from weights.
        consumers: where units are summed away; masking zeroes them there.
        normalisers: operators in which the units are batch-like: Softmax or a fused attention.
        queries: query heads in each unit; more than one for grouped queries.
    """

    index: int
    units: int
    kind: Kind
    members: tuple[Member, ...]
    pinned: tuple[str, ...]
    producers: tuple[Producer, ...]
    consumers: tuple[Consumer, ...]
    normalisers: tuple[str, ...] = ()
    queries: int = 1

    @property
    def prunable(self) -> bool:
        """Whether units can be cut."""
        return not self.pinned


@dataclass(frozen=True)
class Pin:
    """An axis of a stored tensor that cannot be cut, and the first reason."""

    tensor: str
    axis: int
    why: str


@dataclass(frozen=True, eq=False)
class Layout:
    """The factors behind the dimensions: what a cut needs to carry itself out.

    Attributes:
        made: axes of every tensor where it is made.
        read: axes of every traced input; an entry of its own where a tensor has several readers.
        ties: tensors whose readers may keep other entries than the tensor itself.
        sized: attributes that state sizes.
        sinks: nodes that state sizes or positions by an input.
        index: leaf -> dimension.
        constants: names of stored tensors.
    """

    made: Mapping[str, Axes]
    read: Mapping[Slot, Axes]
    ties: tuple[Tie, ...]
    sized: tuple[SizedAttribute, ...]
    sinks: Mapping[str, Sink]
    index: Mapping[Factor, int]
    constants: frozenset[str]
    _places: dict[Factor, list[tuple[int, Indices]]] = field(default_factory=dict)

    def places(self, factor: Factor) -> list[tuple[int, Indices]]:
        """Dimensions inside a static axis: (index, elements [units, k]) each."""
        root = find(factor)
        if root not in self._places:
            held: list[tuple[int, Indices]] = []
            if root.static and not is_one(root.size):
                held = [(self.index[leaf], where) for leaf, where in positions(root).items() if leaf in self.index]
            self._places[root] = held
        return self._places[root]

    def inside(self, factor: Factor) -> set[int]:
        """Dimensions inside an axis, static or not."""
        return {self.index[leaf] for leaf in leaves(factor) if leaf in self.index}


@dataclass(frozen=True, eq=False)
class Dimensions:
    """Everything that tracing finds in one graph."""

    all: tuple[Dimension, ...]
    pinned: tuple[Pin, ...]
    layout: Layout

    @property
    def prunable(self) -> tuple[Dimension, ...]:
        """Those that can be cut."""
        return tuple(dimension for dimension in self.all if dimension.prunable)
