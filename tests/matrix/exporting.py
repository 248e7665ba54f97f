"""Export a tiny model once for every exporter and attention implementation; files are kept beside the repository."""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.matrix.architectures import ARCHITECTURES, Architecture

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

EXPORTERS = ("torchscript17", "dynamo18", "dynamo23")
ATTENTIONS = ("sdpa", "eager")
TRACED = (3, 19)
PROBES = ((2, 17), (5, 13), (3, 11))
CHECKED = ((2, 14), (1, 23))


@dataclass(frozen=True)
class ExportFailedError(Exception):
    """The exporter or transformers itself gave up."""

    why: str


def feeds(name: str, batch: int, length: int, seed: int = 0) -> Feeds:
    """Random inputs of an architecture; images keep their side, so that `length` then only moves the seed."""
    architecture = ARCHITECTURES[name]
    numbers = np.random.default_rng(seed + length)
    if architecture.inputs == "image":
        side = architecture.side
        return {"pixel_values": numbers.standard_normal((batch, 3, side, side)).astype(np.float32)}
    if architecture.inputs == "mel":
        return {"input_features": numbers.standard_normal((batch, 12, 40)).astype(np.float32)}
    if architecture.inputs == "wave":
        return {"input_values": numbers.standard_normal((batch, 10 * length + 60)).astype(np.float32)}
    mask = np.ones((batch, length), dtype=np.int64)
    mask[-1, length - 3 :] = 0
    tokens = numbers.integers(3, 97, (batch, length))
    held = {"input_ids": tokens, "attention_mask": mask}
    if architecture.inputs == "text to text":
        held["decoder_input_ids"] = numbers.integers(3, 97, (batch, length - 4))
    return held


def cache_folder() -> Path:
    """Outside of the repository; another version of a library or of the table is another folder."""
    import torch
    import transformers

    steps = (feeds, build, _wrapped, _dynamic, _export)
    sources = [inspect.getsource(step) for step in steps]
    text = "".join([torch.__version__, transformers.__version__, onnx.__version__, *sources])
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    base = os.environ.get("ONNXPRUNE_EXPORTS")
    folder = (Path(base) if base else Path(tempfile.gettempdir()) / "onnxprune-exports") / mark
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def exported(name: str, exporter: str, attention: str) -> Path:
    """The ONNX file of one cell.

    Raises:
        ExportFailedError: the exporter gave up, with its first line.
    """
    architecture = ARCHITECTURES[name]
    mark = hashlib.sha256(repr(architecture).encode()).hexdigest()[:8]
    path = cache_folder() / f"{name}-{exporter}-{attention}-{mark}.onnx"
    failed = path.with_suffix(".failed")
    if not path.exists() and not failed.exists():
        try:
            with warnings.catch_warnings(), Path(os.devnull).open("w") as sink:
                warnings.simplefilter("ignore")
                with redirect_stdout(sink), redirect_stderr(sink):
                    _export(architecture, name, exporter, attention, path)
        except Exception as error:  # noqa: BLE001 - whatever the exporter raises is the cell's result
            path.unlink(missing_ok=True)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            failed.write_text(f"{type(error).__name__}: {lines[0][:160] if lines else ''}")
    if failed.exists():
        raise ExportFailedError(failed.read_text())
    return path


def build(architecture: Architecture, attention: str) -> Any:
    """The torch module, its weights random and large enough for every unit to matter."""
    import torch
    import transformers

    config = getattr(transformers, architecture.config)(**architecture.sizes)
    config._attn_implementation = attention
    owner, _, part = architecture.model.partition(".")
    torch.manual_seed(0)
    model = getattr(transformers, owner)(config)
    model = getattr(model, part) if part else model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, float(parameter[0].numel()) ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def _wrapped(model: Any, names: Sequence[str]) -> Any:
    import torch

    class Wrapped(torch.nn.Module):
        """Plain arguments in, one tensor out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def run(self, **kwargs: Any) -> Any:
            accepted = inspect.signature(model.forward).parameters
            if "use_cache" in accepted:
                kwargs["use_cache"] = False
            out = model(**kwargs)
            return out.logits if "logits" in out else out.last_hidden_state

    class One(Wrapped):
        def forward(self, a: Any) -> Any:
            return self.run(**{names[0]: a})

    class Two(Wrapped):
        def forward(self, a: Any, b: Any) -> Any:
            return self.run(**{names[0]: a, names[1]: b})

    class Three(Wrapped):
        def forward(self, a: Any, b: Any, c: Any) -> Any:
            return self.run(**{names[0]: a, names[1]: b, names[2]: c})

    return [One, Two, Three][len(names) - 1]().eval()


def _dynamic(names: Sequence[str], inputs: str) -> list[dict[int, str]]:
    if inputs in {"image", "mel"}:
        return [{0: "batch"}]
    if inputs == "wave":
        return [{0: "batch", 1: "samples"}]
    return [{0: "batch", 1: "decoder_sequence" if "decoder" in name else "sequence"} for name in names]


def _export(architecture: Architecture, name: str, exporter: str, attention: str, path: Path) -> None:
    import torch

    sample = feeds(name, *TRACED)
    names = list(sample)
    module = _wrapped(build(architecture, attention), names)
    arguments = tuple(torch.from_numpy(value) for value in sample.values())
    axes = _dynamic(names, architecture.inputs)
    if exporter == "torchscript17":
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["y"],
            dynamic_axes=dict(zip(names, axes, strict=True)) | {"y": {0: "batch"}},
        )
        return
    made: dict[str, Any] = {}
    shapes = tuple({at: made.setdefault(label, torch.export.Dim(label)) for at, label in each.items()} for each in axes)
    program = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        opset_version=int(exporter.removeprefix("dynamo")),
        input_names=names,
        output_names=["y"],
        dynamic_shapes=shapes,
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    program.save(str(path))
