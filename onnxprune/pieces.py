"""A model run piece by piece: one stretch of nodes after another, each with the weights of its own and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError
from onnxprune.graph import stored_bytes
from onnxprune.model import FileFields, Model

Run = Callable[[Model, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Piece:
    """Consecutive nodes.

    Attributes:
        reads: tensors that come from before it.
        gives: tensors that are read after it, or are outputs of the model.
        weight_bytes: of its constants.
    """

    nodes: tuple[gs.Node, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    weight_bytes: int


def cut_into_pieces(graph: gs.Graph, limit_bytes: int, sizes: Mapping[str, int] | None = None) -> tuple[Piece, ...]:
    """Stretches of nodes, in order, whose constants take at most `limit_bytes`; a node that alone takes more is one.

    What is computed from constants alone, as packed weights are, is computed where it is first read.

    Args:
        graph: its nodes in an order in which they can run.
        limit_bytes: of the constants of one piece. What several pieces read counts in each.
        sizes: bytes that count, by name: of what is computed from constants, and of constants that take others than
            their own.
    """
    stretches = list(_stretches(_late(graph), limit_bytes, sizes or {}))
    computed = {tensor.name for node in graph.nodes for tensor in node.outputs} | {t.name for t in graph.inputs}
    wanted = {tensor.name for tensor in graph.outputs}
    later: list[frozenset[str]] = []
    for nodes, _ in reversed(stretches):
        later.append(frozenset(wanted))
        wanted |= {name for node in nodes for name in read_by(node)}
    pieces = []
    for (nodes, size), after in zip(stretches, reversed(later), strict=True):
        made = {tensor.name for node in nodes for tensor in node.outputs if tensor.name}
        reads = sorted({name for node in nodes for name in read_by(node)} & computed - made)
        pieces.append(Piece(nodes, tuple(reads), tuple(sorted(made & after)), size))
    return tuple(pieces)


def _late(graph: gs.Graph) -> list[gs.Node]:
    """The nodes in their order, but each that needs constants alone right before the first that reads it."""
    waiting: dict[str, gs.Node] = {}
    order: list[gs.Node] = []

    def place(names: Iterable[str]) -> None:
        for name in names:
            node = waiting.get(name)
            if node is not None:
                for tensor in node.outputs:
                    waiting.pop(tensor.name, None)
                place(tensor.name for tensor in node.inputs)
                order.append(node)

    for node in graph.nodes:
        read = list(_read_tensors(node))
        if read and all(isinstance(tensor, gs.Constant) or tensor.name in waiting for tensor in read):
            waiting |= {tensor.name: node for tensor in node.outputs if tensor.name}
            continue
        place(sorted({tensor.name for tensor in read}))
        order.append(node)
    # Outputs of the graph that depend on no input.
    place(list(waiting))
    return order


def _stretches(
    nodes: Sequence[gs.Node], limit_bytes: int, sizes: Mapping[str, int]
) -> Iterator[tuple[tuple[gs.Node, ...], int]]:
    stretch: list[gs.Node] = []
    held: set[int] = set()
    size = 0
    for node in nodes:
        own = {id(t): sizes.get(t.name, stored_bytes(t)) for t in _read_tensors(node) if isinstance(t, gs.Constant)}
        own |= {id(t): sizes[t.name] for t in node.outputs if t.name in sizes}
        more = sum(each for key, each in own.items() if key not in held)
        if stretch and size + more > limit_bytes:
            yield tuple(stretch), size
            stretch, held, size, more = [], set(), 0, sum(own.values())
        stretch.append(node)
        held |= own.keys()
        size += more
    if stretch:
        yield tuple(stretch), size


def read_by(node: gs.Node) -> set[str]:
    """Names that a node reads, those that its bodies take from around it included."""
    return {tensor.name for tensor in _read_tensors(node) if tensor.name}


def _read_tensors(node: gs.Node) -> Iterator[gs.Tensor]:
    yield from node.inputs
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            own = {t.name for inner in value.nodes for t in inner.outputs} | {t.name for t in value.inputs}
            inside = [t for inner in value.nodes for t in _read_tensors(inner)]
            yield from (tensor for tensor in [*inside, *value.outputs] if tensor.name not in own)


def run_in_pieces(model: Model, pieces: Sequence[Piece], feeds: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Outputs of a model, computed piece by piece; no tensor outlives its last reader.

    Args:
        model: whose graph the pieces were cut from; the types of tensors at their borders are rewritten.
        pieces: in order.
        feeds: by input name.
        run: opens a session of a model, runs it on feeds and lets it go.

    Raises:
        ModelError: a piece does not run, or what lies between two pieces is no tensor.
    """
    outputs = [tensor.name for tensor in model.graph.outputs]
    known = {tensor.name: tensor.values for tensor in model.graph.outputs if isinstance(tensor, gs.Constant)}
    values: dict[str, Any] = {**known, **feeds}
    for at, piece in enumerate(pieces):
        if piece.gives:
            values |= run(alone(model, piece, values), {name: values[name] for name in piece.reads})
        needed = set(outputs).union(*(later.reads for later in pieces[at + 1 :]))
        values = {name: value for name, value in values.items() if name in needed}
    return {name: values[name] for name in outputs}


def alone(model: Model, piece: Piece, values: Mapping[str, Any]) -> Model:
    """A piece as a model of its own.

    Args:
        model: whose nodes they are; the types of what the piece gives are rewritten.
        piece: of it.
        values: of what the piece reads.

    Raises:
        ModelError: what it reads is no tensor.
    """
    tensors = {t.name: t for node in piece.nodes for t in node.outputs}
    inputs = []
    for name in piece.reads:
        value = values[name]
        if not isinstance(value, np.ndarray):
            raise ModelError(f"{name}: is no tensor, so the model cannot be run piece by piece. Allow more memory.")
        inputs.append(gs.Variable(name, dtype=value.dtype, shape=[None] * value.ndim))
    outputs = []
    for name in piece.gives:
        # The runtime infers types; a stale annotation would be refused.
        tensors[name].dtype = tensors[name].shape = None
        outputs.append(tensors[name])
    graph = model.graph
    part = gs.Graph(
        nodes=list(piece.nodes),
        inputs=inputs,
        outputs=outputs,
        name=graph.name,
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )
    # Outside the file: the runtime maps such weights instead of copying them.
    return Model(graph=part, fields=FileFields(external=True))
