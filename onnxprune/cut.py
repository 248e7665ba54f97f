"""Cut units of dimensions out of a graph, so that it equals the original with those units masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor
from onnxprune.dimensions.keeping import Keeping, Mask
from onnxprune.dimensions.readers import plan_readers
from onnxprune.dimensions.restate import Action, Restater
from onnxprune.dimensions.result import Dimensions
from onnxprune.dimensions.tracer import Shapes, key_of
from onnxprune.dimensions.wiring import Wiring
from onnxprune.errors import Declined
from onnxprune.memory import kept

Array = np.ndarray[Any, Any]
Masks = tuple[Mask | None, ...]
# Integers of these types count positions; the smaller ones are quantized weights.
POSITIONS = frozenset({np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.bool_)})


@dataclass(frozen=True)
class InterfaceChange:
    """A graph input or output that has another size than before; `kept` are the entries of the axis that stay."""

    tensor: str
    axis: int
    before: int
    kept: tuple[int, ...]

    @property
    def after(self) -> int:
        """The new size."""
        return len(self.kept)


@dataclass(frozen=True)
class CutReport:
    """What a cut did.

    Attributes:
        params_removed: numbers of stored weights that are gone, as predicted before the edit.
        removed: dimension -> units.
        interface: graph inputs and outputs that changed; only with `trace(..., cut_interface=True)`.
    """

    params_removed: int
    removed: Mapping[int, tuple[int, ...]]
    interface: tuple[InterfaceChange, ...] = ()


@dataclass(frozen=True, eq=False)
class _Slicing:
    """A constant, or a private copy of it for some of its readers, and what stays of each axis."""

    constant: gs.Constant
    masks: Masks
    readers: tuple[tuple[gs.Node, int], ...]
    private: bool


def count_parameters(graph: gs.Graph) -> int:
    """Numbers in the weights that the nodes of a graph read; positions, lengths and flags do not count."""
    constants = {t.name: t for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}
    return sum(_numbers(each.shape) for each in constants.values() if np.dtype(each.dtype) not in POSITIONS)


def remove_units(
    graph: gs.Graph, dimensions: Dimensions, removals: Mapping[int, Sequence[int]], shapes: Shapes
) -> CutReport:
    """Cut units, in place.

    Args:
        graph: a copy of the graph on which `dimensions` were traced; it is edited.
        dimensions: found by `trace`.
        removals: dimension index -> units to remove; at least one unit of a dimension must stay.
        shapes: those given to `trace`.

    Returns:
        What was removed. Every output equals that of the original in which the units are zeroed at the input of each
        consumer, to float rounding.

    Raises:
        Declined: the edit cannot be proved; the graph is as it was.
    """
    keeping = Keeping(dimensions, removals)
    _check_same_graph(graph, dimensions, shapes)
    wiring = Wiring(graph)
    restater = Restater(keeping, wiring)
    slicings = _plan_constants(graph, keeping)
    actions: list[Action] = plan_readers(keeping, {key_of(node): node for node in graph.nodes}, wiring)
    actions += [action for node in graph.nodes if (action := restater.plan(node)) is not None]
    interface = _plan_interface(graph, keeping)
    removed = sum(_saving(graph, slicings))

    # Private copies are taken from the constant as it was.
    for slicing in sorted(slicings, key=lambda each: not each.private):
        _slice_constant(wiring, slicing)
    for action in actions:
        action()
    _state_attributes(graph, keeping)
    _forget_shapes(graph, keeping, interface)
    wiring.finish()
    return CutReport(removed, keeping.removed, interface)


def _numbers(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if len(shape) else 1


def _check_same_graph(graph: gs.Graph, dimensions: Dimensions, shapes: Shapes) -> None:
    keys = {key_of(node) for node in graph.nodes}
    missing = next((key for key, _ in dimensions.layout.read if key not in keys), None)
    if missing is not None:
        raise Declined(f"the dimensions belong to another graph: no node computes {missing!r} here")
    strange = next(
        (name for name in dimensions.layout.made if name not in shapes and name not in _constants(graph)), None
    )
    if strange is not None:
        raise Declined(f"the dimensions belong to other shapes: {strange!r} is missing")


def _constants(graph: gs.Graph) -> set[str]:
    return {t.name for node in graph.nodes for t in node.inputs if isinstance(t, gs.Constant)}


def _masks(keeping: Keeping, axes: Sequence[Factor]) -> Masks:
    return tuple(keeping.mask(factor) for factor in axes)


def _plan_constants(graph: gs.Graph, keeping: Keeping) -> list[_Slicing]:
    """Group the readers of every constant by what they keep of it."""
    held: dict[str, dict[tuple[bytes, ...], tuple[Masks, list[tuple[gs.Node, int]]]]] = {}
    constants: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant):
                continue
            constants[tensor.name] = tensor
            masks = _masks(keeping, keeping.layout.read.get((key_of(node), index), ()))
            if all(mask is None for mask in masks):
                masks = ()
            key = tuple(b"" if mask is None else mask.tobytes() for mask in masks)
            held.setdefault(tensor.name, {}).setdefault(key, (masks, []))[1].append((node, index))
    given_out = {tensor.name for tensor in graph.outputs}
    plans = []
    for name, groups in held.items():
        whole = () in groups or name in given_out
        for at, (key, (masks, readers)) in enumerate(groups.items()):
            if key:
                private = whole or at > 0
                plans.append(_Slicing(constants[name], masks, tuple(readers), private))
    return plans


def _saving(graph: gs.Graph, slicings: Sequence[_Slicing]) -> Iterator[int]:
    """Numbers that each slicing saves; a private copy costs what it holds."""
    del graph
    for slicing in slicings:
        if np.dtype(slicing.constant.dtype) in POSITIONS:
            continue
        old = _numbers(slicing.constant.shape)
        pairs = zip(slicing.masks, slicing.constant.shape, strict=True)
        new = _numbers([n if mask is None else int(mask.sum()) for mask, n in pairs])
        yield -new if slicing.private else old - new


def _slice_constant(wiring: Wiring, slicing: _Slicing) -> None:
    values = np.asarray(slicing.constant.values)
    for axis, mask in enumerate(slicing.masks):
        if mask is not None:
            values = np.compress(mask, values, axis=axis)
    if not slicing.private:
        slicing.constant.values = kept(np.ascontiguousarray(values))
        return
    copy = wiring.constant(f"{slicing.constant.name}.kept", values)
    for node, index in slicing.readers:
        wiring.connect(node, index, copy)


def _plan_interface(graph: gs.Graph, keeping: Keeping) -> tuple[InterfaceChange, ...]:
    changes = []
    for tensor in (*graph.inputs, *graph.outputs):
        for axis, factor in enumerate(keeping.layout.made.get(tensor.name, ())):
            mask = keeping.mask(factor)
            if mask is not None:
                kept = tuple(int(entry) for entry in np.flatnonzero(mask))
                changes.append(InterfaceChange(tensor.name, axis, len(mask), kept))
            elif keeping.touches(factor):
                raise Declined(f"units lie on a varying axis of {tensor.name!r}, which the graph gives out")
    return tuple(changes)


def _state_attributes(graph: gs.Graph, keeping: Keeping) -> None:
    nodes = {key_of(node): node for node in graph.nodes}
    for sized in keeping.layout.sized:
        node = nodes[sized.node]
        if sized.name in node.attrs and any(keeping.touches(factor) for factor in sized.factors):
            sizes = [keeping.size(factor)[0] for factor in sized.factors]
            node.attrs[sized.name] = sizes if sized.many else sizes[0]


def _forget_shapes(graph: gs.Graph, keeping: Keeping, interface: Sequence[InterfaceChange]) -> None:
    """Drop recorded shapes that no longer hold; state those of the interface."""
    ends = {tensor.name: tensor for tensor in (*graph.inputs, *graph.outputs)}
    for change in interface:
        shape = list(ends[change.tensor].shape)
        shape[change.axis] = change.after
        ends[change.tensor].shape = shape
    for node in graph.nodes:
        for tensor in node.outputs:
            axes = keeping.layout.made.get(tensor.name, ())
            if tensor.name not in ends and any(keeping.touches(factor) for factor in axes):
                tensor.shape = None
