"""Hostile files that are kept: made by hand, or found by the fuzzing beside this and written here by it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import graphs
from tests.fuzz.child import Child
from tests.fuzz.damage import CORPUS


@pytest.fixture(scope="module", name="child")
def _child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_a_kept_file_ends_in_one_line_and_leaves_nothing(child: Child, path: Path, tmp_path: Path) -> None:
    given, out = tmp_path / path.name, tmp_path / "out.onnx"
    shutil.copy(path, given)
    command = ["optimize", str(given), "-o", str(out)]
    if path.suffix == ".json":
        model = graphs.saved(graphs.matmul(), tmp_path)
        save_file({"e/weight": np.zeros((4, 4), np.int8)}, given.with_suffix(".safetensors"))
        command = ["apply", str(model), str(given), "-o", str(out), "--force"]
    before = set(tmp_path.iterdir())
    answer = child.run(command)
    assert not answer.trace, answer.trace
    assert answer.code == 2, answer.stderr
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert set(tmp_path.iterdir()) == before
