"""A torch module trained by one of the methods: exported, trained as a graph, written back and exported again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError, OptionError
from onnxprune.exporting.door import torch_for
from onnxprune.exporting.parameters import Exported, exported, written_into
from onnxprune.model import Model, load, save
from onnxprune.replaying import check_destination
from onnxprune.runtime import Feeds, open_session
from onnxprune.synthetic import synthesise
from onnxprune.training import Trained, train_file

# Of the largest output: exporters order their sums differently.
_TOLERANCE = 1e-3


def train_module(
    module: Any,
    method: Any,
    *,
    inputs: Any = None,
    output: Path | str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **rest: Any,
) -> Trained:
    """Train a module; its parameters are set to what came out, and the file is its export.

    A method that changes structure, or an export that folded parameters, leaves the module as it was; the file then is
    the trained graph, and a note says so.

    Args:
        module: a torch.nn.Module, in whatever mode; it is exported in evaluation mode.
        method: its name, or itself.
        inputs: an example call: a tensor, a tuple of positional or a dict of keyword arguments.
        output: where the result goes; must be given.
        progress: told each step.
        rest: as `train` takes it; inputs of `data` are named as the keyword arguments, or `input`, `input_0`, ….

    Raises:
        OnnxPruneError: an input is at fault; nothing has been written.
    """
    torch = torch_for("train")
    if not isinstance(module, torch.nn.Module):
        raise OptionError(
            f"train: the model must be a path or a torch.nn.Module, got {type(module).__name__}. Give one of them."
        )
    if inputs is None or output is None:
        raise OptionError("train: a module needs an example call and a place for the file. Give inputs= and output=.")
    destination = Path(output)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        progress("export the module")
        made = exported(module, inputs, Path(folder))
        check_destination(destination, made.path)
        result = train_file(made.path, method, output=destination, progress=progress, **rest)
        progress("export the trained module")
        note = _exported_again(module, inputs, made, destination)
    return replace(result, input=Path(type(module).__name__), notes=(*result.notes, note))


def _exported_again(module: Any, inputs: Any, made: Exported, destination: Path) -> str:
    """Write the trained numbers into the module and its export over the trained graph; what was done, as a note."""
    trained, before = load(destination), load(made.path)
    kept = {name: each.detach().clone() for name, each in module.named_parameters()}
    why = written_into(module, trained, before, made.places)
    if why:
        return f"the module stays as it was, the file is the trained graph: {why}"
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        try:
            again = load(exported(module, inputs, Path(folder), (made.exporter,)).path)
        except DataError as error:
            why = str(error)
        else:
            why = _differs(trained, again)
        if not why:
            save(again, destination)
            return f"the module holds the trained numbers, the file is its {made.exporter} export"
    with torch_for("train").no_grad():
        for name, each in module.named_parameters():
            each.copy_(kept[name])
    return f"the module stays as it was, the file is the trained graph: {why}"


def _differs(one: Model, other: Model) -> str:
    """Why two models do not answer alike on made-up inputs; empty where they do."""
    first, second = open_session(one), open_session(other)
    feeds: Feeds = synthesise(one, first, count=1).feeds[0]
    for (name, wanted), came in zip(first.run(feeds).items(), second.run(feeds).values(), strict=True):
        scale = max(float(np.abs(wanted).max(initial=0)), 1e-6)
        if wanted.shape != came.shape or float(np.abs(wanted - came).max(initial=0)) > _TOLERANCE * scale:
            return f"its new export gives another {name!r}"
    return ""
