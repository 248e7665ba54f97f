"""Texts that name targets."""

from __future__ import annotations

import pytest

from onnxprune.errors import OptionError
from onnxprune.targets.cpu import CpuTarget
from onnxprune.targets.target import parse_target


@pytest.mark.parametrize(("text", "threads"), [("cpu", 1), ("cpu:1", 1), ("cpu:12", 12)])
def test_a_processor_is_named_with_its_threads(text: str, threads: int) -> None:
    target = parse_target(text)
    assert target == CpuTarget(threads)
    assert target.name == f"cpu:{threads}"
    assert target.kind == "measured"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu:0", "No target named 'gpu:0'. Known: cpu:THREADS."),
        ("cpu:", "Target 'cpu:': threads must be a number from 1 to 1024, got ''."),
        ("cpu:0", "Target 'cpu:0': threads must be a number from 1 to 1024, got '0'."),
        ("cpu:two", "Target 'cpu:two': threads must be a number from 1 to 1024, got 'two'."),
        ("cpu:²", "Target 'cpu:²': threads must be a number from 1 to 1024, got '²'."),
    ],
)
def test_an_unknown_target_is_refused_with_what_is_known(text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_target(text)
    assert str(caught.value) == message
