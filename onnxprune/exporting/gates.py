"""Gates: stored numbers that multiply features or weights, folded into a neighbouring weight where a trace proves it.

A gate that was folded stays in the module as ones, so that the module's own code need not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.errors import Declined
from onnxprune.exporting.tracing import VIEWS, Traced, trace

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

# In place it would change what others read of the same tensor.
_MULTIPLY = {"mul", "multiply"}
# They hand each number on, or drop it at random: a factor per feature passes through.
_THROUGH = {"alias", "clone", "contiguous", "dropout", "feature_dropout", "identity", "detach", "to", "type_as"}
# A factor that is not negative passes through these, too.
_POSITIVE = {"leaky_relu", "leakyrelu", "relu", "relu_"}
_LINEAR, _CONV, _LAYER_NORM, _BATCH_NORM = "linear", "conv", "layernorm", "batchnorm"


def fold_gates(module: nn.Module, inputs: Any = None) -> tuple[dict[str, str], dict[str, str]]:
    """Fold what can be proved into `module`, in place; name -> how, and name -> why not."""
    import torch

    try:
        traced = trace(module, inputs)
    except Declined as reason:
        return {}, {"gates": str(reason)}
    folded: dict[str, str] = {}
    left: dict[str, str] = {}
    for node in traced.nodes:
        if traced.kind(node) not in _MULTIPLY or len(node.args) < 2:
            continue
        places = [traced.stored(arg) for arg in node.args[:2]]
        stored = [traced.tensor(place) for place in places]
        names = [traced.name(place) for place in places]
        if stored[0] is None and stored[1] is None:
            continue
        try:
            with torch.no_grad():
                if stored[0] is not None and stored[1] is not None and places == list(node.args[:2]):
                    gate, how = _into_each_other(traced, node, stored, names)
                else:
                    at = 0 if stored[0] is not None else 1
                    gate, how = names[at], _into_neighbours(traced, node, at)
        except Declined as reason:
            left[names[0 if stored[0] is not None else 1]] = str(reason)
        else:
            folded[gate] = how
    return folded, left


def _into_each_other(traced: Traced, node: fx.Node, stored: list[Any], names: list[str]) -> tuple[str, str]:
    """A weight and its mask, both stored."""
    for weight, mask in ((0, 1), (1, 0)):
        one, other = stored[weight], stored[mask]
        fits = one.is_floating_point() and tuple(_broadcast(one, other)) == tuple(one.shape)
        if fits and (one.requires_grad or not other.requires_grad):
            traced.require_single_use(node.args[weight])
            traced.require_single_use(node.args[mask])
            one.mul_(other)
            other.fill_(1)
            return names[mask], f"mask of {names[weight]}"
    raise Declined("neither of the two factors has the shape of their product")


def _broadcast(one: torch.Tensor, other: torch.Tensor) -> tuple[int, ...]:
    import torch

    try:
        return tuple(torch.broadcast_shapes(one.shape, other.shape))
    except RuntimeError:
        return ()


@dataclass(frozen=True)
class _Fold:
    """One weight that takes a factor a feature.

    Attributes:
        axis: of the weight.
        vector: [features].
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    axis: int
    vector: torch.Tensor

    def carry_out(self) -> None:
        shape = [1] * self.weight.ndim
        shape[self.axis] = -1
        self.weight.mul_(self.vector.reshape(shape).to(self.weight.dtype))
        if self.bias is not None:
            self.bias.mul_(self.vector.to(self.bias.dtype))


def _into_neighbours(traced: Traced, node: fx.Node, at: int) -> str:
    place = traced.stored(node.args[at])
    gate = traced.tensor(place)
    if gate is None:
        raise Declined("it is computed, not stored")
    traced.require_single_use(place)
    reasons = []
    for find, where in ((_consumers, "the weights that read it"), (_producer, "the weight before it")):
        try:
            folds = find(traced, node, at)
        except Declined as reason:
            reasons.append(str(reason))
            continue
        for fold in folds:
            fold.carry_out()
        gate.fill_(1)
        return f"gate, into {where}"
    raise Declined("; ".join(dict.fromkeys(reasons)))


def _consumers(traced: Traced, node: fx.Node, at: int) -> list[_Fold]:
    """Every reader of the gated value must be a weight that sums over its features."""
    folds: list[_Fold] = []
    gate = traced.value(node.args[at])
    waiting: list[tuple[fx.Node, Callable[[Any], Any]]] = [(user, _same) for user in node.users]
    came: dict[fx.Node, fx.Node] = dict.fromkeys(node.users, node)
    while waiting:
        user, path = waiting.pop()
        kind = traced.kind(user)
        if kind in {_LINEAR, _CONV} and user.args[0] is came[user]:
            weight, _, groups = traced.weights(user)
            if groups != 1:
                raise Declined("the convolution that reads it is grouped")
            traced.require_own_weight(user)
            features = int(weight.shape[1])
            axis = _axis(traced, user, weight)
            folds.append(_Fold(weight, None, 1, _vector(traced, node, gate, path, axis, features)))
        elif kind in _THROUGH | (VIEWS - {"getitem"}):
            step = _same if kind in _THROUGH else _compose(path, traced.step(user))
            for further in user.users:
                came[further] = user
                waiting.append((further, path if kind in _THROUGH else step))
        else:
            raise Declined(f"{kind} reads the gated values, too")
    if not folds:
        raise Declined("nothing reads the gated values")
    if len({id(fold.weight) for fold in folds}) < len(folds):
        raise Declined("one weight reads the gated values twice")
    return folds


def _producer(traced: Traced, node: fx.Node, at: int) -> list[_Fold]:
    """The gated value comes straight from a weight, and nobody else reads it."""
    gate = traced.value(node.args[at])
    source: Any = node.args[1 - at]
    through = _THROUGH | (_POSITIVE if bool((gate >= 0).all()) else set())
    while traced.kind(source) in through and len(source.users) == 1:
        source = source.args[0]
    kind = traced.kind(source)
    if kind not in {_LINEAR, _CONV, _LAYER_NORM, _BATCH_NORM}:
        raise Declined("no weight stands right before it")
    if len(source.users) > 1:
        raise Declined("what comes before it is read elsewhere, too")
    weight, bias, _ = traced.weights(source)
    if weight.ndim != 1 and kind == _LAYER_NORM:
        raise Declined("the norm before it is over several axes")
    traced.require_own_weight(source)
    return [_Fold(weight, bias, 0, _vector(traced, node, gate, _same, _axis(traced, source, weight), len(weight)))]


def _axis(traced: Traced, node: fx.Node, weight: torch.Tensor) -> int:
    """Where the features of a weight's result lie, counted from the end."""
    kind, shape = traced.kind(node), traced.shape(node)
    if kind == _CONV:
        return 1 - weight.ndim
    if kind != _BATCH_NORM:
        return -1
    if shape is None:
        raise Declined("a batch norm stands before it; give example inputs")
    return 1 - len(shape)


def _vector(
    traced: Traced, node: fx.Node, gate: torch.Tensor, path: Callable[[Any], Any], axis: int, features: int
) -> torch.Tensor:
    """[features]: the gate as the weight sees it; declined where it differs from place to place."""
    shape = traced.shape(node)
    if shape is None:
        if path is not _same:
            raise Declined("a reshape stands between gate and weight; give example inputs")
        # Broadcast from the right: one size, and it stands on the feature axis.
        rank = gate.ndim + axis
        sizes = [size for at, size in enumerate(gate.shape) if at != rank]
        alone = rank >= 0 and gate.shape[rank] in {1, features} and all(size == 1 for size in sizes)
        if not alone and gate.numel() != 1:
            raise Declined("it is not one number a feature")
        whole: torch.Tensor = gate.reshape(-1).expand(features).clone()
        return whole
    seen = path(gate.expand(shape).clone() if gate.numel() else gate)
    rows = seen.movedim(axis, -1).reshape(-1, seen.shape[axis])
    if seen.shape[axis] != features or not bool((rows == rows[:1]).all()):
        raise Declined("it is not one number a feature")
    first: torch.Tensor = rows[0].clone()
    return first


def _same(value: Any) -> Any:
    return value


def _compose(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: second(first(value))
