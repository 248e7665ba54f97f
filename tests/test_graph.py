"""Small questions about graphs are answered for bodies too, and without reading weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxprune.graph import constants, elements, fresh_name, is_floating, numbers, producer, storage, stored_bytes, walk
from onnxprune.model import load
from tests import graphs


def test_walking_enters_bodies_outermost_first(tmp_path: Path) -> None:
    graph = load(graphs.saved(graphs.branches(), tmp_path)).graph
    found = [(holder is graph, node.op) for holder, node in walk(graph)]
    assert found == [(True, "If"), (False, "MatMul"), (False, "MatMul"), (False, "MatMul"), (True, "MatMul")]


def test_constants_are_counted_once_wherever_they_are_read(tmp_path: Path) -> None:
    graph = load(graphs.saved(graphs.branches(), tmp_path)).graph
    assert sorted(tensor.name for tensor in constants(graph)) == ["v", "w"]
    # Two matrices of 64 x 64 floats
    assert storage(graph) == (2 * 64 * 64, 2 * 64 * 64 * 4)


def test_sizes_of_scalars_and_of_nothing() -> None:
    assert elements(gs.Constant("scalar", np.array(1.0))) == 1
    assert elements(gs.Constant("empty", np.zeros((0, 4)))) == 0
    assert stored_bytes(gs.Constant("half", np.zeros(3, np.float16))) == 6


@pytest.mark.parametrize(("dtype", "expected"), [("f2", True), ("f4", True), ("f8", True), ("i1", False), ("?", False)])
def test_floating_types_are_those_of_weights(dtype: str, expected: bool) -> None:
    assert is_floating(gs.Constant("w", np.zeros(2, dtype))) is expected


def test_reading_numbers_keeps_a_constant_as_it_is_stored(tmp_path: Path) -> None:
    (tensor,) = constants(load(graphs.saved(graphs.sparse(np.array([1, 2, 3])), tmp_path)).graph)
    stored = tensor._values
    assert np.count_nonzero(numbers(tensor)) == 3
    assert tensor._values is stored


def test_a_producer_is_a_node_or_nobody(tmp_path: Path) -> None:
    graph = load(graphs.saved(graphs.matmul(), tmp_path)).graph
    found = producer(graph.outputs[0])
    assert found is graph.nodes[0]
    assert producer(graph.inputs[0]) is None


def test_a_fresh_name_is_nobody_elses(tmp_path: Path) -> None:
    graph = load(graphs.saved(graphs.matmul(), tmp_path)).graph
    assert fresh_name(graph, "new") == "new"
    assert fresh_name(graph, "w") == "w.1"
    taken = {"w", "w.1"}
    assert [fresh_name(graph, "w", taken), fresh_name(graph, "w", taken)] == ["w.2", "w.3"]
