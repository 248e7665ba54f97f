"""Whether the runtime decodes packed weights when it makes a session, so that a run costs what it cost before."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import ModelError
from onnxprune.interface import interface_of
from onnxprune.memory import memory_limit
from onnxprune.model import Model, subgraphs
from onnxprune.packing import find_packed
from onnxprune.packing.forms import decoding_bytes
from onnxprune.pieces import alone, read_by, run_in_pieces
from onnxprune.runtime import Feeds, pieces_of, run_piece, save_optimized, takes_too_much, written


@dataclass(frozen=True)
class Decoded:
    """What the runtime made of a packed model.

    Attributes:
        left: tensors that it still computes at every run.
        why: what else differs from the dense model, in words; empty where nothing does.
    """

    left: frozenset[str] = frozenset()
    why: str = ""

    @property
    def whole(self) -> bool:
        """Whether every run is that of the dense model."""
        return not self.left and not self.why


class Decoding:
    """Holds what the runtime makes of candidates against what it makes of one dense model.

    Args:
        dense: the model.
        feeds: on which it runs. Where memory is short, both are opened piece by piece, and it takes a run to tell what
            goes from one piece to the next; whole sessions are opened without them.
    """

    def __init__(self, dense: Model, feeds: Feeds | None = None) -> None:
        self._dense = dense
        self._feeds = feeds
        self._operators: dict[tuple[str, ...], Counter[tuple[str, str]]] = {}

    def of(self, candidate: Model, names: Collection[str]) -> Decoded:
        """What a session of a candidate still computes at every run.

        Args:
            candidate: the dense model with some weights packed.
            names: of what decodes them.
        """
        limit = memory_limit()
        if limit is not None and self._feeds is not None and takes_too_much(self._dense):
            return self._by_pieces(candidate, frozenset(names), limit, self._feeds)
        return self._held(candidate, self._dense, (), names)

    def _by_pieces(self, candidate: Model, names: frozenset[str], limit_bytes: int, feeds: Feeds) -> Decoded:
        """The same of each stretch of nodes that reads packed weights, with what decodes these."""
        dense, packed = self._dense.copy(), candidate.copy()
        forms = {one.tensor.name: one for one in find_packed(packed.graph) if one.tensor.name in names}
        sizes = {name: decoding_bytes(one.form) for name, one in forms.items()}
        pieces = {_outputs(piece.nodes): piece for piece in pieces_of(dense, limit_bytes, sizes)}
        held = {_outputs([node]): node for node in packed.graph.nodes}
        found: list[Decoded] = []

        def run(part: Model, values: Mapping[str, Any]) -> dict[str, Any]:
            key = _outputs(part.graph.nodes)
            nodes = [held[_outputs([node])] for node in part.graph.nodes]
            read = {name for node in nodes for name in read_by(node)} & forms.keys()
            if read:
                wanted = {id(node) for node in nodes} | {id(node) for name in read for node in forms[name].nodes}
                both = tuple(node for node in packed.graph.nodes if id(node) in wanted)
                other = alone(packed, replace(pieces[key], nodes=both), values)
                found.append(self._held(other, part, key, read))
            return run_piece(part, values)

        run_in_pieces(dense, tuple(pieces.values()), interface_of(dense.metadata).fitted(feeds), run)
        left = frozenset[str]().union(*(one.left for one in found))
        return Decoded(left, next((one.why for one in found if one.why), ""))

    def _held(self, candidate: Model, dense: Model, key: tuple[str, ...], names: Collection[str]) -> Decoded:
        """One session's graph held against the other's; that of the dense model is remembered by its key."""
        if key not in self._operators:
            self._operators[key] = Counter(_kinds(_optimized(dense)))
        try:
            graph = _optimized(candidate)
        except ModelError as error:
            return Decoded(why=str(error))
        left = {name for node in graph.node for name in node.output}.intersection(names)
        if left:
            return Decoded(left=frozenset(left))
        operators, before = Counter(_kinds(graph)), self._operators[key]
        if operators != before:
            more, less = operators - before, before - operators
            words = [f"{count} more {_word(kind)}" for kind, count in sorted(more.items())]
            words += [f"{count} fewer {_word(kind)}" for kind, count in sorted(less.items())]
            return Decoded(why=f"the runtime runs other operators: {', '.join(words)}")
        return Decoded()


def _outputs(nodes: Iterable[gs.Node]) -> tuple[str, ...]:
    """The names of what nodes make, which tell them from all others."""
    return tuple(tensor.name for node in nodes for tensor in node.outputs)


def _optimized(model: Model) -> onnx.GraphProto:
    """The graph as a session runs it, less its weights."""
    with written(model) as path, tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        result = Path(folder) / "optimized.onnx"
        save_optimized(path, result)
        return onnx.load(result, load_external_data=False).graph


def _kinds(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for node in graph.node:
        yield node.domain, node.op_type
        for body in subgraphs(node):
            yield from _kinds(body)


def _word(kind: tuple[str, str]) -> str:
    return ".".join(filter(None, kind))
