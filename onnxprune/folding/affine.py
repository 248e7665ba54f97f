"""Scales and shifts of channels, moved into the weights of the convolution before or behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.folding.reading import bypass, floats, private, replace_values, sole_reader
from onnxprune.graph import fresh_name, numbers

Array = np.ndarray[Any, Any]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
# A shift that is divided by its scale may grow by this much and no more: it would swallow what it is added to.
_MOST_GROWTH = 1e3
# Before this opset a BatchNormalization may be in training.
_INFERENCE_OPSET = 7


def fold_backward(graph: gs.Graph, overridable: frozenset[str]) -> int:
    """Scales and shifts behind a convolution that nothing else reads; how many nodes went."""
    folded = 0
    for node in list(graph.nodes):
        if node.op not in _CONVOLUTIONS or node.domain or not private(node.inputs[1], graph, overridable):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
        if bias is not None and floats(bias, overridable) is None:
            continue
        while (reader := sole_reader(node.outputs[0], graph)) is not None:
            found = channel_affine(reader, node.outputs[0], _outputs_of(node), _rank(node), graph.opset, overridable)
            if found is None or not _absorb(graph, node, *found):
                break
            out = reader.outputs[0]
            reader.inputs.clear()
            reader.outputs.clear()
            # The last name of the chain is the one that others know.
            node.outputs = [out]
            folded += 1
    return folded


def fold_forward(graph: gs.Graph, overridable: frozenset[str]) -> int:
    """Scales, and shifts where no border is padded, in front of convolutions that alone read them; how many went."""
    folded = 0
    for node in list(graph.nodes):
        if node.op not in {"Mul", "Div", "Add", "Sub"} or node.domain or not node.outputs:
            continue
        source = next((tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant)), None)
        # A scale may stand before a shift; the scaled shift stays.
        add = _shift_behind(graph, node) if node.op in {"Mul", "Div"} else None
        result = (add or node).outputs[0]
        if source is None or any(out is result or out is node.outputs[0] for out in graph.outputs):
            continue
        readers = list(result.outputs)
        if not readers or not all(_reads(reader, result, graph, overridable) for reader in readers):
            continue
        channels, rank = _inputs_of(readers[0]), _rank(readers[0])
        found = channel_affine(node, source, channels, rank, graph.opset, overridable)
        if found is None or any(_inputs_of(reader) != channels for reader in readers):
            continue
        if node.op in {"Add", "Sub"}:
            if any(_has_border(reader) for reader in readers) or (found[0] != 1).any():
                continue
            for reader in readers:
                _shift_inputs(graph, reader, found[1])
        elif not _scale_ahead(readers, found[0], add, channels, rank, overridable):
            continue
        bypass(node, source)
        folded += 1
    return folded


def channel_affine(
    node: gs.Node, tensor: gs.Tensor, channels: int, rank: int, opset: int, overridable: frozenset[str]
) -> tuple[Array, Array] | None:
    """Scale and shift [channels] that a node gives each channel of `tensor`; None where it does anything else."""
    if node.domain:
        return None
    if node.op == "BatchNormalization":
        return _normalised(node, tensor, channels, overridable) if opset >= _INFERENCE_OPSET else None
    if node.op not in {"Mul", "Div", "Add", "Sub"} or sum(other is tensor for other in node.inputs) != 1:
        return None
    at = next(slot for slot, other in enumerate(node.inputs) if other is not tensor)
    values = _per_channel(node.inputs[at], channels, rank, overridable)
    if values is None or (node.op == "Div" and (at == 0 or not values.all())):
        # A constant divided by a tensor is no scale of it.
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op in {"Mul", "Div"}:
        return (values if node.op == "Mul" else 1 / values), zero
    return (one if at == 1 or node.op == "Add" else -one), (-values if at == 1 and node.op == "Sub" else values)


def _per_channel(tensor: gs.Tensor, channels: int, rank: int, overridable: frozenset[str]) -> Array | None:
    values = floats(tensor, overridable)
    if values is None or values.ndim > rank:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(size != 1 for at, size in enumerate(shape) if at != 1) or shape[1] not in (1, channels):
        return None
    spread: Array = np.broadcast_to(values.astype(np.float64).reshape(-1), (channels,))
    return spread


def _normalised(
    node: gs.Node, tensor: gs.Tensor, channels: int, overridable: frozenset[str]
) -> tuple[Array, Array] | None:
    if (
        node.inputs[0] is not tensor
        or node.attrs.get("training_mode", 0)
        or any(out.outputs for out in node.outputs[1:])
    ):
        return None
    parts = [floats(held, overridable) for held in node.inputs[1:5]]
    if len(parts) != 4 or any(part is None or part.shape != (channels,) for part in parts):
        return None
    gain, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    scale = gain / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
    return scale, shift - mean * scale


def _absorb(graph: gs.Graph, node: gs.Node, scale: Array, shift: Array) -> bool:
    """Scale a convolution's outputs; False where a number would not be finite."""
    weight = numbers(node.inputs[1])
    values = _outward(node, weight.astype(np.float64), scale)
    held = numbers(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    bias = shift + (0 if held is None else held.astype(np.float64) * scale)
    kind = weight.dtype
    if not (np.isfinite(values.astype(kind)).all() and np.isfinite(bias.astype(kind)).all()):
        return False
    node.inputs[1] = replace_values(node.inputs[1], values)
    if held is not None or bias.any():
        _set_bias(graph, node, bias.astype(kind))
    return True


def _set_bias(graph: gs.Graph, node: gs.Node, bias: Array) -> None:
    old = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    mine = old is not None and len(old.outputs) == 1
    name = old.name if mine and old is not None else fresh_name(graph, f"{node.inputs[1].name}.bias")
    node.inputs = [*node.inputs[:2], gs.Constant(name, np.ascontiguousarray(bias))]


def _outward(node: gs.Node, weight: Array, scale: Array) -> Array:
    """Weights times the scale of the output channel that each goes to."""
    return _by_channel(node, weight, scale, first=node.op == "Conv")


def _inward(node: gs.Node, weight: Array, scale: Array) -> Array:
    """Weights times the scale of the input channel that each reads."""
    return _by_channel(node, weight, scale, first=node.op == "ConvTranspose")


def _by_channel(node: gs.Node, weight: Array, scale: Array, *, first: bool) -> Array:
    """Weights times the scale of a channel on their first axis, or on their second within each group of the first."""
    rest = (1,) * (weight.ndim - 2)
    if first:
        return weight * scale.reshape(-1, 1, *rest)
    groups = int(node.attrs.get("group", 1))
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (split * scale.reshape(groups, 1, -1, *rest)).reshape(weight.shape)


def _scale_ahead(
    readers: list[gs.Node], scale: Array, add: gs.Node | None, channels: int, rank: int, overridable: frozenset[str]
) -> bool:
    """Put a scale into the weights of all readers, and its inverse into a shift on the way."""
    scaled = {id(reader): _inward(reader, numbers(reader.inputs[1]).astype(np.float64), scale) for reader in readers}
    if not all(
        np.isfinite(scaled[id(reader)].astype(numbers(reader.inputs[1]).dtype)).all() for reader in readers
    ):  # fmt: skip
        return False
    if add is not None:
        slot = next(at for at, tensor in enumerate(add.inputs) if isinstance(tensor, gs.Constant))
        shift = _per_channel(add.inputs[slot], channels, rank, overridable)
        if shift is None or not scale.all():
            return False
        moved = shift / scale
        if np.abs(moved).max() > _MOST_GROWTH * max(np.abs(shift).max(), 1e-30):
            return False
        shape = (1, channels, *(1,) * (rank - 2))
        kind = numbers(add.inputs[slot]).dtype
        add.inputs[slot] = gs.Constant(f"{add.outputs[0].name}.shift", moved.reshape(shape).astype(kind))
    for reader in readers:
        reader.inputs[1] = replace_values(reader.inputs[1], scaled[id(reader)])
    return True


def _shift_behind(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    reader = sole_reader(node.outputs[0], graph)
    constant = reader is not None and any(isinstance(tensor, gs.Constant) for tensor in reader.inputs)
    return reader if constant and reader is not None and reader.op == "Add" and not reader.domain else None


def _shift_inputs(graph: gs.Graph, node: gs.Node, shift: Array) -> None:
    weight = numbers(node.inputs[1])
    taps = _inward(node, weight.astype(np.float64), shift)
    added = taps.reshape(len(taps), -1).sum(axis=1)
    held = numbers(node.inputs[2]).astype(np.float64) if len(node.inputs) > 2 and node.inputs[2].name else 0
    _set_bias(graph, node, (held + added).astype(weight.dtype))


def _reads(node: gs.Node, tensor: gs.Tensor, graph: gs.Graph, overridable: frozenset[str]) -> bool:
    if node.op not in _CONVOLUTIONS or node.domain or sum(other is tensor for other in node.inputs) != 1:
        return False
    biased = len(node.inputs) > 2 and bool(node.inputs[2].name)
    if biased and floats(node.inputs[2], overridable) is None:
        return False
    return node.inputs[0] is tensor and private(node.inputs[1], graph, overridable)


def _has_border(node: gs.Node) -> bool:
    """Whether zeros that a shift would not reach are summed, or places that not every tap reaches."""
    automatic = node.attrs.get("auto_pad", "NOTSET") not in {"NOTSET", b"NOTSET", "VALID", b"VALID"}
    return node.op != "Conv" or automatic or any(node.attrs.get("pads") or ())


def _outputs_of(node: gs.Node) -> int:
    shape = numbers(node.inputs[1]).shape
    return int(shape[0] if node.op == "Conv" else shape[1] * int(node.attrs.get("group", 1)))


def _inputs_of(node: gs.Node) -> int:
    shape = numbers(node.inputs[1]).shape
    return int(shape[1] * int(node.attrs.get("group", 1)) if node.op == "Conv" else shape[0])


def _rank(node: gs.Node) -> int:
    return int(numbers(node.inputs[1]).ndim)
