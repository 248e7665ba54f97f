"""Whether the runtime decodes packed weights when it makes a session, so that a run costs what it cost before."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.errors import ModelError
from onnxprune.model import Model, subgraphs
from onnxprune.runtime import save_optimized, written


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
    """Holds what the runtime makes of candidates against what it makes of one dense model."""

    def __init__(self, dense: Model) -> None:
        self._dense = dense
        self._operators: Counter[tuple[str, str]] | None = None

    def of(self, candidate: Model, names: Collection[str]) -> Decoded:
        """What a session of a candidate still computes at every run.

        Args:
            candidate: the dense model with some weights packed.
            names: of what decodes them.
        """
        if self._operators is None:
            self._operators = Counter(_kinds(_optimized(self._dense)))
        try:
            graph = _optimized(candidate)
        except ModelError as error:
            return Decoded(why=str(error))
        left = {name for node in graph.node for name in node.output}.intersection(names)
        if left:
            return Decoded(left=frozenset(left))
        operators = Counter(_kinds(graph))
        if operators != self._operators:
            more, less = operators - self._operators, self._operators - operators
            words = [f"{count} more {_word(kind)}" for kind, count in sorted(more.items())]
            words += [f"{count} fewer {_word(kind)}" for kind, count in sorted(less.items())]
            return Decoded(why=f"the runtime runs other operators: {', '.join(words)}")
        return Decoded()


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
