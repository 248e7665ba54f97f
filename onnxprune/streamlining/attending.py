"""Attention that exporters spelled out, found around its softmax."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import numbers, producer
from onnxprune.streamlining.heads import SWAPPED, Headed, headed, peeled
from onnxprune.streamlining.masking import Choice, Masking
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
    """One attention: softmax(scale · query · keyᵀ, masked) · value.

    Attributes:
        product: of shares and values.
        scale: as a number.
    """

    product: gs.Node
    query: Headed
    key: Headed
    value: Headed
    masking: Masking
    scale: float


class Finder:
    """Looks for attention in one graph.

    Args:
        graph: with shapes.
        overridable: constants that a caller may give.
        rows: what tells one number of queries from another, by the name of the shares.
    """

    def __init__(self, graph: gs.Graph, overridable: frozenset[str], rows: Mapping[str, Hashable]) -> None:
        self._rows = rows
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
        product, masking, scale = found
        masking = replace(masking, guarded=guarded, rows=self._rows.get(softmax.outputs[0].name))
        query, key, value = self._heads(*product.inputs, weighs.inputs[1])
        scale *= query.factor * key.factor
        if not (scale > 0 and np.isfinite(scale)):
            raise Declined(f"its scores are scaled by {scale:g}")
        return Attending(weighs, query, key, value, masking, scale)

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

    def _scores(self, scores: gs.Tensor) -> tuple[gs.Node, Masking, float] | None:
        """The product of queries and keys, what masks it, and what it is multiplied by before."""
        if self._readers.only(scores) is None:
            return None
        for outer, behind in self._summands(scores):
            choice, inner = self._choice(outer) or (None, outer)
            for tensor, before in self._summands(inner) if choice is not None and behind is None else [(inner, None)]:
                bare, scale = peeled(tensor, self._overridable)
                product = producer(bare)
                if product is not None and product.op == "MatMul" and not product.domain and self._alone(tensor):
                    added = behind if behind is not None else before
                    masking = Masking(tensor, added, choice, choice is not None and behind is not None, guarded=False)
                    return product, masking, scale
        return None

    def _alone(self, tensor: gs.Tensor) -> bool:
        return self._readers.only(tensor) is not None

    def _summands(self, tensor: gs.Tensor) -> list[tuple[gs.Tensor, gs.Tensor | None]]:
        """A tensor and no mask; of a sum each operand with the other as the mask."""
        node = producer(tensor)
        if node is None or node.op != "Add" or node.domain or not self._alone(tensor):
            return [(tensor, None)]
        pairs = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
        return [(one, mask) for one, mask in pairs if mask.dtype in (None, np.float32)]

    def _choice(self, tensor: gs.Tensor) -> tuple[Choice, gs.Tensor] | None:
        """A choice between scores and a number, and the scores."""
        node = producer(tensor)
        if node is None or node.op != "Where" or node.domain or not self._alone(tensor):
            return None
        for slot in (1, 2):
            fill = node.inputs[slot]
            if isinstance(fill, gs.Constant) and fill.name not in self._overridable and fill.dtype == np.float32:
                held = numbers(fill)
                # One of more axes would give them to the scores.
                if held.size == 1 and held.ndim <= 1 and float(held.reshape(-1)[0]) < 0:
                    choice = Choice(node.inputs[0], slot == 1, float(held.reshape(-1)[0]))
                    return choice, node.inputs[3 - slot]
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
