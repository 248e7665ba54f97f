"""Nested data as a JSON document and arrays beside it, and back; nothing but the named classes is ever made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def flattened(value: Any) -> tuple[Any, Arrays]:
    """A document and the arrays that it refers to.

    Args:
        value: dataclasses, mappings with text as keys, sequences, arrays, texts, numbers, truths and None, nested.

    Raises:
        TypeError: something else.
    """
    arrays: Arrays = {}
    return _flat(value, arrays), arrays


def _flat(value: Any, arrays: Arrays) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return _flat(value.item(), arrays)
    if is_dataclass(value) and not isinstance(value, type):
        held = {one.name: _flat(getattr(value, one.name), arrays) for one in fields(value)}
        return {"class": type(value).__name__, "fields": held}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a mapping must have text as keys")
        return {"mapping": {key: _flat(item, arrays) for key, item in value.items()}}
    if isinstance(value, Sequence):
        return [_flat(item, arrays) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain data")


def unflattened(document: Any, arrays: Mapping[str, np.ndarray[Any, Any]], classes: Sequence[type[Any]]) -> Any:
    """The inverse of `flattened`; sequences come back as tuples.

    Args:
        document: that it gave.
        arrays: likewise.
        classes: that may be made.

    Raises:
        KeyError, TypeError, ValueError: the document is damaged, or wants another class.
    """
    if isinstance(document, list):
        return tuple(unflattened(item, arrays, classes) for item in document)
    if not isinstance(document, dict):
        return document
    if "array" in document:
        return arrays[document["array"]]
    if "mapping" in document:
        return {str(key): unflattened(item, arrays, classes) for key, item in document["mapping"].items()}
    kind = {one.__name__: one for one in classes}[document["class"]]
    held = {str(name): unflattened(item, arrays, classes) for name, item in document["fields"].items()}
    if held.keys() != {one.name for one in fields(kind)}:
        raise ValueError(f"a {kind.__name__} with other fields")
    return kind(**held)
