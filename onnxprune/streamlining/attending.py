"""Attention that exporters spelled out, found around its softmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import numbers, producer
from onnxprune.streamlining.heads import SWAPPED, Headed, headed, peeled
from onnxprune.streamlining.values import over_last_axis


class Readers:
    """Who reads what in a graph."""

    def __init__(self, graph: gs.Graph) -> None:
        self._given_out = {id(tensor) for tensor in graph.outputs}

    def only(self, tensor: gs.Tensor) -> gs.Node | None:
        """The one reader of a tensor; None where there are more or the model gives the tensor out."""
        return tensor.outputs[0] if len(tensor.outputs) == 1 and id(tensor) not in self._given_out else None


@dataclass(frozen=True, eq=False)
class Attending:
    """One attention: softmax(scale · query · keyᵀ + mask) · value.

    Attributes:
        product: of shares and values.
        scores: of queries and keys, before scale and mask.
        scale: as a number.
        guarded: whether shares that are NaN become zero.
    """

    product: gs.Node
    scores: gs.Tensor
    query: Headed
    key: Headed
    value: Headed
    mask: gs.Tensor | None
    scale: float
    guarded: bool


class Finder:
    """Looks for attention in one graph."""

    def __init__(self, graph: gs.Graph, overridable: frozenset[str]) -> None:
        self._opset = int(graph.opset or 1)
        self._overridable = overridable
        self._readers = Readers(graph)

    def around(self, softmax: gs.Node) -> Attending | None:
        """The attention around a softmax; None where there is none.

        Raises:
            Declined: there is one that the operator does not stand for.
        """
        if not over_last_axis(softmax, self._opset):
            return None
        shares, guarded = self._unguarded(softmax)
        weighs = self._readers.only(shares)
        if weighs is None or weighs.op != "MatMul" or weighs.domain or weighs.inputs[0] is not shares:
            return None
        found = self._scores(softmax.inputs[0])
        if found is None:
            return None
        product, mask, scale = found
        if mask is not None and mask.shape is not None and (not mask.shape or mask.shape[-1] == 1):
            raise Declined("its mask is spread over the keys")
        query, key, value = self._heads(*product.inputs, weighs.inputs[1])
        scale *= query.factor * key.factor
        if not (scale > 0 and np.isfinite(scale)):
            raise Declined(f"its scores are scaled by {scale:g}")
        return Attending(weighs, product.outputs[0], query, key, value, mask, scale, guarded)

    def _unguarded(self, softmax: gs.Node) -> tuple[gs.Tensor, bool]:
        """The shares, or what a guard makes of them: Where(IsNaN(shares), 0, shares)."""
        shares = softmax.outputs[0]
        asks = next((node for node in shares.outputs if node.op == "IsNaN" and not node.domain), None)
        where = None if asks is None else self._readers.only(asks.outputs[0])
        if asks is None or where is None or where.op != "Where" or where.domain or len(shares.outputs) != 2:
            return shares, False
        condition, zero, other = where.inputs
        if condition is not asks.outputs[0] or other is not shares:
            return shares, False
        if not isinstance(zero, gs.Constant) or zero.name in self._overridable or zero.dtype != np.float32:
            return shares, False
        one = numbers(zero).size == 1 and numbers(zero).ndim <= 1 and not numbers(zero).any()
        return (where.outputs[0], True) if one else (shares, False)

    def _scores(self, scores: gs.Tensor) -> tuple[gs.Node, gs.Tensor | None, float] | None:
        """The product of queries and keys, the mask that is added to it, and what it is multiplied by before."""
        node, only = producer(scores), self._readers.only
        if node is None or only(scores) is None:
            return None
        operands: list[tuple[gs.Tensor, gs.Tensor | None]] = [(scores, None)]
        if node.op == "Add" and not node.domain:
            operands = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
        for tensor, mask in operands:
            bare, scale = peeled(tensor, self._overridable)
            product = producer(bare)
            multiplies = product is not None and product.op == "MatMul" and not product.domain
            if multiplies and only(tensor) is not None and (mask is None or mask.dtype in (None, np.float32)):
                return product, mask, scale
        return None

    def _heads(self, *tensors: gs.Tensor) -> tuple[Headed, Headed, Headed]:
        if any(isinstance(tensor, gs.Constant) for tensor in tensors):
            raise Declined("a query, key or value is constant")
        if any(tensor.dtype not in (None, np.float32) for tensor in tensors):
            raise Declined("the processor's operator takes float32 alone")
        orders = ((0, 1, 2, 3), SWAPPED, (0, 1, 2, 3))
        several = [headed(one, self._overridable, then=then) for one, then in zip(tensors, orders, strict=True)]
        found = [one for one in several if one is not None]
        if len(found) != len(tensors):
            raise Declined("its tensors are not known to have one axis for heads")
        query, key, value = found
        if value.factor != 1:
            raise Declined("its values are scaled")
        if key.heads is None or key.heads != value.heads or key.heads not in {1, query.heads}:
            raise Declined("how many heads its queries, keys and values have is not known to agree")
        if len({size for one in found if isinstance(size := one.batch, int)}) > 1:
            raise Declined("its queries, keys and values are not of one batch")
        return query, key, value
