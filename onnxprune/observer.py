"""The runtime as an observer of intermediate tensors: their shapes first, then their values in groups that fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from onnxprune.graph import walk
from onnxprune.interface import interface_of
from onnxprune.model import Model
from onnxprune.rewrite import Rewriter
from onnxprune.runtime import Array, Feeds, Level, Session, open_session, with_outputs


def unobservable(model: Model, names: Collection[str]) -> dict[str, str]:
    """Tensors that a run cannot give out, with the reason."""
    graph = model.graph
    top = {tensor.name for tensor in [*graph.inputs, *(t for node in graph.nodes for t in node.outputs)]}
    inner = {tensor.name for _, node in walk(graph) for tensor in node.outputs} - top
    unknown = set(names) - top - inner
    if unknown:
        raise KeyError(sorted(unknown))
    return dict.fromkeys(sorted(inner.intersection(names)), "it is computed in the body of an If, Loop or Scan")


def observer(model: Model, names: Collection[str], *, threads: int = 1) -> Callable[[Feeds], dict[str, Array]]:
    """What gives the tensors of `names` for one feed, computing only what they need on so many threads."""
    inputs = {tensor.name for tensor in model.graph.inputs}
    computed = frozenset(names) - inputs
    session: Session | None = None
    interface = interface_of(model.metadata)
    if computed:
        copy = with_outputs(model, sorted(computed))
        copy.graph.outputs = [tensor for tensor in copy.graph.outputs if tensor.name in computed]
        copy.graph.cleanup(remove_unused_graph_inputs=False)
        session = open_session(copy, threads=threads)

    def observe(feeds: Feeds) -> dict[str, Array]:
        given = interface.fitted(feeds)
        values = {name: given[name] for name in names if name in inputs}
        return values | session.run(feeds) if session else values

    return observe


def shapes_of(
    model: Model, names: Sequence[str], feeds: Feeds, *, level: Level = "default"
) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors in one run, in which no tensor outlives its last reader."""
    copy = model.copy()
    tensors = copy.graph.tensors()
    writer = Rewriter(copy.graph)
    outputs = {name: writer.variable(f"{name}.shape") for name in names}
    for name, out in outputs.items():
        # Right behind what they read; inputs that only these read stay inputs, the rest of the graph is not computed.
        out.dtype = np.int64
        writer.after(tensors[name], [writer.node("Shape", [tensors[name]], [out])])
    writer.finish()
    copy.graph.outputs = list(outputs.values())
    values = open_session(copy, level=level).run(feeds) if names else {}
    return {name: tuple(int(size) for size in values[out.name]) for name, out in outputs.items()}


def groups(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in groups of at most `limit` bytes each, or of one name; the largest first, each where it fits."""
    groups: list[tuple[int, list[str]]] = []
    for name in sorted(sizes, key=lambda key: (-sizes[key], key)):
        for at, (used, members) in enumerate(groups):
            if used + sizes[name] <= limit:
                groups[at] = (used + sizes[name], [*members, name])
                break
        else:
            groups.append((sizes[name], [name]))
    return [members for _, members in groups]
