"""Whole layers, and which of them are alike: the same operators on weights of the same shapes, whatever their names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.blocks import Block, Shapes
from onnxprune.graph import elements, is_floating, numbers, producer

_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "ConvTranspose", "FusedConv", "Attention"}
_VIEWS = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"}
# Nodes between a residual sum and what the next block reads: a normalisation is at most so many.
_LONGEST_LINK = 24


@dataclass(frozen=True)
class Layer:
    """Blocks that stand for one layer.

    Attributes:
        blocks: in data order: attention, then feed-forward.
        start: name of the tensor that it reads.
        end: name of what the next layer reads: its last sum, or that normalised.
    """

    blocks: tuple[Block, ...]
    start: str
    end: str


@dataclass(frozen=True)
class Held:
    """A stored tensor of a layer.

    Attributes:
        name: of the constant.
        matrix: whether it is the weight or the bias of a product; gains of norms and tables are not.
    """

    name: str
    matrix: bool


@dataclass(frozen=True)
class Anatomy:
    """What a layer is made of.

    Attributes:
        key: equal in layers that are alike.
        held: stored tensors in an order that the data flow gives; equal keys have them in equal roles.
        made: names of the first outputs of its nodes.
    """

    key: Hashable
    held: tuple[Held, ...]
    made: frozenset[str]


def group_blocks(blocks: Sequence[Block], graph: gs.Graph) -> tuple[tuple[Block, ...], ...]:
    """Attention blocks with the feed-forward blocks that follow on the same stream; others are left out.

    Where a model has no feed-forward blocks of their own, as with both side by side, each attention block is a layer.
    """
    if all(block.role != "feed-forward" for block in blocks):
        return tuple((block,) for block in blocks if block.role == "attention")
    tensors = graph.tensors()
    groups: list[list[Block]] = []
    for block in blocks:
        last = groups[-1][-1] if groups else None
        follows = last is not None and _link(tensors[block.stream], last.output) is not None
        if follows and last is not None and block.role != "convolution" and (last.role, block.role) != _NEXT:
            groups[-1].append(block)
        elif block.role == "attention":
            groups.append([block])
    return tuple(tuple(group) for group in groups if group[-1].role == "feed-forward")


# Where one layer ends and the next begins.
_NEXT = ("feed-forward", "attention")


def find_layers(blocks: Sequence[Block], graph: gs.Graph) -> tuple[Layer, ...]:
    """Whole layers in data order, each with the normalisation behind it where the next layer reads that."""
    tensors = graph.tensors()
    layers: list[Layer] = []
    groups = group_blocks(blocks, graph)
    for at, group in enumerate(groups):
        end = group[-1].output
        following = groups[at + 1][0].stream if at + 1 < len(groups) else ""
        if following and _link(tensors[following], end) is not None:
            end = following
        elif layers and layers[-1].end != layers[-1].blocks[-1].output:
            # The last one has no reader to tell: what stands behind the layer before stands behind it, too.
            end = _end_alike(tensors, layers[-1], end)
        layers.append(Layer(group, group[0].stream, end))
    return tuple(layers)


def anatomy(graph: gs.Graph, layer: Layer) -> Anatomy:
    """The parts of a layer, from its end back to its start."""
    tensors = graph.tensors()
    inside = {name for block in layer.blocks for name in (*block.inner, block.output)}
    links = [(first.output, second.stream) for first, second in pairwise(layer.blocks)]
    for output, reached in [*links, (layer.blocks[-1].output, layer.end)]:
        inside.update(_link(tensors[reached], output) or ())
    return _described(tensors[layer.end], layer.start, inside)


def final_hidden(graph: gs.Graph, layer: Layer, shapes: Shapes) -> str:
    """What the model makes of a layer's end before the next product, in the same shape: the end, normalised."""
    alike = [
        tensor.name
        for tensor in _downstream(graph.tensors()[layer.end])
        if shapes.get(tensor.name) == shapes.get(layer.end)
    ]
    return str(alike[-1]) if alike else layer.end


def layer_id(blocks: Sequence[str]) -> str:
    """What a model's registry calls the layer of blocks with these ids; merges and cuts of others leave it alone."""
    return f"layer.{blocks[-1].removeprefix('block.')}"


def seen_through(tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor is a view of: the same numbers in another shape, order or precision."""
    made_by = producer(tensor)
    while made_by is not None and made_by.op in _VIEWS and not made_by.domain:
        tensor = made_by.inputs[0]
        made_by = producer(tensor)
    return tensor


def readers_through(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Nodes that read a tensor or a view of it."""
    for node in tensor.outputs:
        if node.op in _VIEWS and not node.domain and node.inputs[0] is tensor:
            yield from readers_through(node.outputs[0])
        else:
            yield node


def _link(tensor: gs.Tensor, output: str) -> tuple[str, ...] | None:
    """First outputs of the nodes from `output` to `tensor`; None where it does not come from there alone."""
    found: dict[str, None] = {}
    queue, reached = [tensor], False
    while queue:
        one = queue.pop()
        if one.name == output:
            reached = True
            continue
        made_by = producer(one)
        if made_by is None:
            if isinstance(one, gs.Constant) or not one.name:
                continue
            return None
        if made_by.op in _PRODUCTS or len(found) > _LONGEST_LINK:
            return None
        if made_by.outputs[0].name not in found:
            found[made_by.outputs[0].name] = None
            queue += made_by.inputs
    return tuple(found) if reached else None


def _end_alike(tensors: dict[str, gs.Tensor], before: Layer, output: str) -> str:
    """The tensor behind `output` that is made of it as the end of another layer of its last sum."""
    last = before.blocks[-1].output
    pattern = _described(tensors[before.end], last, _link(tensors[before.end], last) or ()).key
    for tensor in _downstream(tensors[output]):
        link = _link(tensor, output)
        if link and _described(tensor, output, link).key == pattern:
            return str(tensor.name)
    return output


def _downstream(tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    seen: set[int] = set()
    queue = [tensor]
    while queue and len(seen) <= _LONGEST_LINK:
        for node in queue.pop(0).outputs:
            if id(node) not in seen and node.op not in _PRODUCTS:
                seen.add(id(node))
                queue += node.outputs
                yield from node.outputs


def _described(end: gs.Tensor, start: str, inside: Collection[str]) -> Anatomy:
    """Nodes of `inside` that `end` needs, each after those that it reads."""
    order = _order(end, start, frozenset(inside))
    number = {id(node): at for at, node in enumerate(order)}
    held: dict[str, bool] = {}

    def described(node: gs.Node, slot: int) -> Hashable:
        tensor = node.inputs[slot]
        made_by = producer(tensor)
        if tensor.name == start or not tensor.name:
            return "start" if tensor.name else ""
        root = seen_through(tensor)
        if isinstance(root, gs.Constant):
            if not _is_weight(root):
                return _digest(root)
            held.setdefault(root.name, False)
            return (str(root.dtype), tuple(root.shape), list(held).index(root.name), _views(tensor))
        if made_by is not None and id(made_by) in number:
            return (number[id(made_by)], [output.name for output in made_by.outputs].index(tensor.name))
        return ("outside", tensor.name)

    key = []
    for node in order:
        wires = tuple(described(node, slot) for slot in range(len(node.inputs)))
        key.append((node.domain or "", node.op, _attributes(node), len(node.outputs), wires))
        for tensor in _parameters(node):
            held[tensor.name] = True
    return Anatomy(
        key=tuple(key),
        held=tuple(Held(name, matrix) for name, matrix in held.items()),
        made=frozenset(node.outputs[0].name for node in order),
    )


def _order(end: gs.Tensor, start: str, inside: frozenset[str]) -> list[gs.Node]:
    order: list[gs.Node] = []
    known: set[int] = set()
    stack = [(producer(end), False)]
    while stack:
        node, done = stack.pop()
        if node is None or node.outputs[0].name not in inside:
            continue
        if done:
            order.append(node)
        elif id(node) not in known:
            known.add(id(node))
            stack.append((node, True))
            stack += [
                (producer(tensor), False)
                for tensor in reversed(node.inputs)
                if tensor.name != start and not isinstance(seen_through(tensor), gs.Constant)
            ]
    return order


def _is_weight(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and is_floating(tensor) and elements(tensor) > 1


def _digest(constant: gs.Constant) -> Hashable:
    stored = np.ascontiguousarray(numbers(constant))
    return (str(stored.dtype), stored.shape, hashlib.sha256(stored.tobytes()).hexdigest())


def _views(tensor: gs.Tensor) -> Hashable:
    """What is done to a stored tensor before it is read."""
    steps = []
    made_by = producer(tensor)
    while made_by is not None:
        sizes = tuple(_digest(extra) for extra in made_by.inputs[1:] if isinstance(extra, gs.Constant))
        steps.append((made_by.op, _attributes(made_by), sizes))
        made_by = producer(made_by.inputs[0])
    return tuple(steps)


def _attributes(node: gs.Node) -> Hashable:
    # A body is compared with nothing: it is its own.
    return tuple(
        (name, id(value) if isinstance(value, gs.Graph) else repr(value)) for name, value in sorted(node.attrs.items())
    )


def _parameters(node: gs.Node) -> Iterator[gs.Constant]:
    """Weights and biases of a product, and a bias that an Add puts on one."""
    roots = [seen_through(tensor) for tensor in node.inputs]
    stored = [_is_weight(root) for root in roots]
    if node.op in _PRODUCTS:
        slots = range(1, 3) if node.op == "Attention" else range(3)
        yield from (root for slot, root in enumerate(roots) if slot in slots and stored[slot])
    elif node.op == "Add" and stored.count(True) == 1:
        made_by = producer(roots[stored.index(False)])
        # Scores of queries and keys are a product, too, but of no weight: what is added there is a mask or a table.
        if made_by is not None and made_by.op in _PRODUCTS and next(_parameters(made_by), None) is not None:
            yield roots[stored.index(True)]
