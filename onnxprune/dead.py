"""Units that carry nothing: their consumers ignore them, or their value never changes.

A unit's value never changes where zero weights or a zero gate cut it off from the graph's inputs. That is followed node
by node from the producers to the consumers; the value itself is then read off one run. Nothing is concluded from a
unit that only happens to be silent in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions import Consumer, Dimension, Member
from onnxprune.graph import constants

Array = np.ndarray[Any, Any]
Observe = Callable[[Sequence[str]], Mapping[str, Array]]

# Softmax rows sum to one up to rounding, so a constant value head gives a constant up to this share of it.
_UNIFORM = 1e-5
_MOVES = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_ELEMENTWISE = {
    "Abs", "Add", "BatchNormalization", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub",
    "Tanh", "BiasGelu", "FastGelu", "QuickGelu",
}  # fmt: skip
_LINEARS = {"MatMul", "Gemm"}


@dataclass(frozen=True)
class Dead:
    """Dead units of one dimension.

    Attributes:
        units: ascending.
        folds: consumer -> what its output gains on the last axis [n] for the constants that go.
    """

    units: tuple[int, ...]
    folds: Mapping[str, Array] = field(default_factory=dict)


class DeadUnits:
    """Finds dead units dimension by dimension; the graph is run only where the weights give cause."""

    def __init__(self, graph: gs.Graph, observe: Observe) -> None:
        self._graph = graph
        self._observe = observe
        self._nodes = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
        self._weights = {tensor.name: tensor for tensor in constants(graph)}

    def of(self, dimension: Dimension) -> Dead:
        """Units that can go without changing an output; one unit is left where all are dead."""
        ignored = self._ignored(dimension)
        constant, folds = self._unchanging(dimension)
        dead = ignored | constant
        if dead.all():
            dead[0] = False
        units = tuple(int(unit) for unit in np.flatnonzero(dead))
        gains = {}
        for node, (values, weight) in folds.items():
            going = np.flatnonzero(dead & constant & ~ignored)
            gain = np.einsum("uk,ukn->n", values[going], weight[going]) if going.size else np.zeros(0)
            if np.any(gain):
                gains[node] = gain
        return Dead(units, gains)

    def _slices(self, dimension: Dimension, weight: str, axis: int) -> Array | None:
        """[units, k, n]: the numbers of a stored weight that belong to each element of each unit."""
        member = next((m for m in dimension.members if (m.tensor, m.axis) == (weight, axis)), None)
        tensor = self._weights.get(weight)
        if member is None or tensor is None or tensor.values.dtype.kind != "f":
            return None
        rows = np.moveaxis(tensor.values, axis, 0).reshape(tensor.shape[axis], -1)
        picked: Array = rows[member.elements]
        return picked

    def _ignored(self, dimension: Dimension) -> Array:
        """Units whose rows are zero in every consumer."""
        ignored = np.ones(dimension.units, bool)
        for consumer in dimension.consumers:
            rows = self._slices(dimension, consumer.weight, consumer.weight_axis)
            ignored &= np.zeros(dimension.units, bool) if rows is None else _all_zero(rows)
        return ignored if dimension.consumers else ~ignored

    def _unchanging(self, dimension: Dimension) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        """Units of constant value, and per consumer the values [units, k] and weight rows [units, k, n]."""
        none = np.zeros(dimension.units, bool)
        flags = self._follow(dimension, {})
        entries = [self._nodes[consumer.node].inputs[consumer.input].name for consumer in dimension.consumers]
        if not any(flags.get(name, none).any() for name in entries):
            return none, {}
        values = self._observe(sorted({*flags, *entries}))
        flags = self._follow(dimension, values)
        found, folds = ~none, {}
        for consumer, name in zip(dimension.consumers, entries, strict=True):
            uniform, constant = _uniform(values[name], consumer.axis, _member(dimension, name, consumer.axis))
            ok = flags.get(name, none) & uniform
            rows = self._slices(dimension, consumer.weight, consumer.weight_axis)
            if rows is None or not self._adds_up(consumer):
                ok &= ~constant.any(axis=1)
            else:
                folds[consumer.node] = (constant, rows)
            found &= ok
        return (found if dimension.consumers else none), folds

    def _adds_up(self, consumer: Consumer) -> bool:
        """Whether a constant input shifts the output by one vector: not so at the padded border of a convolution."""
        node = self._nodes[consumer.node]
        plain = node.op in _LINEARS and not node.domain and consumer.input == 0
        return plain and float(node.attrs.get("alpha", 1.0)) == 1.0 and not node.attrs.get("transA", 0)

    def _follow(self, dimension: Dimension, values: Mapping[str, Array]) -> dict[str, Array]:
        """Per tensor of the dimension: which units do not depend on the graph's inputs.

        Without `values` a gate is taken to be zero wherever it may be, so that one look tells whether to run at all.
        """
        members = {m.tensor: m for m in dimension.members}
        made = {producer.node: producer for producer in dimension.producers}
        flags: dict[str, Array] = {}
        for node in self._graph.nodes:
            out = node.outputs[0].name if node.outputs else ""
            if out in made:
                rows = self._slices(dimension, made[out].weight, made[out].axis)
                if rows is not None:
                    flags[out] = _all_zero(rows)
            elif out in members:
                held = self._through(node, members, flags, values)
                if held is not None:
                    flags[out] = held
        return flags

    def _through(
        self, node: gs.Node, members: Mapping[str, Member], flags: Mapping[str, Array], values: Mapping[str, Array]
    ) -> Array | None:
        if node.op in _MOVES:
            return flags.get(node.inputs[0].name)
        if node.op == "MatMul" and not node.domain and len(node.inputs) == 2:
            weights, carried = node.inputs
            return flags.get(carried.name) if _rows_sum_to_one(weights) else None
        if node.op not in _ELEMENTWISE:
            return None
        variable = [t for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
        known = [flags.get(t.name) for t in variable]
        unchanging = None
        if all(flag is not None for flag in known) and known:
            unchanging = np.asarray(np.logical_and.reduce([flag for flag in known if flag is not None]))
        if node.op == "Mul":
            for tensor in node.inputs:
                zero = self._zero(tensor, members, flags, values)
                if zero is not None:
                    unchanging = zero if unchanging is None else unchanging | zero
        return unchanging

    def _zero(
        self, tensor: gs.Tensor, members: Mapping[str, Member], flags: Mapping[str, Array], values: Mapping[str, Array]
    ) -> Array | None:
        """Units for which a factor of a product is always zero."""
        member = members.get(tensor.name)
        if member is None:
            return None
        if isinstance(tensor, gs.Constant):
            return _all_zero(_per_unit(tensor.values, member.axis, member.elements))
        flag = flags.get(tensor.name)
        if flag is None or tensor.name not in values:
            return flag
        return np.asarray(flag & _all_zero(_per_unit(values[tensor.name], member.axis, member.elements)))


def _member(dimension: Dimension, name: str, axis: int) -> Member:
    return next(m for m in dimension.members if m.tensor == name and m.axis == axis)


def _per_unit(array: Array, axis: int, elements: Array) -> Array:
    """[units, k, everything else]."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    picked: Array = rows[elements]
    return picked


def _all_zero(held: Array) -> Array:
    """[units]: whether [units, k, n] holds nothing but zeros for a unit."""
    return np.asarray(~np.any(held, axis=(1, 2)))


def _uniform(array: Array, axis: int, member: Member) -> tuple[Array, Array]:
    """Which units have one value wherever one looks, and that value [units, k]."""
    held = _per_unit(array.astype(np.float64), axis, member.elements)
    value = held.mean(axis=2)
    spread = np.abs(held - value[:, :, None]).max(axis=(1, 2))
    return spread <= _UNIFORM * np.maximum(np.abs(value).max(axis=1), 1e-30) + 1e-12, value


def _rows_sum_to_one(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a Softmax over its last axis, behind nothing that changes it for inputs that are sound."""
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and node.op in {"Cast", "Dropout", "Identity"}:
        tensor = node.inputs[0]
        node = tensor.inputs[0] if tensor.inputs else None
    if node is not None and node.op == "Where":
        # The guard against rows that a mask blanks altogether, which are NaN without it.
        node = node.inputs[2].inputs[0] if node.inputs[2].inputs else None
        guarded = True
    else:
        guarded = False
    if node is None or node.op != "Softmax":
        return False
    last = node.attrs.get("axis", -1) == -1 or not guarded
    return bool(last and node.attrs.get("axis", -1) in {-1, 3})
