"""Masks stored apart from the weights that they mask: one base file, and for each task a bit for each weight.

A masks file is safetensors: the packed bits of each weight under its name, most significant first, and among the
metadata a JSON document {"schema", "base_sha256", "shapes": {NAME: [...]}}. Nothing in it is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from onnxprune.errors import DataError
from onnxprune.graph import constants, numbers
from onnxprune.model import Model, load, save
from onnxprune.packing import unpacked
from onnxprune.replaying import check_destination
from onnxprune.runtime import Array, open_session
from onnxprune.store import digest_of

_SCHEMA = 1
# Names, shapes and digest of a model with thousands of weights.
_LARGEST_HEADER = 2**24


def mask(base: Path | str, masks: Path | str, output: Path | str) -> int:
    """Write a base model with a task's masks applied; the numbers that stay have the base's bits.

    Args:
        base: the .onnx file that the masks were learned on.
        masks: the file that `train --method mask-only` wrote beside its result.
        output: where the result goes.

    Returns:
        How many weights were masked.

    Raises:
        OnnxPruneError: the masks are damaged, or of another base; nothing has been written.
    """
    path, destination = Path(base), Path(output)
    check_destination(destination, path)
    model, _ = unpacked(load(path))
    held = read_masks(Path(masks), model)
    result = masked(model, held)
    open_session(result)
    save(result, destination)
    return len(held)


def masked(model: Model, masks: Mapping[str, Array]) -> Model:
    """A copy of a model with zeros wherever a mask is False."""
    copy = model.copy()
    for constant in constants(copy.graph):
        if constant.name in masks:
            values = numbers(constant)
            constant.values = np.where(masks[constant.name], values, np.zeros((), values.dtype))
    return copy


def weights_digest(model: Model) -> str:
    """SHA-256 of every stored tensor by its name."""
    return digest_of("", {constant.name: numbers(constant) for constant in constants(model.graph)})


def to_bytes(model: Model, masks: Mapping[str, Array]) -> bytes:
    """A masks file of a base model.

    Args:
        model: the base.
        masks: True where a number stays, by the names and in the shapes of stored tensors.
    """
    document = {
        "schema": _SCHEMA,
        "base_sha256": weights_digest(model),
        "shapes": {name: list(one.shape) for name, one in masks.items()},
    }
    packed = {name: np.packbits(one) for name, one in masks.items()}
    return bytes(safetensors.numpy.save(packed, metadata={"document": json.dumps(document)}))


def read_masks(path: Path, model: Model) -> dict[str, Array]:
    """The masks of a file, by weight, held against the base that they are for.

    Raises:
        DataError: there is no such file, it is damaged, or it is of another base.
    """
    stored = {constant.name: tuple(numbers(constant).shape) for constant in constants(model.graph)}
    most = sum(math.prod(shape) for shape in stored.values()) // 8 + len(stored) + _LARGEST_HEADER
    try:
        digest, packed, shapes = _read(path, most)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Give the masks that train --method mask-only wrote.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as e:
        raise DataError(
            f"{path}: not a file of masks, or damaged ({_line(e)}). Give the masks that train --method mask-only wrote."
        ) from e
    actual = weights_digest(model)
    if digest != actual:
        raise DataError(
            f"{path}: learned on weights with sha256 {digest:.12}…, the base has {actual[:12]}…. Give the base that "
            "they were learned on."
        )
    for name, shape in shapes.items():
        if stored.get(name) != shape:
            raise DataError(f"{path}: the base has no weight {name!r} {list(shape)}. Give masks of this base.")
    return {
        name: np.unpackbits(packed[name], count=math.prod(shape)).astype(bool).reshape(shape)
        for name, shape in shapes.items()
    }


def _read(path: Path, most: int) -> tuple[str, dict[str, Array], dict[str, tuple[int, ...]]]:
    """Digest of the base, packed bits and shapes.

    Raises:
        ValueError: the file is not one of ours.
    """
    if path.stat().st_size > most:
        raise ValueError("it is larger than masks of this model can be")
    with safetensors.safe_open(path, framework="numpy") as file:
        document = json.loads((file.metadata() or {})["document"])
        packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    return document["base_sha256"], packed, _shapes(document, packed)


def _shapes(document: Any, packed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, each with as many bits as it has numbers.

    Raises:
        ValueError: the document is not one of ours.
    """
    shapes = {str(name): tuple(int(size) for size in shape) for name, shape in document["shapes"].items()}
    if document["schema"] != _SCHEMA or not isinstance(document["base_sha256"], str) or set(shapes) != set(packed):
        raise ValueError("its document is another's")
    for name, shape in shapes.items():
        bits = packed[name]
        sound = all(size >= 0 for size in shape) and bits.dtype == np.uint8
        if not sound or bits.shape != (-(-math.prod(shape) // 8),):
            raise ValueError(f"{name!r} has not a bit a number")
    return shapes


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
