"""Cutting site after site, each refitted to the original's output on what the sites before it have left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions import Dimension
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.inputs import Inputs, Patches, Source, add_up
from onnxprune.model import Model
from onnxprune.plan import Edit
from onnxprune.protocol import CompareInputs
from onnxprune.removal.layers import Layer, layers_of
from onnxprune.solvers.reconstruction import Against, refit

Array = np.ndarray[Any, Any]
# What takes a bias wherever it stands.
_ADDED = frozenset({"Conv", "Gemm", "MatMul"})
# A dimension, and the units that go from it.
Cut = tuple[Dimension, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What consumes a site's units, and what it reads in the cut and in the original model."""

    layers: tuple[Layer, ...]
    inputs: tuple[Inputs, ...]
    targets: tuple[Array, ...]


def survey(current: Model, original: Model, dimension: Dimension, compare: CompareInputs) -> Surroundings:
    """Collect what ranking and refitting one dimension need.

    Args:
        current: the model as far as it has been cut, this dimension not yet.
        original: what its outputs are to match.
        dimension: of the current model.
        compare: runs both models on the calibration samples.

    Raises:
        Declined: a consumer is no plain linear or convolution.
    """
    layers = layers_of(current.graph, dimension)
    sources = {source for layer in layers for source in layer.sources}
    held = {tensor.name: tensor for tensor in constants(original.graph)}
    # The original serves as long as nothing before has changed the width of these very tensors.
    same = all(
        layer.weight in held and held[layer.weight].values.size == layer.matrix.size for layer in layers
    ) and _has(original, sources)  # fmt: skip
    base = original if same else current
    found = compare(current, base, sources)
    inputs = tuple(add_up([found[source] for source in layer.sources]) for layer in layers)
    targets = tuple(_target(layer, held[layer.weight].values) if same else layer.matrix for layer in layers)
    return Surroundings(layers, inputs, targets)


def _has(model: Model, sources: set[Source]) -> bool:
    known = {tensor.name for node in model.graph.nodes for tensor in node.outputs}
    known |= {tensor.name for tensor in model.graph.inputs}
    return all(source.tensor in known for source in sources)


def _target(layer: Layer, values: Array) -> Array:
    """The original's weight as [k, n]."""
    if values.ndim == 2:
        return np.moveaxis(values, layer.axis, 0).astype(np.float64)
    return values.reshape(len(values), -1).T.astype(np.float64)


def with_refit(edit: Edit, around: Surroundings, units: Sequence[int], model: Model, cuts: Sequence[Cut] = ()) -> Edit:
    """The edit with the weights and bias gains that make up for the units that go.

    Args:
        edit: removes `units`.
        around: of its site, in the model as the cuts have left it.
        units: that go.
        model: on which all are carried out together; its stored weights give layout and type.
        cuts: that come before. What they take from a refitted weight is there still, with its old values.
    """
    held = {tensor.name: tensor for tensor in constants(model.graph)}
    tensors: dict[str, Array] = {}
    refits: list[str] = []
    folds: list[list[str]] = []
    for layer, one, target in zip(around.layers, around.inputs, around.targets, strict=True):
        stays = np.ones(len(layer.matrix), bool)
        stays[layer.groups[list(units)].ravel()] = False
        kept = np.flatnonzero(stays)
        solved, gain = refit(
            target,
            one.gram / one.rows,
            kept,
            mean=one.reference_mean,
            against=Against(
                gram=one.gram[np.ix_(kept, kept)] / one.rows, cross=one.cross[kept] / one.rows, mean=one.mean[kept]
            ),
        )
        whole = np.zeros_like(layer.matrix)
        whole[kept] = solved
        values = held[layer.weight].values
        left = _left(layer.weight, values.shape, cuts)
        stored = values.copy()
        stored[np.ix_(*left)] = layer.stored(whole, values[np.ix_(*left)])
        outputs = left[1 - layer.axis if values.ndim == 2 else 0]
        bias = np.zeros(values.shape[1 - layer.axis if values.ndim == 2 else 0], np.float32)
        bias[outputs] = gain
        tensors[f"weight.{len(refits)}"] = stored
        refits.append(layer.weight)
        tensors[f"bias.{len(folds)}"] = bias
        folds.append(list(layer.nodes))
    return replace(edit, args={**edit.args, "refits": refits, "folds": folds}, tensors=tensors)


def with_means(
    edit: Edit,
    current: Model,
    after: Model,
    dimension: Dimension,
    compare: CompareInputs,
    model: Model,
    cuts: Sequence[Cut],
) -> Edit:
    """The edit with bias gains alone, for consumers that are not refitted: what units gave on average is kept.

    Args:
        edit: removes units of `dimension`.
        current: the model as cuts before have left it.
        after: the same with this edit.
        dimension: of `model`.
        compare: runs models on the calibration samples.
        model: on which all are carried out together.
        cuts: that come before.
    """
    outputs = tuple(_outputs(model, dimension))
    if not outputs:
        return edit
    sources = {one.source for one in outputs}
    before, now = (compare(one, one, sources) for one in (current, after))
    tensors: dict[str, Array] = {}
    folds: list[list[str]] = []
    for one in outputs:
        left = _left(one.weight.name, one.weight.shape, cuts)[one.axis]
        was, came = (found[one.source].mean for found in (before, now))
        # Where outputs go with the units, there is no telling which.
        if was.shape == came.shape == left.shape:
            bias = np.zeros(one.weight.shape[one.axis], np.float32)
            bias[left] = was - came
            tensors[f"bias.{len(folds)}"] = bias
            folds.append([one.source.tensor])
    return replace(edit, args={**edit.args, "folds": folds}, tensors=tensors) if folds else edit


@dataclass(frozen=True, eq=False)
class _Outputs:
    """What a linear or convolution gives, and the axis of its weight that becomes it."""

    source: Source
    weight: gs.Constant
    axis: int


def _outputs(model: Model, dimension: Dimension) -> Iterator[_Outputs]:
    """Of linears and convolutions that sum units against a weight of their own."""
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    for consumer in dimension.consumers:
        node = nodes.get(consumer.node)
        if node is None or node.domain or node.op not in _ADDED or not isinstance(node.inputs[1], gs.Constant):
            continue
        weight, axes = node.inputs[1], len(node.inputs[1].shape) - 2
        if node.op == "Conv":
            ones = Patches(kernel=(1,) * axes, strides=(1,) * axes, pads=(0,) * 2 * axes, dilations=(1,) * axes)
            yield _Outputs(Source(consumer.node, ones), weight, 0)
        else:
            yield _Outputs(Source(consumer.node), weight, 0 if node.attrs.get("transB", 0) else axes + 1)


def _left(weight: str, shape: Sequence[int], cuts: Sequence[Cut]) -> tuple[Array, ...]:
    """Indices of each axis of a weight that cuts leave."""
    masks = [np.ones(size, bool) for size in shape]
    for dimension, units in cuts:
        for member in dimension.members:
            if member.tensor == weight:
                masks[member.axis][member.elements[list(units)].ravel()] = False
    return tuple(np.flatnonzero(mask) for mask in masks)


def as_left(dimension: Dimension, cuts: Sequence[Cut]) -> Dimension:
    """A dimension whose elements are counted as cuts of other dimensions on the same axes leave them.

    Raises:
        Declined: the cuts take more from some units than from others.
    """
    gone: dict[tuple[str, int], list[Array]] = {}
    for other, units in cuts:
        for member in other.members:
            gone.setdefault((member.tensor, member.axis), []).append(member.elements[list(units)].ravel())
    members = []
    for member in dimension.members:
        before = gone.get((member.tensor, member.axis))
        if before is not None:
            taken = np.unique(np.concatenate(before))
            stay = ~np.isin(member.elements, taken)
            if len(set(stay.sum(axis=1))) > 1:
                raise Declined(f"cuts before have left its units of different sizes in {member.tensor!r}")
            left = member.elements[stay].reshape(len(member.elements), -1)
            member = replace(member, elements=left - np.searchsorted(taken, left))  # noqa: PLW2901 - counted anew
        members.append(member)
    return replace(dimension, members=tuple(members))


def write_refits(model: Model, edits: Sequence[Edit]) -> None:
    """Put refitted weights in place, in a graph that is a copy; rows of units that go are zero.

    Raises:
        Declined: a weight is missing or has another shape.
    """
    held = {tensor.name: tensor for tensor in constants(model.graph)}
    for edit in edits:
        for at, name in enumerate(edit.args.get("refits", ())):
            tensor, values = held.get(str(name)), edit.tensors[f"weight.{at}"]
            if tensor is None or tuple(tensor.shape) != values.shape:
                raise Declined(f"{edit.site}: the model has no weight {name!r} of shape {list(values.shape)}")
            tensor.values = np.asarray(values, dtype=tensor.values.dtype)
