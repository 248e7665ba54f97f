"""Editing a graph in place: nodes inserted where the data flows, without sorting the whole graph again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.graph import fresh_name
from onnxprune.memory import kept

Array = np.ndarray[Any, Any]


class Rewriter:
    """Collects insertions and replacements; `finish` puts the node list together.

    New nodes stand right after the producer of what they read, or in place of the node they replace.

    Attributes:
        added_bytes: of all new constants.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        # A body sees the names around it, so that no name of its own may come up again outside.
        self._taken = set(graph.tensors()).union(*(body.tensors() for body in graph.subgraphs(recursive=True)))
        self.added_bytes = 0
        self._shared: dict[tuple[Any, ...], gs.Constant] = {}
        self._after: dict[int, list[gs.Node]] = {}
        self._first: list[gs.Node] = []
        self._instead: dict[int, list[gs.Node]] = {}
        self._order = {id(node): at for at, node in enumerate(graph.nodes)}
        self._keys: dict[int, int] = {}

    def constant(self, name: str, values: Array) -> gs.Constant:
        """A new constant named after what it replaces."""
        array = kept(np.asarray(values, order="C"))
        self.added_bytes += array.nbytes
        return gs.Constant(fresh_name(self.graph, name, self._taken), array)

    def shared(self, name: str, values: Array) -> gs.Constant:
        """A new constant, or the one that was made before of the same name and values."""
        key = (name, values.dtype.str, values.shape, _digest(values))
        if key not in self._shared:
            self._shared[key] = self.constant(name, values)
        return self._shared[key]

    def variable(self, name: str) -> gs.Variable:
        """A new tensor named after what it derives from; its type is left to inference."""
        return gs.Variable(fresh_name(self.graph, name, self._taken))

    def node(
        self, op: str, inputs: Sequence[gs.Tensor], outputs: Sequence[gs.Tensor], domain: str = "", **attrs: Any
    ) -> gs.Node:
        """A node that is not placed yet."""
        return gs.Node(
            op, name=outputs[0].name, attrs=attrs, inputs=list(inputs), outputs=list(outputs), domain=domain or None
        )

    def cast(self, tensor: gs.Tensor, to: int, name: str) -> tuple[gs.Node, gs.Variable]:
        """A Cast to an onnx data type and its output."""
        out = self.variable(name)
        return self.node("Cast", [tensor], [out], to=to), out

    def after(self, tensor: gs.Tensor, nodes: Sequence[gs.Node]) -> None:
        """Place nodes right after the producer of `tensor`, or first where it has none."""
        made_by = tensor.inputs[0] if tensor.inputs else None
        if made_by is None:
            self._first += nodes
            return
        key = self._keys.get(id(made_by), id(made_by))
        self._after.setdefault(key, []).extend(nodes)
        self._keys.update({id(node): key for node in nodes})

    def replace(self, old: gs.Node, new: Sequence[gs.Node]) -> None:
        """Put `new` where `old` stood; the last of `new` takes over the outputs of `old`."""
        outputs = list(old.outputs)
        old.inputs.clear()
        old.outputs.clear()
        new[-1].outputs.clear()
        new[-1].outputs.extend(outputs)
        self._instead[id(old)] = list(new)
        self._keys.update({id(node): id(old) for node in new})

    def before(self, node: gs.Node, new: Sequence[gs.Node]) -> None:
        """Place nodes right before `node`."""
        self._instead[id(node)] = [*new, *self._instead.get(id(node), [node])]

    def finish(self) -> None:
        """Write the new node list; nothing is placed before this."""
        nodes = list(self._first)
        for node in self.graph.nodes:
            nodes += self._instead.get(id(node), [node])
            nodes += self._after.get(id(node), [])
        self.graph.nodes = nodes


def _digest(values: Array) -> bytes:
    """SHA-256 of an array's bytes in their order: a table of them would hold every weight twice."""
    whole = np.ascontiguousarray(values).reshape(-1)
    return hashlib.sha256(whole.view(np.uint8).data if whole.size else b"").digest()


def onnx_type(dtype: np.dtype[Any]) -> int:
    """The number that onnx gives a numpy type."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


def substitute(old: gs.Tensor, new: gs.Tensor, readers: Sequence[gs.Node] | None = None) -> None:
    """Let the readers of `old` (all of them by default) read `new`."""
    for reader in list(old.outputs) if readers is None else readers:
        for slot, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[slot] = new
