"""Cut inputs and outputs: the model remembers them, and takes the feeds of its original."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from onnxprune.interface import INTERFACE, AxisCut, Interface, interface_of


def cuts() -> Interface:
    """An axis of 8 that lost two entries, then two more of the six that were left."""
    return Interface((AxisCut("past", 1, 8, (0, 1, 2, 5, 6, 7)), AxisCut("past", 1, 6, (0, 2, 3, 5))))


def test_feeds_of_the_original_are_cut_like_the_model() -> None:
    # Of 0 … 7 stay 0 1 2 5 6 7, and of those the entries 0, 2, 3 and 5.
    held = np.arange(8).reshape(1, 8, 1)
    assert cuts().fitted({"past": held})["past"].ravel().tolist() == [0, 2, 5, 7]


def test_feeds_of_a_model_on_the_way_are_cut_from_there_on() -> None:
    held = np.arange(6).reshape(1, 6, 1)
    assert cuts().fitted({"past": held})["past"].ravel().tolist() == [0, 2, 3, 5]


def test_feeds_that_fit_and_other_tensors_stay_as_they_are() -> None:
    for size in (4, 7, 9):
        feeds = {"past": np.zeros((1, size, 1)), "x": np.zeros((1, 8)), "words": ["a"]}
        fitted = cuts().fitted(feeds)
        assert all(fitted[name] is value for name, value in feeds.items())


def test_the_text_round_trips() -> None:
    assert interface_of({INTERFACE: cuts().text()}) == cuts()


@pytest.mark.parametrize(
    "entries", [[["past", 1, 4, [9]]], [["past", -1, 4, [0]]], [["past"]], {"past": 1}, 3, [["past", "x", 1, []]], None]
)
def test_metadata_that_is_not_ours_is_no_cut(entries: Any) -> None:
    assert interface_of({INTERFACE: json.dumps(entries)}) == Interface()
    assert interface_of({INTERFACE: "{"}) == Interface()
