"""What training leaves around weights (pruning masks, parametrizations, gates) becomes part of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.errors import ModelError
from onnxprune.exporting.door import torch_for
from onnxprune.exporting.gates import fold_gates

if TYPE_CHECKING:
    from torch import nn

# Of the largest output: what another order of multiplications moves in float32.
TOLERANCE = 1e-4
_OWN = {"__dict__", "__weakref__"}


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A module without masks.

    Attributes:
        module: equal in its outputs to the original in evaluation mode.
        folded: what became part of a weight: name -> how.
        left: what did not: name -> why.
    """

    module: nn.Module
    folded: Mapping[str, str]
    left: Mapping[str, str]


def export_ready(module: nn.Module, inputs: Any = None) -> nn.Module:
    """A copy of a module in evaluation mode whose masks, parametrizations and gates are part of its weights.

    Masks of `torch.nn.utils.prune` and parametrizations of `torch.nn.utils.parametrize` (weight norms among them) are
    always folded. Gates, that is parameters or buffers that multiply features or weights, are folded where a trace
    proves that a neighbouring weight can take them; a gate then stays in the module as ones.

    Args:
        module: left as it is.
        inputs: an example call: a tensor, a tuple of positional arguments or a dict of keyword arguments. With it,
            gates behind reshapes (those of attention heads) are folded, too, and the outputs are compared.

    Raises:
        MissingDependencyError: torch is not installed.
        ModelError: the copy does not answer as the original does.
    """
    return fold(module, inputs).module


def fold(module: nn.Module, inputs: Any = None) -> Folded:
    """As `export_ready`, with what was folded and what was not."""
    torch = torch_for("export_ready")
    ready = copied(module).eval()
    folded: dict[str, str] = {}
    left: dict[str, str] = {}
    with torch.no_grad():
        for name, part in list(ready.named_modules()):
            _fold_masks(part, name, folded)
            _fold_parametrizations(part, name, folded, left)
            _fold_norms(part, name, folded)
        gates, refused = fold_gates(ready, inputs)
    if inputs is not None:
        _prove(module, ready, inputs)
    return Folded(module=ready, folded=folded | gates, left=left | refused)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; `copy.deepcopy` alone refuses the weights that pruning computes from its masks."""
    torch = torch_for("export_ready")
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def call(module: nn.Module, inputs: Any) -> Any:
    """The module's answer to an example call."""
    args, kwargs = arguments(inputs)
    return module(*args, **kwargs)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of an example call."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def tensors_in(value: Any) -> list[Any]:
    """Every tensor of an answer, however it is nested."""
    torch = torch_for("export_ready")
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for one in value.values() for tensor in tensors_in(one)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for one in value for tensor in tensors_in(one)]
    return []


def _fold_masks(part: nn.Module, name: str, folded: dict[str, str]) -> None:
    """Masks of `torch.nn.utils.prune`."""
    from torch.nn.utils import prune

    masked = [str(hook._tensor_name) for hook in _hooks(part) if isinstance(hook, prune.BasePruningMethod)]  # noqa: SLF001 - the name is given nowhere else
    for tensor in masked:
        prune.remove(part, tensor)
        folded[f"{name}.{tensor}".lstrip(".")] = "pruning mask"


def _fold_parametrizations(part: nn.Module, name: str, folded: dict[str, str], left: dict[str, str]) -> None:
    from torch.nn.utils import parametrize

    if not parametrize.is_parametrized(part):
        return
    # Parametrizations are properties of a class that the copy shares with the original, and are taken off the class.
    kind = type(part)
    part.__class__ = type(kind.__name__, kind.__bases__, {k: v for k, v in vars(kind).items() if k not in _OWN})
    for tensor, steps in list(part.parametrizations.items()):  # type: ignore[union-attr, operator]
        full = f"{name}.{tensor}".lstrip(".")
        kinds = ", ".join(type(step).__name__.lstrip("_") for step in steps)
        try:
            parametrize.remove_parametrizations(part, tensor, leave_parametrized=True)
        except Exception as error:  # noqa: BLE001 - a parametrization is the user's own code
            left[full] = f"the parametrization {kinds} cannot be removed: {error}"
        else:
            _store(part, tensor)
            folded[full] = f"parametrization {kinds}"


def _store(part: nn.Module, name: str) -> None:
    """A weight that was computed becomes a parameter, or it would be missing from the state dictionary."""
    torch = torch_for("export_ready")
    value = getattr(part, name)
    if not isinstance(value, torch.nn.Parameter):
        delattr(part, name)
        part.register_parameter(name, torch.nn.Parameter(value.detach(), requires_grad=value.is_floating_point()))


def _fold_norms(part: nn.Module, name: str, folded: dict[str, str]) -> None:
    """The older weight and spectral norms, which are hooks."""
    from torch.nn.utils import remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for hook in _hooks(part):
        for kind, remove in ((WeightNorm, remove_weight_norm), (SpectralNorm, remove_spectral_norm)):
            if isinstance(hook, kind):
                remove(part, hook.name)
                folded[f"{name}.{hook.name}".lstrip(".")] = kind.__name__


def _hooks(part: nn.Module) -> list[Any]:
    """What runs before the module and computes its weight."""
    return list(part._forward_pre_hooks.values())  # noqa: SLF001 - torch offers no other way to see them


def _prove(module: nn.Module, ready: nn.Module, inputs: Any) -> None:
    torch = torch_for("export_ready")
    original = copied(module).eval()
    with torch.no_grad():
        wanted, given = tensors_in(call(original, inputs)), tensors_in(call(ready, inputs))
    for at, (one, other) in enumerate(zip(wanted, given, strict=True)):
        if not one.is_floating_point():
            continue
        largest = float(one.abs().max()) if one.numel() else 0.0
        moved = float((one - other).abs().max()) if one.numel() else 0.0
        if not moved <= TOLERANCE * max(largest, 1e-6):
            raise ModelError(
                f"export_ready: output {at} moved by {moved:.3g}, of {largest:.3g} at most {TOLERANCE:g} is rounding. "
                "Fold this module by hand."
            )
