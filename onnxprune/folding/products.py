"""Einsum written as MatMul, which kernels, integers and every pass know, with Transposes and Reshapes around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.contraction import letters, spelling
from onnxprune.memory import kept
from onnxprune.rewrite import Rewriter

Array = np.ndarray[Any, Any]


def lower_products(graph: gs.Graph, overridable: frozenset[str]) -> int:
    """Write every Einsum of two operands that is one product of matrices, perhaps a batch of them, as that.

    Sums run over the same numbers; outputs move by float rounding. What is left alone: diagonals, sums over one operand
    alone, products without a sum, letters of both operands that no MatMul has.

    Args:
        graph: edited in place, with the shapes of its tensors.
        overridable: initializers that a caller may replace.

    Returns:
        How many were written anew.
    """
    rewriter = Rewriter(graph)
    count = 0
    for node in list(graph.nodes):
        if node.op != "Einsum" or node.domain or len(node.inputs) != 2:
            continue
        terms = _terms(node)
        if terms is None:
            continue
        lowering = _Lowering(rewriter, node, terms, overridable)
        count += lowering.by_weight() or lowering.of_activations()
    rewriter.finish()
    return count


def _terms(node: gs.Node) -> tuple[list[str], list[str], list[str]] | None:
    """Letters of both operands and of the result; None where one has a diagonal or a rank that is not known."""
    spelled = spelling(node)
    ranks = [None if tensor.shape is None else len(tensor.shape) for tensor in node.inputs]
    if spelled is None or len(spelled[0]) != len(ranks) or None in ranks:
        return None
    terms, right = spelled
    first, second = (letters(term, int(rank or 0)) for term, rank in zip(terms, ranks, strict=True))
    dots = max((sum("." in letter for letter in held) for held in (first, second)), default=0)
    result = letters(right, len(right.replace("...", "")) + dots)
    return None if set(result) - {*first, *second} else (first, second, result)


class _Lowering:
    """One Einsum and what takes its place."""

    def __init__(
        self,
        rewriter: Rewriter,
        node: gs.Node,
        terms: tuple[list[str], list[str], list[str]],
        overridable: frozenset[str],
    ) -> None:
        self._rewriter, self._node = rewriter, node
        self._operands, self._result = list(zip(node.inputs, terms[:2], strict=True)), terms[2]
        self._overridable = overridable
        self._made: list[gs.Node] = []
        self._name = node.outputs[0].name

    def by_weight(self) -> bool:
        """An activation times a stored weight: [..., k] times [k, n], whatever letters make up k and n."""
        stored = [
            at
            for at, (tensor, _) in enumerate(self._operands)
            if isinstance(tensor, gs.Constant) and tensor.name not in self._overridable
        ]
        if len(stored) != 1:
            return False
        (weight, inner), (x, outer) = self._operands[stored[0]], self._operands[1 - stored[0]]
        summed = [letter for letter in outer if letter in inner]
        own = [letter for letter in self._result if letter in inner]
        free = [letter for letter in outer if letter not in inner]
        whole = set(inner) == {*summed, *own} and set(self._result) == {*free, *own}
        if not summed or not own or not whole or set(summed) & set(own):
            return False
        sizes = dict(zip(inner, weight.values.shape, strict=True))
        if any(size != sizes[letter] for letter, size in zip(outer, x.shape, strict=True) if letter in sizes):
            return False
        order = [inner.index(letter) for letter in (*summed, *own)]
        rows, columns = (int(np.prod([sizes[letter] for letter in held])) for held in (summed, own))
        matrix = self._stored(weight, np.transpose(weight.values, order).reshape(rows, columns))
        x = self._transposed(x, outer, [*free, *summed], "rows")
        x = self._reshaped(x, len(free), [rows], len(summed) > 1, "row")
        product = self._then("MatMul", [x, matrix], "product")
        product = self._reshaped(product, len(free), [sizes[letter] for letter in own], len(own) > 1, "apart")
        self._transposed(product, [*free, *own], self._result, "order")
        self._rewriter.replace(self._node, self._made)
        return True

    def of_activations(self) -> bool:
        """Two activations: [..., m, k] times [..., k, n], with one letter each."""
        (a, first), (b, second) = sorted(self._operands, key=self._comes_last)
        if any(isinstance(tensor, gs.Constant) for tensor in (a, b)):
            return False
        both = [letter for letter in first if letter in second]
        batch, summed = ([at for at in both if (at in self._result) is kept] for kept in (True, False))
        m, n = ([letter for letter in held if letter not in both] for held in (first, second))
        if any(len(held) != 1 for held in (m, n, summed)) or set(self._result) != {*batch, *m, *n}:
            return False
        a = self._transposed(a, first, [*batch, *m, *summed], "left")
        b = self._transposed(b, second, [*batch, *summed, *n], "right")
        product = self._then("MatMul", [a, b], "product")
        self._transposed(product, [*batch, *m, *n], self._result, "order")
        self._rewriter.replace(self._node, self._made)
        return True

    def _comes_last(self, operand: tuple[gs.Tensor, list[str]]) -> int:
        """Where the last letter of an operand's own stands in the result: rows before columns saves a Transpose."""
        return max((self._result.index(letter) for letter in operand[1] if letter in self._result), default=-1)

    def _stored(self, weight: gs.Constant, matrix: Array) -> gs.Constant:
        """The weight itself in its new form, or a copy where others read it."""
        if len(weight.outputs) == 1 and not any(weight is out for out in self._rewriter.graph.outputs):
            weight.values = kept(np.ascontiguousarray(matrix))
            return weight
        return self._rewriter.shared(f"{weight.name}.matrix", matrix)

    def _then(self, op: str, inputs: Sequence[gs.Tensor], what: str, **attrs: Any) -> gs.Tensor:
        out = self._rewriter.variable(f"{self._name}.{what}")
        self._made.append(self._rewriter.node(op, inputs, [out], **attrs))
        return out

    def _transposed(self, tensor: gs.Tensor, letters: Sequence[str], wanted: Sequence[str], what: str) -> gs.Tensor:
        order = [letters.index(letter) for letter in wanted]
        return tensor if order == sorted(order) else self._then("Transpose", [tensor], what, perm=order)

    def _reshaped(self, tensor: gs.Tensor, free: int, last: list[int], needed: bool, what: str) -> gs.Tensor:
        """The free axes as they are, whatever their sizes, and the last ones put together or apart."""
        if not needed:
            return tensor
        shape = np.array([0] * free + last, np.int64)
        return self._then("Reshape", [tensor, self._rewriter.shared(f"{self._name}.{what}.shape", shape)], what)
