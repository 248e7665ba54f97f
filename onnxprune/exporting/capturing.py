"""A module exported by both of torch's exporters, into a folder that the caller throws away."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.exporting.door import torch_for
from onnxprune.exporting.folding import arguments, call, copied, tensors_in

if TYPE_CHECKING:
    from torch import nn

TORCHSCRIPT_OPSET, DYNAMO_OPSET = 17, 18
EXPORTERS = ("torchscript", "dynamo")


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What one exporter made.

    Attributes:
        exporter: `torchscript` or `dynamo`.
        path: the file; None where the exporter gave up.
        dynamic: whether batch (and sequence) sizes may change.
        failure: the exporter's own first line.
    """

    exporter: str
    path: Path | None
    dynamic: bool = False
    failure: str = ""


def capture(
    module: nn.Module, inputs: Any, folder: Path, exporters: Collection[str] = EXPORTERS
) -> tuple[Capture, ...]:
    """Both exports, or those that are named; with dynamic batch and, for tokens, sequence sizes where they take that.

    Args:
        module: exported in evaluation mode, as a copy.
        inputs: an example call.
        folder: where the files go.
        exporters: of `EXPORTERS`.
    """
    return tuple(
        _attempt(name, export, copied(module).eval(), inputs, folder / f"{name}.onnx")
        for name, export in zip(EXPORTERS, (_torchscript, _dynamo), strict=True)
        if name in exporters
    )


_Exporter = Callable[["nn.Module", Any, Path, bool], None]


def _attempt(name: str, export: _Exporter, module: nn.Module, inputs: Any, path: Path) -> Capture:
    failure = ""
    for dynamic in (True, False):
        given = _twice(module, inputs) if dynamic else inputs
        if given is None:
            continue
        try:
            with _silent():
                export(module, given, path, dynamic)
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises is the answer
            path.unlink(missing_ok=True)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            failure = f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
        else:
            return Capture(exporter=name, path=path, dynamic=dynamic)
    return Capture(exporter=name, path=None, failure=failure)


def _axes(inputs: Any) -> tuple[list[str], list[dict[int, str]]]:
    """Names of the inputs and of their dynamic axes: the batch, and the sequence of token ids and masks."""
    torch = torch_for("check")
    args, kwargs = arguments(inputs)
    named = [*((f"input_{at}" if len(args) > 1 else "input", value) for at, value in enumerate(args)), *kwargs.items()]
    tokens = any(isinstance(v, torch.Tensor) and v.ndim == 2 and not v.is_floating_point() for _, v in named)
    names, axes = [], []
    for name, value in named:
        if not isinstance(value, torch.Tensor):
            continue
        names.append(name)
        dynamic = {0: "batch"} if value.ndim else {}
        if tokens and value.ndim == 2:
            dynamic[1] = "sequence"
        axes.append(dynamic)
    return names, axes


def _torchscript(module: nn.Module, inputs: Any, path: Path, dynamic: bool) -> None:
    torch = torch_for("check")
    args, kwargs = arguments(inputs)
    names, axes = _axes(inputs)
    torch.onnx.export(
        module,
        args,
        str(path),
        kwargs=kwargs or None,
        dynamo=False,
        opset_version=TORCHSCRIPT_OPSET,
        input_names=names,
        dynamic_axes=dict(zip(names, axes, strict=True)) if dynamic else None,
    )


def _dynamo(module: nn.Module, inputs: Any, path: Path, dynamic: bool) -> None:
    torch = torch_for("check")
    args, kwargs = arguments(inputs)
    names, axes = _axes(inputs)
    shapes: Any = None
    if dynamic:
        made = {name: torch.export.Dim(name) for name in ("batch", "sequence")}
        ready = [{at: made[label] for at, label in each.items()} for each in axes]
        shapes = dict(zip(kwargs, ready, strict=True)) if kwargs else tuple(ready)
    program = torch.onnx.export(
        module,
        args,
        kwargs=kwargs or None,
        dynamo=True,
        opset_version=DYNAMO_OPSET,
        input_names=names,
        dynamic_shapes=shapes,
        verbose=False,
    )
    program.save(str(path))


def _twice(module: nn.Module, inputs: Any) -> Any:
    """The call with a batch of two at least: a batch of one is taken for a constant. None where that does not run."""
    torch = torch_for("check")
    args, kwargs = arguments(inputs)
    held = [*args, *kwargs.values()]
    if not all(isinstance(value, torch.Tensor) and value.ndim for value in held):
        return None
    if all(value.shape[0] > 1 for value in held):
        return inputs
    more = [torch.cat([value, value]) for value in held]
    given = dict(zip(kwargs, more, strict=True)) if kwargs else tuple(more)
    try:
        with torch.no_grad():
            tensors_in(call(module, given))
    except Exception:  # noqa: BLE001 - the module takes this batch only
        return None
    return given


@contextmanager
def _silent() -> Iterator[None]:
    """Exporters print much, some of it from C++; what matters is in the report."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w", encoding="utf-8") as sink,
            redirect_stdout(sink),
            redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            for number in (1, 2):
                os.dup2(sink.fileno(), number)
            yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        logging.disable(before)
