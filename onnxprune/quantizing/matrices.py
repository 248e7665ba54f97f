"""Stored weights as the matrices that solvers understand, each applied as x @ matrix, and what x is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.inputs import Patches, Source, patches_of
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]

# Two square matrices of float64 that one weight's inputs may take while they are collected.
_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Layout:
    """How the numbers of a stored weight are matrices [groups, k, n].

    Attributes:
        shape: of the stored weight.
        split: the shape that tells groups, inputs and outputs apart.
        order: which of its axes are groups, inputs and outputs, in this order.
        inputs: how many of `order` are inputs, after the first, which is the groups'.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    inputs: int = 1

    @property
    def size(self) -> tuple[int, int, int]:
        """Groups, k and n."""
        sizes = [self.split[axis] for axis in self.order]
        return sizes[0], int(np.prod(sizes[1 : 1 + self.inputs])), int(np.prod(sizes[1 + self.inputs :]))

    def matrices(self, stored: Array) -> Array:
        """[groups, k, n] of an array of the stored shape, or of one that broadcasts to it."""
        whole = np.broadcast_to(stored, self.shape)
        return whole.reshape(self.split).transpose(self.order).reshape(self.size)

    def stored(self, matrices: Array) -> Array:
        """The stored array of [groups, k, n]."""
        sizes = [self.split[axis] for axis in self.order]
        back = np.argsort(self.order)
        return np.ascontiguousarray(matrices.reshape(sizes).transpose(back)).reshape(self.shape)

    def sizes_of_inputs(self) -> list[int]:
        """Of the axes that inputs are made of: of a convolution channels, then taps."""
        return [self.split[axis] for axis in self.order[1 : 1 + self.inputs]]

    def by_channel(self) -> Array:
        """[k] the inputs in the order in which those of one position of a kernel are neighbours."""
        sizes = self.sizes_of_inputs()
        return np.arange(int(np.prod(sizes))).reshape(sizes).transpose().ravel()


def layout_of(weight: Weight) -> Layout:
    """The matrices of a weight, by its first reader; of a table its rows are the outputs."""
    shape = tuple(int(size) for size in weight.constant.shape)
    products = [use for use in weight.uses if use.role != "embedding"]
    if not products:
        return Layout(shape, (1, shape[0], int(np.prod(shape[1:]))), (0, 2, 1))
    use = products[0]
    if use.role == "conv":
        groups, space = int(use.node.attrs.get("group", 1)), int(np.prod(shape[2:]))
        if use.node.op == "ConvTranspose":
            return Layout(shape, (groups, shape[0] // groups, shape[1], space), (0, 1, 2, 3))
        return Layout(shape, (groups, shape[0] // groups, shape[1], space), (0, 2, 3, 1), inputs=2)
    if use.role == "recurrent":
        return Layout(shape, shape, (0, 2, 1))
    if use.permutation is None:
        return Layout(shape, (1, shape[0], int(np.prod(shape[1:]))), (0, 2, 1))
    stack = int(np.prod(shape[:-2]))
    return Layout(shape, (stack, *shape[-2:]), (0, 2, 1) if use.reads_transposed else (0, 1, 2))


def sources_of(weight: Weight, layout: Layout) -> tuple[Source, ...]:
    """What each reader multiplies the weight with; none where rows are only looked up.

    Raises:
        Declined: a reader's inputs cannot be told, with the reason.
    """
    products = [use for use in weight.uses if use.role != "embedding"]
    if len({use.reads_transposed for use in products}) > 1:
        raise Declined("its readers multiply by it and by its transpose")
    groups, k, _ = layout.size
    if products and 16 * groups * k * k > _MEMORY_BYTES:
        raise Declined(f"second moments of {k} inputs take more than {_MEMORY_BYTES} bytes")
    return tuple(_source(use, weight.constant.shape) for use in products)


def _source(use: Use, shape: Collection[int]) -> Source:
    node = use.node
    if isinstance(node.inputs[0], gs.Constant) and use.slot != 0:
        raise Declined("its input is constant")
    name = str(node.inputs[0].name)
    if use.role == "conv":
        axes = len(shape) - 2
        if node.op == "ConvTranspose":
            ones, groups = (1,) * axes, int(node.attrs.get("group", 1))
            return Source(name, Patches(kernel=ones, strides=ones, pads=(0,) * 2 * axes, dilations=ones, groups=groups))
        return Source(name, patches_of(node, tuple(shape)[2:]))
    if use.role == "recurrent":
        if use.slot != 1:
            raise Declined("its inputs are states inside the recurrence")
        return Source(name)
    if use.slot != 1:
        raise Declined("the weight is the left operand of the product")
    if use.permutation is None:
        raise Declined(f"it stands behind {use.views[0].op}, which is no transpose")
    if len(shape) != 2:
        raise Declined("a stack of matrices")
    if node.attrs.get("transA", 0) or node.attrs.get("transBatchA", 0):
        raise Declined("the activations are transposed by the product")
    return Source(name)
