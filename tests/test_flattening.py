"""Nested data survives the way through a document and arrays; nothing but named classes comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from onnxprune.calibration import Columns, Statistics
from onnxprune.flattening import flattened, unflattened
from onnxprune.resuming import _HELD


@dataclass(frozen=True)
class Inner:
    """Holds an array."""

    values: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outer:
    """Holds all that can be held."""

    inner: Inner
    by_name: dict[str, tuple[int, float, None]]
    flag: bool


VALUE = Outer(Inner(np.arange(3.0)), {"array": (1, 0.1, None), "class": (2, float("inf"), None)}, True)


def test_what_goes_in_comes_out() -> None:
    document, arrays = flattened(VALUE)
    back = unflattened(json.loads(json.dumps(document)), arrays, (Outer, Inner))
    assert (back.by_name, back.flag) == (VALUE.by_name, VALUE.flag)
    np.testing.assert_array_equal(back.inner.values, VALUE.inner.values)


def test_numbers_of_numpy_become_plain() -> None:
    assert json.dumps(flattened((np.float64(0.5), np.int64(3)))[0]) == "[0.5, 3]"


@pytest.mark.parametrize("value", [{1: 2}, object(), {3}, int])
def test_what_is_no_plain_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        flattened(value)


@pytest.mark.parametrize(
    "document",
    [
        {"class": "Popen", "fields": {"args": ["true"]}},
        {"class": "Inner", "fields": {"other": 1}},
        {"class": "Inner", "fields": {}},
        {"array": "7"},
        {"neither": 1},
    ],
)
def test_a_damaged_document_is_refused(document: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        unflattened(document, {}, (Outer, Inner))


def test_all_that_statistics_hold_is_kept() -> None:
    """A class that statistics come to hold must be named, or they are collected again and again."""
    named = {one.__name__ for one in _HELD}
    texts = [str(one.type) for kind in (Statistics, Columns) for one in fields(kind)]
    plain = {"Mapping", "Array", "Matrix", "None", "int", "float", "str", "tuple"}
    words = {word for text in texts for word in text.replace("[", " ").replace("]", " ").replace(",", " ").split()}
    assert words - plain - {"|"} <= named
