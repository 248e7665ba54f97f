"""Targets that need more than the wheel of onnxruntime: tested where they are set up."""

from __future__ import annotations

import pytest

from onnxprune.targets.target import Target, parse_target


def installed(name: str) -> Target:
    """The target; a skip that says what is missing and what sets it up where it is not there."""
    target = parse_target(name)
    missing = target.probe()
    if missing is not None:
        pytest.skip(f"{name}: {missing}")
    return target
