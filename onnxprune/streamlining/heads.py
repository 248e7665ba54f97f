"""Tensors with an axis of heads, followed back through the views that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.rewrite import Rewriter

# Axes of [batch, heads, sequence, size] as they come, with the last two swapped, and in [batch, sequence, heads, size].
_PLAIN = (0, 1, 2, 3)
SWAPPED = (0, 1, 3, 2)
_SPLIT = (0, 2, 1, 3)


@dataclass(frozen=True, eq=False)
class Headed:
    """A tensor [batch, heads, sequence, size], as a transposed view of another.

    Attributes:
        base: what is viewed, of rank 4.
        order: the axes of `base` that become batch, heads, sequence and size.
        heads: how many there are; None where the graph does not say.
        factor: what the view was multiplied by on its way; `lay` leaves that out.
    """

    base: gs.Tensor
    order: tuple[int, ...]
    heads: int | None
    factor: float

    @property
    def flat(self) -> bool:
        """Whether a sequence holds all heads of an entry side by side."""
        return self.order == _SPLIT

    @property
    def batch(self) -> int | str | None:
        """Size or name of the batch axis."""
        size = self.base.shape[self.order[0]] if self.base.shape is not None else None
        return size if isinstance(size, int | str) else None

    def lay(self, make: Rewriter, nodes: list[gs.Node], *, flat: bool) -> gs.Tensor:
        """The tensor as [batch, sequence, heads · size] or [batch, heads, sequence, size]; what it takes is added."""
        if not flat:
            if self.order == _PLAIN:
                return self.base
            out = make.variable(f"{self.base.name}.heads")
            nodes.append(make.node("Transpose", [self.base], [out], perm=list(self.order)))
            return out
        node = producer(self.base)
        if node is not None and node.op == "Reshape" and not node.domain and _splits_last(node):
            return node.inputs[0]
        out = make.variable(f"{self.base.name}.flat")
        together = make.shared("heads.together", np.array([0, 0, -1], np.int64))
        nodes.append(make.node("Reshape", [self.base, together], [out]))
        return out


def headed(tensor: gs.Tensor, overridable: frozenset[str], *, then: Sequence[int] = _PLAIN) -> Headed | None:
    """A tensor of rank 4, transposed by `then`, followed back; None where its rank is not known or another."""
    order, factor = tuple(then), 1.0
    four = tensor.shape is not None and len(tensor.shape) == 4
    while True:
        tensor, scale = peeled(tensor, overridable)
        factor *= scale
        step = _transposed(producer(tensor)) or _transposed_in_three(producer(tensor))
        if step is None:
            break
        tensor, perm = step
        order, four = tuple(perm[axis] for axis in order), True
    if not four:
        return None
    return Headed(tensor, order, _heads(tensor, order), factor)


def _heads(tensor: gs.Tensor, order: tuple[int, ...]) -> int | None:
    sizes, node = tensor.shape, producer(tensor)
    inferred = sizes[order[1]] if sizes is not None and len(sizes) == 4 else None
    if isinstance(inferred, int) and inferred > 0:
        return inferred
    splits = node is not None and node.op == "Reshape" and not node.domain and order == _SPLIT
    return _heads_of(node) if splits else None


def peeled(tensor: gs.Tensor, overridable: frozenset[str]) -> tuple[gs.Tensor, float]:
    """What a tensor is before multiplications and divisions by single constants, and their product."""
    factor = 1.0
    while (node := producer(tensor)) is not None and node.op in {"Mul", "Div"} and not node.domain:
        slot = next((slot for slot in (0, 1) if _is_number(node.inputs[slot], overridable)), None)
        if slot is None or (node.op == "Div" and slot == 0):
            break
        number = float(numbers(node.inputs[slot]).reshape(()))
        if node.op == "Div" and number == 0:
            break
        factor = factor / number if node.op == "Div" else factor * number
        tensor = node.inputs[1 - slot]
    return tensor, factor


def _is_number(tensor: gs.Tensor, overridable: frozenset[str]) -> bool:
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable:
        return False
    # One of a higher rank would give its axes to the product.
    return len(tensor.shape) <= 1 and int(np.prod(tensor.shape)) == 1


def _transposed(node: gs.Node | None) -> tuple[gs.Tensor, tuple[int, ...]] | None:
    if node is None or node.op != "Transpose" or node.domain or len(node.attrs.get("perm", ())) != 4:
        return None
    return node.inputs[0], tuple(node.attrs["perm"])


def _transposed_in_three(node: gs.Node | None) -> tuple[gs.Tensor, tuple[int, ...]] | None:
    """The last two axes swapped while the first two are one: Reshape, Transpose, Reshape."""
    if node is None or node.op != "Reshape" or node.domain:
        return None
    turned = producer(node.inputs[0])
    if turned is None or turned.op != "Transpose" or turned.domain or list(turned.attrs.get("perm", ())) != [0, 2, 1]:
        return None
    joined = producer(turned.inputs[0])
    if joined is None or joined.op != "Reshape" or joined.domain:
        return None
    before, between, after = joined.inputs[0].shape, joined.outputs[0].shape, node.outputs[0].shape
    if before is None or between is None or after is None or (len(before), len(between), len(after)) != (4, 3, 4):
        return None
    size = before[3]
    # Names of the other axes are lost where exporters compute them; what remains is proved by running.
    kept = isinstance(size, int) and size > 0 and between[2] == after[2] == size
    return (joined.inputs[0], SWAPPED) if kept else None


def _splits_last(reshape: gs.Node) -> bool:
    """Whether a Reshape makes [batch, sequence, heads, size] of [batch, sequence, heads · size].

    Names of the first two axes are lost where exporters compute them; that they are the same is proved by running.
    """
    before, after = reshape.inputs[0].shape, reshape.outputs[0].shape
    if before is None or after is None or (len(before), len(after)) != (3, 4):
        return False
    stated = [(one, other) for one, other in zip(before[:2], after[:2], strict=True) if isinstance(one, int)]
    same = all(one == other for one, other in stated if isinstance(other, int))
    return same and _heads_of(reshape) is not None


def _heads_of(reshape: gs.Node) -> int | None:
    """Heads that a Reshape to [batch, sequence, heads, size] makes of the last axis; None where that is not known."""
    sizes, before = _sizes(reshape), reshape.inputs[0].shape
    if sizes is None or before is None or len(before) != 3 or not isinstance(before[2], int):
        return None
    heads, size = sizes[2:]
    if size is None or heads is None or (heads, size) == (-1, -1):
        return None
    heads = before[2] // size if heads == -1 else heads
    size = before[2] // heads if size == -1 and heads > 0 else size
    return heads if heads > 0 and size > 0 and heads * size == before[2] else None


def _sizes(reshape: gs.Node | None) -> list[int | None] | None:
    """Sizes that a Reshape to rank 4 states; None for those that are computed."""
    if reshape is None or reshape.op != "Reshape" or reshape.domain:
        return None
    shape = reshape.inputs[1]
    if isinstance(shape, gs.Constant):
        stated: list[int | None] = [int(size) for size in numbers(shape)]
    else:
        node = producer(shape)
        if node is None or node.op != "Concat" or node.domain:
            return None
        stated = []
        for part in node.inputs:
            stated += [int(size) for size in numbers(part)] if isinstance(part, gs.Constant) else [None]
    return stated if len(stated) == 4 else None
