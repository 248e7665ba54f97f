"""Units that carry nothing: their consumers ignore them, or their value never changes.

A unit's value never changes where zero weights or a zero gate cut it off from the graph's inputs; the value itself is
then read off one run. Nothing is concluded from a unit that only happens to be silent in a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions import Consumer, Dimension
from onnxprune.dimensions.factors import Indices
from onnxprune.graph import constants, numbers
from onnxprune.model import Model
from onnxprune.structure import Structure
from onnxprune.unchanging import Unchanging, uniform

Array = np.ndarray[Any, Any]
Folds = Mapping[tuple[str, ...], Array]
Observe = Callable[[Sequence[str]], Mapping[str, Array]]

_PADS = "the convolution that reads their constant pads its border, so that no bias makes up for it"
_NO_BIAS = "what reads their constant takes no bias to make up for it"
_VARIES = "their value never changes, but differs from place to place"
_WHOLE = "kernels want channels in blocks of {block}"


@dataclass(frozen=True)
class Dead:
    """Dead units of one dimension.

    Attributes:
        units: ascending.
        folds: consumers of one weight -> what the output of each gains on its features [n] for constants that go.
        left: unit that never changes either but must stay -> the reason.
        all: whether every unit is dead, so that one stays all the same.
    """

    units: tuple[int, ...]
    folds: Folds = field(default_factory=dict)
    left: Mapping[int, str] = field(default_factory=dict)
    all: bool = False

    @property
    def count(self) -> int:
        """How many carry nothing, the one that stays where all are dead among them."""
        return len(self.units) + self.all


class DeadUnits:
    """Finds dead units dimension by dimension; the graph is run once, and only where the weights give cause."""

    def __init__(self, model: Model, structure: Structure, observe: Observe) -> None:
        graph = model.graph
        self._model = model
        self._structure = structure
        self._shapes = {name: runs[0] for name, runs in structure.shapes.items()}
        self._observe = observe
        self._nodes = {node.outputs[0].name: node for node in graph.nodes if node.outputs}
        self._weights = {tensor.name: tensor for tensor in constants(graph)}

    def of(self, dimension: Dimension, *, block: int = 1) -> Dead:
        """Units that can go without changing an output; one unit is left where all are dead.

        Args:
            dimension: of the structure.
            block: units that must stay a multiple of so many, where they are one, and more than one, already.
        """
        if not dimension.consumers:
            return Dead(())
        looks = [self._look(dimension, consumer) for consumer in dimension.consumers]
        dead = np.logical_and.reduce([look.ignored | look.folded for look in looks])
        idle = np.logical_and.reduce([look.ignored | look.still for look in looks]) & ~dead
        left = {unit: next(look.why[unit] for look in looks if unit in look.why) for unit in _numbers(idle)}
        every = bool(dead.all())
        if every:
            dead[0] = False
        if dimension.units % block == 0 and dimension.units > block:
            # The last of them stay, as many as fill the last block.
            for unit in _numbers(dead)[int(dead.sum()) // block * block :]:
                dead[unit] = False
                left[unit] = _WHOLE.format(block=block)
        folds: dict[tuple[str, ...], Array] = {}
        for look in looks:
            gain = np.zeros(0) if look.gain is None else look.gain[dead].sum(axis=0)
            if np.any(gain):
                # Layers that share all their weights may share the bias too.
                like = next((key for key, held in folds.items() if np.array_equal(held, gain)), ())
                folds.pop(like, None)
                folds[(*like, look.node)] = gain
        return Dead(tuple(_numbers(dead)), folds, left, every)

    def _look(self, dimension: Dimension, consumer: Consumer) -> _Look:
        rows = self._rows(dimension, consumer)
        none = np.zeros(dimension.units, bool)
        ignored = none if rows is None else np.asarray(~np.any(rows, axis=(1, 2)))
        node, name = self._nodes[consumer.node], self._nodes[consumer.node].inputs[consumer.input].name
        elements = self._elements(dimension, consumer)
        maybe = self._first.still.get(name)
        if elements is None or maybe is None or not _per_unit(maybe, consumer.axis, elements).all(axis=(1, 2)).any():
            return _Look(consumer.node, ignored, none, none)
        still, values = self._settled.still.get(name), self._values[name]
        if still is None:
            return _Look(consumer.node, ignored, none, none)
        never = np.asarray(_per_unit(still, consumer.axis, elements).all(axis=(1, 2)))
        held = _per_unit(values, consumer.axis, elements)
        level = np.asarray(uniform(held, 2)[:, :, 0].all(axis=1))
        constant = held.astype(np.float64).mean(axis=2)  # [units, k]
        silent = ~constant.any(axis=1)
        gain, refusal = _gain(node, consumer, constant, rows)
        folded = never & level & (silent if gain is None else np.ones_like(silent))
        why = {unit: refusal if level[unit] else _VARIES for unit in _numbers(never & ~folded & ~ignored)}
        return _Look(consumer.node, ignored, never, folded, gain, why)

    @cached_property
    def _first(self) -> Unchanging:
        return self._walk(None)

    @cached_property
    def _values(self) -> Mapping[str, Array]:
        entries = {
            self._nodes[consumer.node].inputs[consumer.input].name
            for dimension in self._structure.dimensions.all
            for consumer in dimension.consumers
        }
        return self._observe(sorted((entries | self._first.asked.keys()) & self._first.still.keys()))

    @cached_property
    def _settled(self) -> Unchanging:
        return self._walk(self._values)

    def _walk(self, values: Mapping[str, Array] | None) -> Unchanging:
        return Unchanging(self._model.graph, self._shapes, values, overridable=self._model.overridable)

    def _elements(self, dimension: Dimension, consumer: Consumer) -> Indices | None:
        """[units, k] where the units lie on the axis that the consumer sums over."""
        layout = self._structure.dimensions.layout
        axes = layout.read.get((consumer.node, consumer.input))
        places = dict(layout.places(axes[consumer.axis])) if axes else {}
        return places.get(dimension.index)

    def _rows(self, dimension: Dimension, consumer: Consumer) -> Array | None:
        """[units, k, n]: the numbers of the consumer's weight that belong to each element of each unit."""
        wanted = (consumer.weight, consumer.weight_axis)
        member = next((m for m in dimension.members if (m.tensor, m.axis) == wanted), None)
        tensor = self._weights.get(consumer.weight)
        if member is None or tensor is None or tensor.dtype.kind != "f":
            return None
        return _per_unit(numbers(tensor), consumer.weight_axis, member.elements)


@dataclass(frozen=True)
class _Look:
    """One consumer's view: which units [units] it ignores, which never change, which of those it can do without."""

    node: str
    ignored: Array
    still: Array
    folded: Array
    gain: Array | None = None
    why: Mapping[int, str] = field(default_factory=dict)


def _gain(node: gs.Node, consumer: Consumer, constant: Array, rows: Array | None) -> tuple[Array | None, str]:
    """[units, n] what each unit's constant adds to the output wherever one looks; or None and why there is no such."""
    if rows is None or consumer.input != 0:
        return None, _NO_BIAS
    if node.op in {"MatMul", "Gemm"} and not node.domain and not node.attrs.get("transA", 0):
        if rows.shape[1] != constant.shape[1]:
            return None, _NO_BIAS
        alpha = float(node.attrs.get("alpha", 1.0))
        return alpha * np.einsum("uk,ukn->un", constant, rows.astype(np.float64)), ""
    if node.op == "Conv" and int(node.attrs.get("group", 1)) == 1:
        if any(node.attrs.get("pads") or ()) or node.attrs.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
            return None, _PADS
        taps = rows.reshape(*rows.shape[:2], int(node.inputs[1].shape[0]), -1).astype(np.float64).sum(axis=3)
        return np.einsum("uk,uko->uo", constant, taps), ""
    return None, _NO_BIAS


def _per_unit(array: Array, axis: int, elements: Indices) -> Array:
    """[units, k, everything else]."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    picked: Array = rows[elements]
    return picked


def _numbers(flags: Array) -> list[int]:
    """Where the flags are set."""
    return [int(at) for at in np.flatnonzero(flags)]
