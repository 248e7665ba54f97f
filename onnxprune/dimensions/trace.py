"""Walk the operators of a graph once and read off its dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxprune.dimensions.operators import handler_of
from onnxprune.dimensions.resolve import resolve
from onnxprune.dimensions.result import Dimensions
from onnxprune.dimensions.ties import Settlement
from onnxprune.dimensions.tracer import Shapes, Tracer, label


def trace(
    graph: gs.Graph,
    shapes: Shapes,
    *,
    overridable: frozenset[str] = frozenset(),
    cut_interface: bool = False,
) -> Dimensions:
    """Find every dimension of a graph: axes that can only be cut together.

    Args:
        graph: weights as constants, nodes in data order. It is not changed.
        shapes: tensor name -> its shape in each of two or three runs whose dynamic axes had sizes co-prime to each
            other and to the weights' sizes. What a missing tensor touches is pinned.
        overridable: initializers that are graph inputs too, so that a caller may replace them.
        cut_interface: whether the heads of graph inputs and outputs, such as key-value caches, may be cut.

    Returns:
        The dimensions in order of first appearance, those that cannot be cut with the reasons.
    """
    tracer = Tracer(graph, shapes, overridable)
    for node in graph.nodes:
        tracer.forest.why = f"{label(node)} mixes it with its neighbours"
        _visit(tracer, node)
    _pin_interface(tracer)
    tracer.forest.why = "two readers divide it differently"
    return resolve(tracer, Settlement(tracer, cut_interface=cut_interface), cut_interface=cut_interface)


def _visit(tracer: Tracer, node: gs.Node) -> None:
    bodies = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    if bodies:
        _pin_captured(tracer, node, bodies)
        return
    handler = handler_of(node)
    if handler is None:
        name = node.op if node.domain in {None, ""} else f"{node.domain}.{node.op}"
        tracer.pin_all(node, f"operator {name!r} is not traced")
        return
    needed = [*(tensor for tensor in node.inputs if tensor.name), *node.outputs[:1]]
    unseen = next((tensor.name for tensor in needed if tracer.shape(tensor) is None), None)
    if unseen is not None:
        tracer.pin_all(node, f"the shape of {unseen!r} was not observed")
        return
    try:
        handler(tracer, node)
    except (IndexError, KeyError, ValueError, ZeroDivisionError) as error:
        tracer.pin_all(node, f"{label(node)} has unusual operands: {type(error).__name__} {error}")


def _pin_captured(tracer: Tracer, node: gs.Node, bodies: list[gs.Graph]) -> None:
    """Pin what a control flow node reads, by its inputs and from inside its bodies."""
    tracer.pin_all(node, f"{label(node)} holds bodies that are not traced")
    names = {tensor.name: tensor for body in bodies for tensor in _mentioned(body)}
    for tensor in names.values():
        if isinstance(tensor, gs.Constant) and tensor.name not in tracer.known:
            tracer.buried[tensor.name] = (len(tensor.shape), f"it is stored in a body of {label(node)}")
        elif tracer.shape(tensor) is not None and tensor.name in tracer.known:
            for factor in tracer.axes(tensor):
                tracer.pin(factor, f"a body of {label(node)} reads it")


def _mentioned(body: gs.Graph) -> Iterator[gs.Tensor]:
    yield from body.outputs
    for node in body.nodes:
        yield from node.inputs
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from _mentioned(value)


def _pin_interface(tracer: Tracer) -> None:
    for kind, tensors in (("input", tracer.graph.inputs), ("output", tracer.graph.outputs)):
        for tensor in tensors:
            if tracer.shape(tensor) is None:
                continue
            for axis, factor in enumerate(tracer.axes(tensor)):
                tracer.interface.append((tensor.name, axis, factor, f"it is an axis of graph {kind} {tensor.name!r}"))
    for name in tracer.overridable:
        for factor in tracer.made.get(name, ()):
            tracer.pin(factor, f"initializer {name!r} is a graph input too")
