"""A packed model as one with dense weights, for tools that cannot read packed ones."""

from __future__ import annotations

from pathlib import Path

from onnxprune.errors import ModelError
from onnxprune.model import load, save
from onnxprune.packing import unpacked
from onnxprune.replaying import check_destination
from onnxprune.runtime import open_session


def unpack(model: Path | str, output: Path | str) -> int:
    """Write a model with dense weights; they have the bytes that they had before packing.

    Args:
        model: an .onnx file; one with nothing packed is copied.
        output: where the result goes.

    Returns:
        How many weights were packed.

    Raises:
        ModelError: the file is no model, or onnxruntime refuses the result.
        OutputError: the place cannot be written.
    """
    path, destination = Path(model), Path(output)
    check_destination(destination, path)
    dense, count = unpacked(load(path), lookups=True)
    try:
        open_session(dense)
    except ModelError:
        # Where the model itself is at fault, the message names its file.
        open_session(path)
        raise
    save(dense, destination)
    return count
