"""Damaged models."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import graphs
from tests.fuzz.child import Child
from tests.fuzz.damage import bytes_changed, keep, nodes_changed
from tests.test_model import call_a_local_function, read_int4

SOURCES: tuple[graphs.Maker, ...] = (
    graphs.feed_forward,
    lambda: graphs.convolution(opset=11, ir=3),
    graphs.attention,
    graphs.branches,
    read_int4,
    call_a_local_function,
)


@pytest.fixture(scope="module", name="child")
def _child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("cases", [100, pytest.param(2500, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
def test_damaged_models_never_end_in_a_traceback(child: Child, tmp_path: Path, cases: int) -> None:
    whole = [make().SerializeToString() for make in SOURCES]
    path, result = tmp_path / "damaged.onnx", tmp_path / "small.onnx"
    for case in range(cases):
        chance = random.Random(case)  # noqa: S311 - chance, not secrets
        data = bytes_changed(chance.choice(whole), chance, near=400)
        path.write_bytes(data)
        answer = child.run(["optimize", str(path), "-o", str(result)])
        if answer.trace or answer.code not in (0, 1, 2):
            keep(f"found-{case}.onnx", data)
        assert not answer.trace, f"case {case}: {answer.trace}"
        assert answer.code in (0, 1, 2), case
        assert path.read_bytes() == data, case
        results = {each for each in tmp_path.iterdir() if each != path}
        if answer.code == 2:
            assert len(answer.stderr.splitlines()) == 1, f"case {case}: {answer.stderr}"
            assert not results, case
        for each in results:
            each.unlink()


@pytest.mark.parametrize("cases", [40, pytest.param(1000, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
def test_checking_models_of_odd_nodes_ends_with_findings(child: Child, tmp_path: Path, cases: int) -> None:
    path = tmp_path / "odd.onnx"
    for case in range(cases):
        chance = random.Random(case)  # noqa: S311 - chance, not secrets
        data = nodes_changed(chance.choice(SOURCES)(), chance)
        path.write_bytes(data)
        answer = child.run(["check", str(path)])
        if answer.trace:
            keep(f"found-nodes-{case}.onnx", data)
        assert not answer.trace, f"case {case}: {answer.trace}"
        assert answer.code in (0, 1), f"case {case}: {answer.stderr}"
