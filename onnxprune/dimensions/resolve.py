"""Turn settled factors into numbered dimensions with their members, producers and consumers."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, find, is_one, leaves
from onnxprune.dimensions.result import (
    CONVOLUTIONS,
    Consumer,
    Dimension,
    Dimensions,
    Kind,
    Layout,
    Member,
    Pin,
    Producer,
)
from onnxprune.dimensions.ties import Facts, Settlement
from onnxprune.dimensions.tracer import Slot, Tracer, key_of

PRODUCTS = frozenset({"Einsum", "FusedMatMul", "MatMul"})


class _Gathering:
    """Members, producers and consumers by leaf."""

    def __init__(self, tracer: Tracer) -> None:
        self.producers: dict[Factor, list[Producer]] = {}
        self.consumers: dict[Factor, list[Consumer]] = {}
        self.normalisers: dict[Factor, dict[str, None]] = {}
        self.queries: dict[Factor, int] = {}
        self.widths: set[Factor] = set()
        self.nodes = {key_of(node): node for node in tracer.graph.nodes}
        self._tracer = tracer
        self._gather()

    def _gather(self) -> None:
        for factor, op in self._tracer.batches:
            held = leaves(factor)
            for at, leaf in enumerate(held):
                self.normalisers.setdefault(leaf, {})[op] = None
                inner = [other.size[0] for other in held[at + 1 :]]
                if inner and leaf.static:
                    self.queries[leaf] = max(self.queries.get(leaf, 1), _times(inner))
        self._gather_producers()
        for consumed in self._tracer.consumed:
            held = leaves(consumed.factor)
            heads = any(leaf in self.normalisers for leaf in held)
            for leaf in dict.fromkeys(held):
                weight, axis = self.root(*consumed.weight, leaf) if consumed.weight else ("", 0)
                self.consumers.setdefault(leaf, []).append(
                    Consumer(consumed.slot[0], consumed.op, consumed.slot[1], consumed.axis, weight, axis)
                )
                if heads or (not consumed.weight and consumed.op in PRODUCTS):
                    self.widths.add(leaf)

    def _gather_producers(self) -> None:
        for produced in self._tracer.produced:
            for leaf in dict.fromkeys(leaves(produced.factor)):
                weight, axis = self.root(produced.slot, produced.axis, leaf)
                node = self.nodes[produced.slot[0]]
                self.producers.setdefault(leaf, []).append(Producer(produced.slot[0], node.op, weight, axis))
        for factor, key in self._tracer.branches:
            for leaf in leaves(factor):
                self.producers.setdefault(leaf, []).append(Producer(key, self.nodes[key].op, "", 0))

    def root(self, slot: Slot, axis: int, leaf: Factor) -> tuple[str, int]:
        """The stored constant behind a constant operand, and the axis of it that holds the leaf."""
        tensor = self.nodes[slot[0]].inputs[slot[1]]
        while tensor.name in self._tracer.derived and len(tensor.inputs) and len(tensor.inputs[0].inputs):
            tensor = tensor.inputs[0].inputs[0]
        axes = self._tracer.made.get(tensor.name, [])
        holding = [at for at, factor in enumerate(axes) if leaf in leaves(factor)]
        if len(holding) == 1:
            axis = holding[0]
        return tensor.name, axis


def _times(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _first_appearances(tracer: Tracer) -> Iterator[Factor]:
    """Every leaf, as its tensors come in data order."""
    for node in tracer.graph.nodes:
        key = key_of(node)
        for index, tensor in enumerate(node.inputs):
            for factor in tracer.read.get((key, index)) or tracer.made.get(tensor.name, []):
                yield from leaves(factor)
        for tensor in node.outputs:
            for factor in tracer.made.get(tensor.name, ()):
                yield from leaves(factor)


def _kind(leaf: Factor, found: _Gathering) -> Kind:
    if leaf in found.normalisers:
        return "heads"
    if leaf in found.widths:
        return "widths"
    ops = {each.op for each in (*found.producers.get(leaf, ()), *found.consumers.get(leaf, ()))}
    return "channels" if ops & CONVOLUTIONS else "neurons"


def _reasons(facts: Facts, found: _Gathering, leaf: Factor, *, cut_interface: bool) -> tuple[str, ...]:
    reasons = list(facts.pins)
    if not (cut_interface and facts.batch):
        reasons += facts.interface
    if leaf not in found.producers:
        reasons.append("no weight produces it")
    if leaf not in found.consumers:
        reasons.append("nothing sums over it")
    return tuple(dict.fromkeys(reasons))


def resolve(tracer: Tracer, settled: Settlement, *, cut_interface: bool) -> Dimensions:
    """Number the leaves that weights produce or consume, in order of first appearance."""
    found = _Gathering(tracer)
    index: dict[Factor, int] = {}
    for leaf in _first_appearances(tracer):
        if leaf in index or not leaf.static or is_one(leaf.size):
            continue
        if leaf in found.producers or leaf in found.consumers:
            index[leaf] = len(index)
    layout = Layout(
        made=tracer.made,
        read=tracer.read,
        ties=tuple(tie for tie in tracer.ties if _differs(tie.made, tie.read)),
        sized=tuple(tracer.sized),
        sinks=tracer.sinks,
        index=index,
        constants=frozenset(tracer.constants),
    )
    members = _members(tracer, layout)
    dimensions = tuple(
        Dimension(
            index=number,
            units=leaf.size[0],
            kind=_kind(leaf, found),
            members=tuple(members.get(number, {}).values()),
            pinned=_reasons(settled.of(leaf), found, leaf, cut_interface=cut_interface),
            producers=tuple(dict.fromkeys(found.producers.get(leaf, ()))),
            consumers=tuple(dict.fromkeys(found.consumers.get(leaf, ()))),
            normalisers=tuple(found.normalisers.get(leaf, ())),
            queries=found.queries.get(leaf, 1),
        )
        for leaf, number in index.items()
    )
    return Dimensions(dimensions, _pin_table(tracer, settled), layout)


def _differs(made: tuple[Factor, ...], read: tuple[Factor, ...]) -> bool:
    return any(leaves(a) != leaves(b) for a, b in zip(made, read, strict=True))


def _axes_of_tensors(tracer: Tracer) -> Iterator[tuple[str, gs.Tensor, int, Factor]]:
    """Every axis where it is made, and of constants also where they are read."""
    for node in tracer.graph.nodes:
        key = key_of(node)
        for slot, tensor in enumerate(node.inputs):
            held = tracer.read.get((key, slot))
            if held is None or tensor.name not in tracer.constants:
                held = tracer.made.get(tensor.name, [])
            for axis, factor in enumerate(held):
                yield tensor.name, tensor, axis, factor
        for tensor in node.outputs:
            for axis, factor in enumerate(tracer.made.get(tensor.name, [])):
                yield tensor.name, tensor, axis, factor


def _members(tracer: Tracer, layout: Layout) -> dict[int, dict[tuple[str, int], Member]]:
    members: dict[int, dict[tuple[str, int], Member]] = {}
    for name, _, axis, factor in _axes_of_tensors(tracer):
        for number, elements in layout.places(factor):
            held = members.setdefault(number, {})
            if (name, axis) not in held:
                held[name, axis] = Member(name, axis, elements, name in tracer.constants)
    return members


def _pin_table(tracer: Tracer, settled: Settlement) -> tuple[Pin, ...]:
    """Axes of stored tensors with a leaf that is pinned."""
    table: dict[tuple[str, int], Pin] = {}
    for name, _, axis, factor in _axes_of_tensors(tracer):
        if name not in tracer.constants or (name, axis) in table:
            continue
        for leaf in leaves(factor):
            facts = settled.facts.get(find(leaf))
            if facts is not None and (facts.pins or facts.interface):
                table[name, axis] = Pin(name, axis, (facts.pins + facts.interface)[0])
                break
    for name, (rank, why) in tracer.buried.items():
        table.update({(name, axis): Pin(name, axis, why) for axis in range(rank)})
    return tuple(table.values())
