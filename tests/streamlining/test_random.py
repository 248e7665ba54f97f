"""Each rewrite on random graphs: outputs stay, it finds its places, and it leaves alone what only looks like one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxprune.streamlining import REWRITES
from tests.streamlining import sketches
from tests.streamlining.rewriting import moved_by


@dataclass(frozen=True)
class Case:
    """What one rewrite is held to.

    Attributes:
        sketch: draws a graph.
        share: of the graphs in which the rewrite finds a place, at least.
        moved: outputs may move by this share of the largest; half precision counts in steps of 2^-11.
        examples: graphs that are drawn.
    """

    sketch: sketches.Sketch
    share: float
    moved: float = 1e-5
    examples: int = 15


CASES = {
    "shapes": Case(sketches.shapes, 0.5, moved=0),
    "sizes": Case(sketches.sizes, 0.5, moved=1e-6, examples=25),
    "duplicates": Case(sketches.duplicates, 0.4, moved=0),
    "positions": Case(sketches.positions, 0.3, moved=0, examples=30),
    "spreads": Case(sketches.spreads, 0.3, moved=0, examples=30),
    "fused-attention": Case(sketches.attention, 0.4, examples=25),
    "nan-guards": Case(sketches.guards, 0.4),
    "scales": Case(sketches.scales, 0.2, moved=4e-3, examples=20),
    "gains": Case(sketches.gains, 0.3, moved=4e-3),
    "tables": Case(sketches.tables, 0.3),
    "clips": Case(sketches.clips, 0.2, moved=0, examples=20),
    "gemms": Case(sketches.gemms, 0.4, moved=4e-3, examples=20),
    "movement": Case(sketches.movement, 0.3, moved=0, examples=20),
}


def drawn(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_output_of_any_graph_moves(name: str) -> None:
    case, fired = CASES[name], list[bool]()

    @drawn(case.examples)
    @given(st.data())
    def hold(data: st.DataObject) -> None:
        done, _ = moved_by(case.sketch(data), name, tolerance=case.moved)
        fired.append(done.places > 0)

    hold()
    assert np.mean(fired) >= case.share


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_a_caller_may_give_are_not_built_upon(name: str) -> None:
    """Every float constant is an input, too, and is given another value in each run."""

    @drawn(4)
    @given(st.data())
    def hold(data: st.DataObject) -> None:
        net = CASES[name].sketch(data)
        floats, read = {TensorProto.FLOAT, TensorProto.FLOAT16}, {name for node in net.nodes for name in node.input}
        for tensor in net.initializers:
            if tensor.data_type in floats and tensor.name in read:
                net.input(tensor.name, list(tensor.dims), tensor.data_type)
        moved_by(net, name, tolerance=CASES[name].moved)

    hold()


def test_every_rewrite_is_held_against_random_graphs() -> None:
    """Fixed steps in tests of their own: they need statistics."""
    assert {*CASES, "fixed-steps"} == {rewrite.name for rewrite in REWRITES}
