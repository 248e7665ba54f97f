"""The torch module that a user names, and an example call to export it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.errors import DataError
from onnxprune.exporting.door import torch_for
from onnxprune.exporting.folding import call, copied
from onnxprune.user_code import is_function, running

if TYPE_CHECKING:
    from torch import nn

# Sides of images, and lengths, to try where the factory gives no inputs.
_SIDES = (224, 32, 28, 64)
_LENGTHS = (16, 8, 64)

is_factory = is_function


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A module and how to call it.

    Attributes:
        inputs: a tensor, a tuple of positional or a dict of keyword arguments.
        guessed: whether the inputs were made up.
    """

    module: nn.Module
    inputs: Any
    guessed: bool


def load_module(spec: str) -> Loaded:
    """The module that `package.module:factory` returns, alone or with an example call.

    Raises:
        MissingDependencyError: torch is not installed.
        DataError: the factory fails, or returns something else.
    """
    torch = torch_for(f"check {spec}")
    with running(spec, DataError, "Mend the factory.") as factory:
        made = factory()
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        kind = type(module).__name__
        raise DataError(f"{spec}: must return a torch.nn.Module or (module, example inputs), got {kind}. Return one.")
    if inputs is not None:
        _try(module, inputs, f"{spec}: the module fails on its example inputs")
        return Loaded(module=module, inputs=inputs, guessed=False)
    for guess in _guesses(module):
        try:
            _try(module, guess, spec)
        except DataError:
            continue
        return Loaded(module=module, inputs=guess, guessed=True)
    raise DataError(f"{spec}: no made-up inputs run. Return (module, example inputs) from the factory.")


def _try(module: nn.Module, inputs: Any, who: str) -> None:
    torch = torch_for(who)
    try:
        with torch.no_grad():
            call(copied(module).eval(), inputs)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{who}: {lines[0][:200]}. Give inputs of its types and shapes.") from error


def _guesses(module: nn.Module) -> Iterator[Any]:
    """What modules say of themselves, then what their first layer reads."""
    torch = torch_for("check")
    for name in ("dummy_inputs", "example_input_array"):
        known = getattr(module, name, None)
        if isinstance(known, Mapping):
            yield {key: value for key, value in known.items() if isinstance(value, torch.Tensor)}
        elif known is not None:
            yield known
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        shapes = _shapes(part)
        yield from (torch.randn(2, *shape, generator=generator) for shape in shapes)
        if isinstance(part, torch.nn.Embedding):
            shapes = _LENGTHS
            yield from (torch.randint(part.num_embeddings, (2, size), generator=generator) for size in _LENGTHS)
        if shapes:
            return


def _shapes(part: nn.Module) -> Sequence[Any]:
    """Of one sample, for a layer that reads numbers."""
    torch = torch_for("check")
    if isinstance(part, torch.nn.Linear):
        return ((part.in_features,), (_LENGTHS[0], part.in_features))
    if isinstance(part, torch.nn.Conv1d):
        return ((part.in_channels, 400),)
    if isinstance(part, torch.nn.Conv2d):
        return tuple((part.in_channels, side, side) for side in _SIDES)
    return ()
