"""Which entries of every tensor never change, whatever the graph is given.

Zero weights, zero gates and zero gains cut entries off from the inputs; what is computed from such entries and
constants alone is cut off too. Nothing is concluded from what merely happens in a run: values are read off a run only
for entries that have been shown not to change. Entries that depend on the sizes of the inputs count as changing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers
from onnxprune.unchanging.entries import uniform
from onnxprune.unchanging.movement import VIEWS
from onnxprune.unchanging.rules import RULES

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...]]


class Unchanging:
    """Walks a graph once.

    Attributes:
        still: variable -> which entries never change [its shape]; variables without such entries are left out.
        asked: variables whose values in a run would tell more; without them all of these are taken to be zero, so that
            one walk says whether a run is worth it.
    """

    def __init__(
        self,
        graph: gs.Graph,
        shapes: Shapes,
        values: Mapping[str, Array] | None = None,
        *,
        overridable: frozenset[str] = frozenset(),
    ) -> None:
        self.still: dict[str, Array] = {}
        self.asked: dict[str, None] = {}
        self.opset = int(graph.opset or 1)
        self._overridable = overridable
        self._shapes = shapes
        self._values = values
        # Constants and views of them: weights are looked at in place.
        self._known: dict[str, Array] = {}
        for node in graph.nodes:
            self._visit(node)

    def _visit(self, node: gs.Node) -> None:
        if any(t.name not in self._shapes for t in (*node.inputs, *node.outputs[:1]) if t.name and not _fixed(t)):
            return
        if node.op in VIEWS and not node.domain and self.known(node.inputs[0]) is not None:
            self._view(node)
            return
        if node.op == "Split" and not node.domain:
            self._split(node)
            return
        rule = RULES.get((node.domain or "", node.op))
        if rule is None:
            return
        held = rule(self, node)
        if held is not None and held.any():
            self.still[node.outputs[0].name] = np.broadcast_to(held, self.shape(node.outputs[0]))

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Of a tensor, in the run whose shapes were given."""
        return tuple(tensor.shape) if _fixed(tensor) else self._shapes[tensor.name]

    def known(self, tensor: gs.Tensor) -> Array | None:
        """Values of a constant, or of a view of one."""
        if tensor.name in self._overridable:
            return None
        return numbers(tensor) if _fixed(tensor) else self._known.get(tensor.name)

    def of(self, tensor: gs.Tensor) -> Array | None:
        """Which entries never change; None where none is known not to."""
        if self.known(tensor) is not None:
            return np.broadcast_to(np.True_, self.shape(tensor))
        return self.still.get(tensor.name)

    def zero(self, tensor: gs.Tensor) -> Array | None:
        """Which entries are always zero; without a run's values, which may be."""
        known = self.known(tensor)
        if known is not None:
            return np.asarray(known == 0)
        still = self.still.get(tensor.name)
        if still is None:
            return None
        self.asked[tensor.name] = None
        if self._values is None:
            return still
        return np.asarray(still & (self._values[tensor.name] == 0)) if tensor.name in self._values else None

    def alike(self, tensor: gs.Tensor, axis: int) -> Array | None:
        """Which entries never change and are one number along an axis, which stays with size 1."""
        still = self.of(tensor)
        if still is None:
            return None
        held = np.asarray(still.all(axis=axis, keepdims=True))
        values = self.known(tensor)
        if values is None:
            self.asked[tensor.name] = None
            values = self._values.get(tensor.name) if self._values is not None else None
            if values is None:
                return held if self._values is None else None
        return np.asarray(held & uniform(values, axis))

    def _view(self, node: gs.Node) -> None:
        values = self.known(node.inputs[0])
        if values is None:
            return
        out = node.outputs[0]
        if node.op == "Transpose":
            self._known[out.name] = values.transpose(node.attrs.get("perm"))
        else:
            self._known[out.name] = values.reshape(self.shape(out))

    def _split(self, node: gs.Node) -> None:
        held = self.of(node.inputs[0])
        if held is None or any(t.name not in self._shapes for t in node.outputs):
            return
        axis = int(node.attrs.get("axis", 0))
        sizes = [self.shape(out)[axis] for out in node.outputs]
        for out, part in zip(node.outputs, np.split(held, np.cumsum(sizes)[:-1], axis=axis), strict=True):
            if part.any():
                self.still[out.name] = part


def _fixed(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant)
