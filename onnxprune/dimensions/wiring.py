"""Editing a node list in place: links are found by identity, insertions keep the data order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import fresh_name
from onnxprune.memory import kept

Array = np.ndarray[Any, Any]


def _forget(links: Any, entry: object) -> None:
    """Remove one link by identity; graphsurgeon compares whole nodes, which is slow and may hit a twin."""
    for at, held in enumerate(links):
        if held is entry:
            list.__delitem__(links, at)
            return


class Wiring:
    """Collects new nodes around the old ones; `finish` writes the node list and drops what nothing reads."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self._taken = set(graph.tensors())
        self._before: dict[int, list[gs.Node]] = {}
        self._after: dict[int, list[gs.Node]] = {}
        self._orphans: list[gs.Tensor] = []

    def connect(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let one input of a node read another tensor."""
        while len(node.inputs) <= index:
            list.append(node.inputs, gs.Variable.empty())
        old = node.inputs[index]
        list.__setitem__(node.inputs, index, tensor)
        _forget(old.outputs, node)
        list.append(tensor.outputs, node)
        self._orphans.append(old)

    def constant(self, name: str, values: Array) -> gs.Constant:
        """A new constant named after what it replaces."""
        return gs.Constant(fresh_name(self.graph, name, self._taken), kept(np.ascontiguousarray(values)))

    def integers(self, name: str, values: Sequence[int]) -> gs.Constant:
        """A new int64 vector."""
        return self.constant(name, np.asarray(values, dtype=np.int64))

    def compute(self, op: str, inputs: Sequence[gs.Tensor], name: str, **attrs: Any) -> tuple[gs.Node, gs.Variable]:
        """A node with one output, not placed yet."""
        out = gs.Variable(fresh_name(self.graph, name, self._taken), dtype=inputs[-1].dtype)
        return gs.Node(op, name=out.name, attrs=attrs, inputs=list(inputs), outputs=[out]), out

    def before(self, node: gs.Node, *new: gs.Node) -> None:
        """Place nodes right before `node`, behind those placed there earlier."""
        self._before.setdefault(id(node), []).extend(new)

    def after(self, node: gs.Node, *new: gs.Node) -> None:
        """Place nodes right after `node`."""
        self._after.setdefault(id(node), []).extend(new)

    def finish(self) -> None:
        """Write the new node list without the nodes that lost their readers."""
        nodes: list[gs.Node] = []
        for node in self.graph.nodes:
            nodes += self._before.get(id(node), [])
            nodes.append(node)
            nodes += self._after.get(id(node), [])
        dead = self._dead()
        self.graph.nodes = [node for node in nodes if id(node) not in dead]

    def _dead(self) -> set[int]:
        given_out = {id(tensor) for tensor in self.graph.outputs}
        captured = _captured(self.graph)
        dead: set[int] = set()
        stack = list(self._orphans)
        while stack:
            tensor = stack.pop()
            if len(tensor.outputs) or not len(tensor.inputs):
                continue
            node = tensor.inputs[0]
            if id(node) in dead or any(
                len(out.outputs) or id(out) in given_out or out.name in captured for out in node.outputs
            ):
                continue
            dead.add(id(node))
            for held in node.inputs:
                _forget(held.outputs, node)
                stack.append(held)
            list.clear(node.inputs)
        return dead


def _captured(graph: gs.Graph) -> set[str]:
    """Names that bodies of control flow read."""
    names: set[str] = set()
    bodies = [value for node in graph.nodes for value in node.attrs.values() if isinstance(value, gs.Graph)]
    while bodies:
        body = bodies.pop()
        names.update(tensor.name for tensor in body.outputs)
        for node in body.nodes:
            names.update(tensor.name for tensor in node.inputs)
            bodies += [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    return names
