"""Load and save: the only package that opens model files, and the place where graphsurgeon's gaps are mended.

A model is a graphsurgeon graph, the file-level fields that graphsurgeon drops, and weights that stay on disk, mapped
into memory, until something touches them. Copying a model therefore copies no weights.
"""

from onnxprune.model.core import FileFields, Model, PackedValues, StoredSparse, subgraphs
from onnxprune.model.raw import RawModel, read_raw
from onnxprune.model.reading import data_files, digest, load, size_on_disk
from onnxprune.model.writing import raise_opset, save, to_bytes, to_references, to_skeleton

__all__ = [
    "FileFields",
    "Model",
    "PackedValues",
    "RawModel",
    "StoredSparse",
    "data_files",
    "digest",
    "load",
    "raise_opset",
    "read_raw",
    "save",
    "size_on_disk",
    "subgraphs",
    "to_bytes",
    "to_references",
    "to_skeleton",
]
