"""Names: what has none, what shares one, and what nobody reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx

from onnxprune.checking.case import Case
from onnxprune.checking.finding import Spot
from onnxprune.checking.rule import rule
from onnxprune.model.core import subgraphs


@rule(
    "unnamed-node",
    "warning",
    needs="file",
    do="Name the nodes at export: profiles, reports and providers point at nodes by name.",
)
def unnamed_node(case: Case) -> Iterator[Spot]:
    """Nodes have no name, so that no profile or report can point at them."""
    for holder, graph in case.raw.graphs():
        # What is computed from constants alone is folded at load: no profile ever shows it.
        moving = _moving(graph, {info.name for info in case.raw.proto.graph.input} if holder else set())
        unnamed = [node for node in moving if not node.name]
        if unnamed:
            yield Spot(
                f"{described(unnamed[0])}{_inside(holder)}", f"{len(unnamed)} of {len(moving)} nodes have no name"
            )


@rule(
    "duplicate-node-name",
    "warning",
    needs="file",
    do="Give each node a name of its own: tools that look nodes up by name mix them up.",
)
def duplicate_node_name(case: Case) -> Iterator[Spot]:
    """Several nodes of one graph share a name."""
    for holder, graph in case.raw.graphs():
        for name, count in Counter(node.name for node in graph.node if node.name).items():
            if count > 1:
                yield Spot(f"node {name!r}{_inside(holder)}", f"{count} nodes have this name")


@rule(
    "duplicate-tensor-name",
    "error",
    needs="file",
    do="Give each tensor a name of its own: ONNX is in static single assignment form.",
)
def duplicate_tensor_name(case: Case) -> Iterator[Spot]:
    """One name is given to several tensors of a graph."""
    for holder, graph in case.raw.graphs():
        # An initializer may be an input, too: that is how callers override it.
        stored = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
        inputs = Counter(info.name for info in graph.input)
        made = Counter(name for node in graph.node for name in node.output if name)
        for name, count in (Counter(stored) + made).items():
            if name and count > 1:
                yield Spot(f"tensor {name!r}{_inside(holder)}", f"{count} tensors have this name")
        for name, count in inputs.items():
            if count > 1 or (name and name in made):
                yield Spot(f"input {name!r}{_inside(holder)}", f"{count + made[name]} tensors have this name")


@rule(
    "unnamed-tensor",
    "error",
    needs="file",
    do="Name every initializer, input and output: nothing can read what has no name.",
)
def unnamed_tensor(case: Case) -> Iterator[Spot]:
    """An initializer, input or output has no name."""
    for holder, graph in case.raw.graphs():
        for kind, held in (("initializer", graph.initializer), ("input", graph.input), ("output", graph.output)):
            for at, one in enumerate(held):
                if not one.name:
                    yield Spot(f"{kind} {at}{_inside(holder)}", "has no name")


@rule("unused-initializer", "warning", needs="file", do="Remove it: onnxprune optimize MODEL --pass simplify does.")
def unused_initializer(case: Case) -> Iterator[Spot]:
    """A stored tensor is read by no node."""
    for holder, graph in case.raw.graphs():
        read = _read_in(graph) | {info.name for info in graph.output}
        for tensor in graph.initializer:
            if tensor.name and tensor.name not in read:
                yield Spot(f"initializer {tensor.name!r}{_inside(holder)}", f"{_size(case, tensor)} that nothing reads")


@rule("unused-input", "warning", needs="file", do="Export without it, or callers must feed what changes nothing.")
def unused_input(case: Case) -> Iterator[Spot]:
    """A graph input is read by no node."""
    graph = case.raw.proto.graph
    read = _read_in(graph) | {info.name for info in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    for info in graph.input:
        if info.name and info.name not in read and info.name not in stored:
            yield Spot(f"input {info.name!r}", "nothing reads it")


@rule("unused-node", "warning", needs="file", do="Remove it: onnxprune optimize MODEL --pass simplify does.")
def unused_node(case: Case) -> Iterator[Spot]:
    """A node leads to no output."""
    for holder, graph in case.raw.graphs():
        wanted = {info.name for info in graph.output}
        for node in reversed(graph.node):
            if wanted.isdisjoint(node.output):
                yield Spot(f"{described(node)}{_inside(holder)}", "no output depends on it")
            else:
                wanted |= set(node.input) | {name for body in subgraphs(node) for name in _read_in(body, outputs=True)}


def _moving(graph: onnx.GraphProto, outer: set[str]) -> list[onnx.NodeProto]:
    """Nodes whose result changes from run to run: inputs reach them, or nothing that a fold could start from."""
    stored = {tensor.name for tensor in graph.initializer}
    changing = outer | {info.name for info in graph.input} - stored
    found = []
    for node in graph.node:
        bodies = [body for body in subgraphs(node) if _read_in(body, outputs=True) & changing]
        if changing.intersection(node.input) or bodies or (not node.input and node.op_type != "Constant"):
            changing.update(node.output)
            found.append(node)
    return found


def _read_in(graph: onnx.GraphProto, *, outputs: bool = False) -> set[str]:
    """Names that nodes of a graph read, or those of its bodies."""
    read = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for body in subgraphs(node):
            read |= _read_in(body, outputs=True)
    return read | {info.name for info in graph.output} if outputs else read


def described(node: onnx.NodeProto) -> str:
    """A node as the reader can find it: by name, else by its first output."""
    name = node.name or next(filter(None, node.output), "")
    return f"{node.op_type} {name!r}"


def _inside(holder: str) -> str:
    return f" in a body of {holder!r}" if holder else ""


def _size(case: Case, tensor: onnx.TensorProto) -> str:
    held = case.raw.inside(tensor)
    return f"{len(held)} bytes" if held is not None else f"{'x'.join(map(str, tensor.dims)) or 'a number'}"


RULES = (
    unnamed_node,
    duplicate_node_name,
    unnamed_tensor,
    duplicate_tensor_name,
    unused_initializer,
    unused_input,
    unused_node,
)
