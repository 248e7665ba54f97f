"""Residual streams led past what lies between two of their values."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.rewrite import substitute


class Bypass:
    """Takes parts out of a graph in place, in time linear in what goes; `finish` puts the node list together."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._tensors = graph.tensors()
        self._given_out = {id(tensor) for tensor in graph.outputs}
        self._gone: set[int] = set()
        self._stands_for: dict[str, str] = {}

    def past(self, output: str, stream: str, site: str) -> list[gs.Constant]:
        """Let the readers of `output` read `stream`; the constants that go with what nothing reads any more.

        Raises:
            Declined: the graph lacks one of the tensors.
        """
        if output not in self._tensors or stream not in self._tensors:
            raise Declined(f"{site}: the model has no tensors {output!r} and {stream!r}")
        while stream in self._stands_for:
            stream = self._stands_for[stream]
        old, new = self._tensors[output], self._tensors[stream]
        substitute(old, new)
        if id(old) in self._given_out:
            # The name of a graph output must stay: the stream is handed over under it.
            made_by = old.inputs[0]
            place = made_by.outputs.index(old)
            old.inputs.clear()
            self._graph.nodes.append(gs.Node("Identity", name=output, inputs=[new], outputs=[old]))
            made_by.outputs.insert(place, gs.Variable(f"{output}.removed"))
            old = made_by.outputs[place]
        else:
            self._stands_for[output] = new.name
        return self._release(old)

    def finish(self) -> None:
        """Drop the nodes that went."""
        self._graph.nodes = [node for node in self._graph.nodes if id(node) not in self._gone]
        self._graph.cleanup(remove_unused_graph_inputs=False)

    def _release(self, tensor: gs.Tensor) -> list[gs.Constant]:
        """Take out the nodes that only computed a tensor that nothing reads; the constants that go with them."""
        freed: list[gs.Constant] = []
        queue = [tensor]
        while queue:
            unread = queue.pop()
            if unread.outputs or id(unread) in self._given_out:
                continue
            if isinstance(unread, gs.Constant):
                freed.append(unread)
                continue
            for node in list(unread.inputs):
                if any(out.outputs or id(out) in self._given_out for out in node.outputs):
                    continue
                self._gone.add(id(node))
                sources = {id(source): source for source in node.inputs}
                node.inputs.clear()
                queue += sources.values()
        return freed
