"""Compress exported ONNX models, with proof: `from onnxprune import ...` is the whole public surface."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.bitmasks import mask
    from onnxprune.blaming import blame
    from onnxprune.checking import check
    from onnxprune.comparison import time, validate
    from onnxprune.deployment import deploy
    from onnxprune.exporting import export_ready
    from onnxprune.inspection import inspect
    from onnxprune.ngrams.building import build_ngram
    from onnxprune.pipeline import apply, optimize
    from onnxprune.recovering import recover
    from onnxprune.sweeping import sweep
    from onnxprune.training import train
    from onnxprune.unpacking import unpack

# Looked up when first used, so that importing the package costs next to nothing.
_HOMES = {
    "apply": "onnxprune.pipeline",
    "blame": "onnxprune.blaming",
    "build_ngram": "onnxprune.ngrams.building",
    "check": "onnxprune.checking",
    "deploy": "onnxprune.deployment",
    "export_ready": "onnxprune.exporting",
    "inspect": "onnxprune.inspection",
    "mask": "onnxprune.bitmasks",
    "optimize": "onnxprune.pipeline",
    "recover": "onnxprune.recovering",
    "sweep": "onnxprune.sweeping",
    "time": "onnxprune.comparison",
    "train": "onnxprune.training",
    "unpack": "onnxprune.unpacking",
    "validate": "onnxprune.comparison",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "apply",
    "blame",
    "build_ngram",
    "check",
    "deploy",
    "export_ready",
    "inspect",
    "mask",
    "optimize",
    "recover",
    "sweep",
    "time",
    "train",
    "unpack",
    "validate",
]
