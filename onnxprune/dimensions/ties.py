"""Which readers of a shared tensor must be cut with it, and which may take their own slice.

A relative position bias, a rotary table or a deduplicated zero bias is computed once and read in every layer. Were all
readers tied, the heads of all layers would be one dimension. Such a tie is *broken*: the tensor stays whole, and the
reader gets the entries that it kept. A tie stays where breaking it gains nothing or costs too much:

* weights: a reader with its own slice of a shared weight would need a copy of it;
* a tensor whose units are summed over at one of its readers, such as the input of a residual block: its own width
  can go;
* a reader that has no weight of its own for the factor;
* readers that the rest of the graph ties to each other anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onnxprune.dimensions.factors import Factor, find, leaves
from onnxprune.dimensions.readers import separable
from onnxprune.dimensions.tracer import Tie, Tracer

# A refinement may have to travel along a chain of shared tensors; each pass carries it all the way in one direction.
MOST_PASSES = 12


@dataclass
class Facts:
    """What is known of a class of leaves."""

    pins: list[str] = field(default_factory=list)
    interface: list[str] = field(default_factory=list)
    produced: bool = False
    consumed: bool = False
    batch: bool = False

    def absorb(self, other: Facts) -> Facts:
        """Join two classes; the longer list of reasons grows."""
        big, small = (self, other) if len(self.pins) >= len(other.pins) else (other, self)
        big.pins += small.pins
        big.interface += small.interface
        big.produced |= small.produced
        big.consumed |= small.consumed
        big.batch |= small.batch
        return big

    def pinned(self, *, cut_interface: bool) -> bool:
        """Whether the class must keep its size; with `cut_interface`, heads of graph inputs and outputs may go."""
        return bool(self.pins) or bool(self.interface and not (cut_interface and self.batch))


@dataclass(frozen=True)
class Edge:
    """One leaf where a tensor is made and where it is read."""

    made: Factor
    read: Factor
    hard: bool


class Settlement:
    """Decides every tie of a tracer; afterwards `facts` holds what is known of each leaf."""

    def __init__(self, tracer: Tracer, *, cut_interface: bool) -> None:
        self.tracer = tracer
        self.cut_interface = cut_interface
        self.facts: dict[Factor, Facts] = {}
        self.weights = _weight_tensors(tracer)
        ties = [tie for tie in tracer.ties if not self.free(tie)]
        self._refine(ties)
        edges = [edge for tie in ties for edge in self._edges(tie)]
        self._gather_facts()
        self._settle(edges)

    def free(self, tie: Tie) -> bool:
        """Whether readers may always differ: constants that are no weights cost nothing to slice twice."""
        fixed = tie.tensor in self.tracer.constants or tie.tensor in self.tracer.derived
        return fixed and tie.tensor not in self.weights

    def of(self, leaf: Factor) -> Facts:
        """Facts of the leaf's class."""
        return self.facts.setdefault(find(leaf), Facts())

    def _refine(self, ties: list[Tie]) -> None:
        """Split both ends of every tie alike, until nothing splits any more."""
        forest = self.tracer.forest
        order = ties
        for _ in range(MOST_PASSES):
            before = forest.version
            for tie in order:
                for made, read in zip(tie.made, tie.read, strict=True):
                    if forest.pairs(made, read) is None:
                        forest.unite(made, read)
            if forest.version == before:
                return
            order = order[::-1]
        for tie in ties:
            for made, read in zip(tie.made, tie.read, strict=True):
                forest.unite(made, read)

    def _edges(self, tie: Tie) -> list[Edge]:
        edges = []
        hard = tie.tensor in self.weights
        for made, read in zip(tie.made, tie.read, strict=True):
            pairs = self.tracer.forest.pairs(made, read)
            if pairs is None:
                self.tracer.forest.unite(made, read)
            else:
                edges += [Edge(a, b, hard or not separable(made, a)) for a, b in pairs]
        return edges

    def _gather_facts(self) -> None:
        tracer = self.tracer
        pins = [(each.factor, each.why) for each in tracer.pins]
        pins += [(each.factor, each.why) for each in tracer.forest.conflicts]
        for facts, why in self._each(pins):
            facts.pins.append(why)
        for facts, why in self._each([(factor, why) for _, _, factor, why in tracer.interface]):
            facts.interface.append(why)
        for facts, _ in self._each([*((each.factor, "") for each in tracer.produced), *tracer.branches]):
            facts.produced = True
        for facts, _ in self._each([(each.factor, "") for each in tracer.consumed]):
            facts.consumed = True
        for facts, _ in self._each(tracer.batches):
            facts.batch = True

    def _each(self, held: Sequence[tuple[Factor, str]]) -> Iterator[tuple[Facts, str]]:
        for factor, word in held:
            for leaf in leaves(factor):
                yield self.of(leaf), word

    def _merge(self, first: Factor, second: Factor) -> None:
        a, b = find(first), find(second)
        if a is b:
            return
        joined = self.facts.pop(a, Facts()).absorb(self.facts.pop(b, Facts()))
        b.parent = a
        self.facts[a] = joined

    def _is_hard(self, edge: Edge) -> bool:
        made, read = self.of(edge.made), self.of(edge.read)
        if edge.hard or made.consumed or not (read.produced and read.consumed):
            return True
        return made.pinned(cut_interface=self.cut_interface) or read.pinned(cut_interface=self.cut_interface)

    def _settle(self, edges: list[Edge]) -> None:
        while edges:
            soft: list[Edge] = []
            merged = False
            for edge in edges:
                if find(edge.made) is find(edge.read):
                    continue
                if self._is_hard(edge):
                    self._merge(edge.made, edge.read)
                    merged = True
                else:
                    soft.append(edge)
            if not merged:
                merged = self._join_lone_readers(soft)
            if not merged:
                return
            edges = soft

    def _join_lone_readers(self, edges: list[Edge]) -> bool:
        """Keep a tie whose readers all belong to one class."""
        readers: dict[Factor, set[Factor]] = {}
        for edge in edges:
            readers.setdefault(find(edge.made), set()).add(find(edge.read))
        merged = False
        for made, others in readers.items():
            if len(others) == 1:
                self._merge(made, next(iter(others)))
                merged = True
        return merged


def _weight_tensors(tracer: Tracer) -> set[str]:
    """Constant operands of contractions, and what they are computed from through their data inputs."""
    found: set[str] = set()
    makers = {t.name: node for node in tracer.graph.nodes for t in node.outputs if t.name in tracer.derived}
    operands = {produced.slot for produced in tracer.produced}
    for node in tracer.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if (node.outputs[0].name, index) not in operands:
                continue
            name = tensor.name
            while name not in found:
                found.add(name)
                maker = makers.get(name)
                if maker is None or not len(maker.inputs):
                    break
                name = maker.inputs[0].name
    return found
