"""A model run piece by piece answers as it does whole, whatever the pieces are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxprune.memory import memory_limited
from onnxprune.model import load
from onnxprune.pieces import cut_into_pieces
from onnxprune.runtime import PieceSession, Session, observe, open_session
from onnxprune.synthetic import synthesise
from tests import graphs
from tests.test_model import call_a_local_function

GRAPHS: tuple[graphs.Maker, ...] = (
    graphs.feed_forward,
    graphs.attention,
    graphs.convolution,
    graphs.branches,
    call_a_local_function,
)


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("limit", [1, 3000, 20_000])
@pytest.mark.parametrize("level", ["none", "default"])
def test_pieces_answer_as_the_whole(tmp_path: Path, make: graphs.Maker, limit: int, level: str) -> None:
    path = graphs.saved(make(), tmp_path)
    model, whole = load(path), open_session(path, level=level)  # type: ignore[arg-type]
    with memory_limited(limit):
        pieces = open_session(path, level=level)  # type: ignore[arg-type]
    assert type(whole) is Session
    assert limit > 1 or type(pieces) is PieceSession
    assert pieces.inputs == whole.inputs
    assert [port.name for port in pieces.outputs] == [port.name for port in whole.outputs]
    for feeds in synthesise(model, whole, seed=0).feeds[:2]:
        expected, obtained = whole.run(feeds), pieces.run(feeds)
        assert expected.keys() == obtained.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(obtained[name], value, rtol=1e-5, atol=1e-6)


def test_no_piece_holds_more_weights_than_it_may(tmp_path: Path) -> None:
    graph = load(graphs.saved(graphs.feed_forward(), tmp_path)).graph
    largest = max(piece.weight_bytes for piece in cut_into_pieces(graph, 1))
    pieces = cut_into_pieces(graph, largest)
    assert 1 < len(pieces) < len(graph.nodes)
    assert all(piece.weight_bytes <= largest for piece in pieces)
    assert [node for piece in pieces for node in piece.nodes] == list(graph.nodes)


def test_tensors_are_observed_piece_by_piece(tmp_path: Path) -> None:
    path = graphs.saved(graphs.attention(), tmp_path)
    model = load(path)
    feeds = synthesise(model, open_session(path), seed=0).feeds[0]
    whole = observe(model, feeds)
    with memory_limited(1):
        parts = observe(model, feeds)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-6)
