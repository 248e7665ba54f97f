"""Weights that methods make sparse: matrices of linears and convolutions, and which of their axes are inputs."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import DataError
from onnxprune.model import Model
from onnxprune.runtime import Array
from onnxprune.weights import Use, find_weights

# Kernels that read an image's colours, or one channel each, are few numbers that much depends on (Zhu and Gupta 2017,
# section 4.1, leave MobileNet's first and depthwise convolutions dense).
_FEW_CHANNELS = 4
# Smaller matrices are not worth a mask.
_SMALL = 64


@dataclass(frozen=True)
class Matrix:
    """A stored weight.

    Attributes:
        name: of the constant.
        shape: as it is stored.
        inputs: axes along which the layer sums.
        kind: `linear` or `conv`.
        uses: first outputs of the nodes that read it.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    kind: str
    uses: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def table(self, values: Array) -> Array:
        """[inputs, outputs] of values that are stored as the weight is."""
        moved = np.moveaxis(values, self.inputs, range(len(self.inputs)))
        return moved.reshape(math.prod(moved.shape[: len(self.inputs)]), -1)

    def stored(self, table: Array) -> Array:
        """Values as they are stored, of a table [inputs, outputs]."""
        others = [axis for axis in range(len(self.shape)) if axis not in self.inputs]
        shape = [self.shape[axis] for axis in (*self.inputs, *others)]
        return np.moveaxis(table.reshape(shape), range(len(self.inputs)), self.inputs)


def matrices(model: Model, names: Collection[str], *, head: bool = True) -> tuple[Matrix, ...]:
    """Those of some stored tensors that products or convolutions read as their weight, in graph order.

    Without the head, products that stand straight before an output are none of them.
    """
    last = [last_product(model, tensor.name) for tensor in model.graph.outputs]
    heads = set() if head else {use.name for use in last if use is not None}
    found = []
    for weight in find_weights(model.graph, model.overridable):
        use, shape = weight.uses[0], tuple(int(size) for size in weight.constant.shape)
        if (
            heads & {one.name for one in weight.uses}
            or weight.constant.name not in names
            or use.role not in {"linear", "conv"}
            or math.prod(shape) < _SMALL
        ):
            continue
        inputs = _inputs(use, shape)
        if inputs is None or (use.role == "conv" and shape[1] <= _FEW_CHANNELS):
            continue
        uses = tuple(one.name for one in weight.uses)
        found.append(Matrix(weight.constant.name, shape, inputs, use.role, uses))
    return tuple(found)


def some_matrices(model: Model, names: Collection[str], *, head: bool = True) -> tuple[Matrix, ...]:
    """The same where there must be some.

    Raises:
        DataError: there are none.
    """
    found = matrices(model, names, head=head)
    if not found:
        raise DataError("train: no matrix of a product or convolution can be trained. Give a model with float ones.")
    return found


def last_product(model: Model, output: str) -> Use | None:
    """The product with a stored weight that stands straight before an output; None where something else does."""
    products = {
        use.name: use
        for weight in find_weights(model.graph, model.overridable)
        for use in weight.uses
        if use.role == "linear"
    }
    tensor: gs.Tensor | None = next((each for each in model.graph.outputs if each.name == output), None)
    while tensor is not None and tensor.inputs:
        node = tensor.inputs[0]
        if node.outputs[0].name in products:
            return products[node.outputs[0].name]
        moving = [each for each in node.inputs if not isinstance(each, gs.Constant) and each.name]
        # A bias or a softmax may stand behind the product; what joins two streams does not.
        tensor = moving[0] if len(moving) == 1 else None
    return None


def _inputs(use: Use, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes of the stored weight that its reader sums over; None where its views hide them."""
    if use.role == "conv":
        if use.permutation != ():
            return None
        return (0,) if use.node.op == "ConvTranspose" else tuple(range(1, len(shape)))
    if use.permutation is None:
        return None
    order = use.permutation or tuple(range(len(shape)))
    rank = len(shape)
    # x @ weight sums over the last axis but one, weight @ x over the last; Gemm may swap them.
    first = use.slot == 0 and use.node.op != "Attention"
    swapped = bool(use.node.attrs.get("transA" if first else "transB", 0))
    read = rank - 1 if first != swapped else rank - 2
    return (order[read],)
