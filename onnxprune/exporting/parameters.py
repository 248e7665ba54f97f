"""Which stored tensor of an export is which parameter of the module, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.exporting.capturing import EXPORTERS, Capture, capture
from onnxprune.exporting.door import torch_for
from onnxprune.exporting.folding import copied
from onnxprune.graph import constants, numbers
from onnxprune.model import Model, load, save

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray[Any, Any]
# Exporters store equal tensors once, and training would tie them: while exported, parameters differ by so little.
_APART = 1e-4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a parameter stands in an export.

    Attributes:
        parameter: its name in the module.
        transposed: whether it is stored with its two axes swapped.
    """

    parameter: str
    transposed: bool


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A module as an ONNX file.

    Attributes:
        exporter: that made it.
        places: parameters by the stored tensor that holds them.
    """

    path: Path
    exporter: str
    places: Mapping[str, Place]


def exported(module: nn.Module, inputs: Any, folder: Path, exporters: Sequence[str] = EXPORTERS) -> Exported:
    """Export a module with every parameter stored apart, and find each again.

    Args:
        module: left as it is.
        inputs: an example call.
        folder: where the file goes.
        exporters: to try in turn, until one makes a file for batches of any size.

    Raises:
        DataError: neither exporter takes the module.
    """
    torch = torch_for("train")
    apart = copied(module)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for each in apart.parameters():
            noise = torch.randn(each.shape, generator=generator)
            each.add_((_APART * noise).to(each))
    found = _best(inputs, apart, folder, exporters)
    if found.path is None:
        raise DataError(f"train: torch cannot export the module: {found.failure}. Mend it or give an .onnx file.")
    model = load(found.path)
    places = dict(_found(model, apart))
    _restore(model, module, places)
    path = folder / "exported.onnx"
    save(model, path)
    return Exported(path=path, exporter=found.exporter, places=places)


def _best(inputs: Any, module: nn.Module, folder: Path, exporters: Sequence[str]) -> Capture:
    tried: list[Capture] = []
    for name in exporters:
        tried += capture(module, inputs, folder, (name,))
        if tried[-1].path is not None and tried[-1].dynamic:
            break
    return max(tried, key=lambda one: (one.path is not None, one.dynamic))


def _found(model: Model, module: nn.Module) -> Iterator[tuple[str, Place]]:
    held = {name: each.detach().cpu().numpy() for name, each in module.named_parameters()}
    known: dict[tuple[Any, ...], tuple[str, bool]] = {}
    for name, values in held.items():
        known[_key(values)] = (name, False)
        if values.ndim == 2:
            known.setdefault(_key(values.T), (name, True))
    for constant in constants(model.graph):
        values = numbers(constant)
        match = known.get(_key(values)) if values.dtype.kind == "f" and values.size else None
        if match is not None:
            yield constant.name, Place(parameter=match[0], transposed=match[1])


def _key(values: Array) -> tuple[Any, ...]:
    return (values.shape, np.ascontiguousarray(values).tobytes())


def _restore(model: Model, module: nn.Module, places: Mapping[str, Place]) -> None:
    """The numbers of the module itself, without what told them apart."""
    held = dict(module.named_parameters())
    for constant in constants(model.graph):
        place = places.get(constant.name)
        if place is not None:
            values = held[place.parameter].detach().cpu().numpy()
            constant.values = np.ascontiguousarray(values.T if place.transposed else values)


def written_into(module: nn.Module, trained: Model, before: Model, places: Mapping[str, Place]) -> str:
    """Set a module's parameters to what training made of its export.

    Returns:
        Why they could not be set; empty where they were. Then the module is as it was.
    """
    torch = torch_for("train")
    then = {constant.name: numbers(constant) for constant in constants(before.graph)}
    now = {constant.name: numbers(constant) for constant in constants(trained.graph)}
    moved = [name for name, values in now.items() if name not in then or not np.array_equal(values, then[name])]
    strange = sorted(name for name in moved if name not in places or now[name].shape != then[name].shape)
    gone = sorted(name for name in places if name not in now)
    if strange or gone:
        return f"{(strange or gone)[0]!r} is no parameter of the module as it stands"
    held = dict(module.named_parameters())
    with torch.no_grad():
        for name in moved:
            values = now[name].T if places[name].transposed else now[name]
            parameter = held[places[name].parameter]
            parameter.copy_(torch.from_numpy(np.array(values)).to(parameter))
    return ""
