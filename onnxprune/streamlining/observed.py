"""Shapes that were seen in a few runs, as far as they say what holds in all runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.model import Model

Runs = tuple[tuple[int, ...], ...]

# Operators whose outputs are as long as some operands say: the first of those.
_TOLD: Mapping[str, int] = {
    "CenterCropPad": 1, "ConstantOfShape": 0, "Expand": 1, "OneHot": 1, "Pad": 1, "Range": 0, "Reshape": 1,
    "Resize": 1, "Slice": 1, "Split": 1, "Tile": 1, "TopK": 1, "Upsample": 1,
}  # fmt: skip
# Operators whose outputs are as long as their data make them, or as a body does.
_UNTOLD = {
    "Compress", "ConcatFromSequence", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "SequenceAt", "StringSplit",
    "Unique",
}  # fmt: skip
# A size under a bound that no run reached is another beyond it.
_LESSER = {"Clip", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"}
_WHOLE = 2**31 - 1
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def settled_shapes(model: Model, shapes: Mapping[str, Runs] | None) -> dict[str, Runs]:
    """Shapes of tensors that depend on the sizes of the inputs alone, of which every dynamic axis was varied.

    Args:
        model: as it is; names that it does not hold are left out.
        shapes: of every tensor, one a run; sizes of dynamic axes are co-prime.
    """
    if shapes is None or not all(_varied(tensor, shapes.get(tensor.name)) for tensor in model.graph.inputs):
        return {}
    unsettled: set[int] = set()
    settled: dict[str, Runs] = {tensor.name: shapes[tensor.name] for tensor in model.graph.inputs}
    for node in model.graph.nodes:
        if any(id(tensor) in unsettled for tensor in node.inputs) or not _told(node) or _may_cut(node, shapes):
            unsettled |= {id(tensor) for tensor in node.outputs}
            continue
        settled |= {t.name: shapes[t.name] for t in node.outputs if t.name in shapes and _same_rank(shapes[t.name])}
        settled |= _derived(node, settled)
    return settled


def _derived(node: gs.Node, settled: Mapping[str, Runs]) -> dict[str, Runs]:
    """The shape of what a rewrite has written, which no run has seen, out of those of its inputs."""
    read = [settled.get(tensor.name) for tensor in node.inputs]
    name = node.outputs[0].name if node.outputs else ""
    if name in settled or not read or read[0] is None:
        return {}
    if node.op == "Attention" and not node.domain and "q_num_heads" in node.attrs and len(read) > 2 and read[2]:
        # Queries [batch, length, ..], values [batch, .., heads x width].
        share = node.attrs["q_num_heads"] // node.attrs["kv_num_heads"]
        return {name: tuple((*q[:-1], v[-1] * share) for q, v in zip(read[0], read[2], strict=True))}
    if node.op == "Reshape" and not node.attrs.get("allowzero", 0) and isinstance(node.inputs[1], gs.Constant):
        target = [int(size) for size in numbers(node.inputs[1]).reshape(-1)]
        return {name: tuple(_viewed(shape, target) for shape in read[0])}
    return {}


def _viewed(shape: tuple[int, ...], target: Sequence[int]) -> tuple[int, ...]:
    """What a Reshape to `target`, with 0 for the same and -1 for the rest, makes of a shape."""
    sizes = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    known = math.prod(size for size in sizes if size != -1)
    return tuple(math.prod(shape) // max(known, 1) if size == -1 else size for size in sizes)


def of_shapes(tensor: gs.Tensor) -> bool:
    """Whether a tensor comes of shapes and constants alone, whatever the values of the inputs; of no lesser of two."""
    queue, seen = [tensor], set[int]()
    while queue:
        one = queue.pop()
        if isinstance(one, gs.Constant) or id(one) in seen or not one.name:
            continue
        seen.add(id(one))
        node = producer(one)
        if node is None or node.domain or node.op in _RANDOM or node.op in _UNTOLD or node.op in _LESSER:
            return False
        if node.op not in {"Shape", "Size"}:
            queue += node.inputs
    return True


def _may_cut(node: gs.Node, shapes: Mapping[str, Runs]) -> bool:
    """Whether a Slice up to a fixed place cut nothing in any run, as it may of what is longer."""
    if node.op != "Slice" or node.domain:
        return False
    before, after = (shapes.get(tensor.name, ()) for tensor in (node.inputs[0], node.outputs[0]))
    starts, ends, axes = (_listed(node, slot, name) for slot, name in ((1, "starts"), (2, "ends"), (3, "axes")))
    for at in range(max(len(starts), len(ends))):
        start, end = (some[at] if at < len(some) else None for some in (starts, ends))
        if not (end is not None and 0 < end < _WHOLE) and not (start is not None and start < 0):
            continue
        axis = axes[at] if at < len(axes) else at
        # What is computed may be any.
        for one in range(len(before[0]) if before else 0) if axis is None else (axis,):
            free = len({shape[one] for shape in before}) > 1
            if free and all(a[one] == b[one] for a, b in zip(before, after, strict=True)):
                return True
    return False


def _listed(node: gs.Node, slot: int, name: str) -> list[int | None]:
    """The numbers of an operand, or of the attribute of old; None for one that is computed, nothing without any."""
    if slot >= len(node.inputs) or not node.inputs[slot].name:
        return list(node.attrs.get(name, ()))
    if isinstance(node.inputs[slot], gs.Constant):
        return [int(number) for number in numbers(node.inputs[slot]).reshape(-1)]
    return [None]


def _varied(tensor: gs.Tensor, runs: Runs | None) -> bool:
    if runs is None or tensor.shape is None or not _same_rank(runs):
        return False
    free = [axis for axis, size in enumerate(tensor.shape) if not isinstance(size, int)]
    return all(len({shape[axis] for shape in runs}) > 1 for axis in free)


def _same_rank(runs: Sequence[Sequence[int]]) -> bool:
    return len({len(shape) for shape in runs}) == 1


def _told(node: gs.Node) -> bool:
    if node.op in _UNTOLD or any(isinstance(value, gs.Graph) for value in node.attrs.values()):
        return False
    first = _TOLD.get(node.op)
    return first is None or all(of_shapes(given) for given in node.inputs[first:])
