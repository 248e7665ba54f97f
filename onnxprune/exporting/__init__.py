"""Torch modules before they are exported; torch is imported when something here is called, never before."""

from onnxprune.exporting.factory import is_factory, load_module
from onnxprune.exporting.folding import Folded, export_ready, fold
from onnxprune.exporting.preview import Export, Pruned, preview

__all__ = ["Export", "Folded", "Pruned", "export_ready", "fold", "is_factory", "load_module", "preview"]
