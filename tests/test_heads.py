"""What heads do and how much they matter: planted roles are told, silent heads come last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxprune import learn
from onnxprune.cli import main
from onnxprune.errors import DataError
from onnxprune.heads import Heads, heads
from onnxprune.report.heads import draw_heads
from onnxprune.solvers.attention_roles import Looks, rarest_of
from tests import graphs
from tests.graphs import info, node

LENGTH, TOKENS, HEADS, SIZE = 10, 40, 4, 16


def planted() -> onnx.ModelProto:
    """Attention over tokens whose head 0 looks at the left neighbour and whose head 1 looks at the rarest token."""
    left = np.zeros((1, HEADS, LENGTH, LENGTH), np.float32)
    left[0, 0, range(1, LENGTH), range(LENGTH - 1)] = 60
    # Tokens are drawn so that the higher ones are rarer.
    rare = (np.arange(TOKENS) * 8).astype(np.float32)
    second = np.zeros((1, HEADS, 1, 1), np.float32)
    second[0, 1] = 1
    proto = graphs.attention(HEADS, SIZE)
    graph = proto.graph
    for one in graph.node:
        if one.op_type == "Softmax":
            one.input[0] = "steered"
    extra = [
        node("Gather", ["table", "ids"], ["x"]),
        node("Gather", ["rare", "ids"], ["r"]),
        node("Unsqueeze", ["r", "axes"], ["r4"]),
        node("Mul", ["r4", "second"], ["rs"]),
        node("Add", ["scaled", "left"], ["shifted"]),
        node("Add", ["shifted", "rs"], ["steered"]),
    ]
    nodes = [*extra[:4], *graph.node]
    at = next(i for i, one in enumerate(nodes) if one.op_type == "Softmax")
    nodes[at:at] = extra[4:]
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored |= {"table": graphs.weights(TOKENS, graphs.WIDTH), "rare": rare, "left": left, "second": second}
    stored |= {"axes": np.array([1, 2])}
    ids = info("ids", ("batch", LENGTH), graphs.INT64)
    return graphs.model(nodes, [ids], [info("y", ("batch", LENGTH, graphs.WIDTH))], stored)


def samples(folder: Path) -> Path:
    # Each sample holds a different rarest token: token t is drawn with a weight that falls with t.
    generator = np.random.default_rng(0)
    weights = 0.8 ** np.arange(TOKENS)
    rows = [generator.choice(TOKENS, LENGTH, replace=False, p=weights / weights.sum()) for _ in range(64)]
    path = folder / "data.npz"
    np.savez(path, ids=np.array(rows)[:, None, :])
    return path


@pytest.fixture(name="found")
def _found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heads:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return heads(graphs.saved(planted(), tmp_path), data=str(samples(tmp_path)))


def test_a_planted_positional_head_is_labelled_positional(found: Heads) -> None:
    first, second, *others = found.heads
    assert (first.role.name, first.role.offset) == ("positional", -1)
    assert first.role.positional is not None
    assert first.role.positional > 0.95
    assert second.role.name == "rare-token"
    assert {other.role.name for other in others} == {"none"}


def test_every_head_has_a_share_by_every_score(found: Heads) -> None:
    assert set(found.scores) == {
        "lrp", "magnitude", "michel", "minitron", "obs", "output-norm", "taylor", "wanda",
    }  # fmt: skip
    for name in found.scores:
        assert sum(head.importance[name] for head in found.heads) == pytest.approx(1)
    assert "syntactic roles: not assessed, they need parsed text" in found.notes


def test_without_torch_the_other_scores_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "find_spec", lambda _: None)
    found = heads(graphs.saved(planted(), tmp_path), data=str(samples(tmp_path)))
    assert set(found.scores) == {"magnitude", "minitron", "obs", "output-norm", "wanda"}
    assert "score=michel needs torch, which is not installed. Run: pip install 'onnxprune[torch]'." in found.notes


def test_the_command_prints_a_table_json_and_a_picture(tmp_path: Path) -> None:
    path, data, picture = graphs.saved(planted(), tmp_path), samples(tmp_path), tmp_path / "heads.png"
    command = ["inspect", str(path), "--heads", "--data", str(data)]
    printed = CliRunner().invoke(main, [*command, "--picture", str(picture)])
    assert printed.exit_code == 0, printed.output
    assert "positional" in printed.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    document: dict[str, Any] = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert document["heads"][0]["role"] == "positional"
    assert set(document) == {"model", "data", "scores", "heads", "notes"}


def test_a_picture_needs_a_place(found: Heads, tmp_path: Path) -> None:
    from onnxprune.errors import OutputError

    with pytest.raises(OutputError):
        draw_heads(found, tmp_path / "missing" / "heads.png")


def test_samples_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError) as told:
        heads(graphs.saved(planted(), tmp_path))
    assert str(told.value) == (
        "inspect --heads needs sample inputs. Give --data, or --allow-synthetic for made-up ones."
    )


def test_padding_and_separators_neither_look_nor_are_looked_at() -> None:
    # Everything looks most at place 0, which separates; without it, at the left neighbour.
    attention = np.eye(6, k=-1) * 0.3
    attention[:, 0] = 0.7
    counted = np.array([False, True, True, True, True, False])
    looks = Looks()
    looks.add(attention, counted, None)
    role = looks.result()
    assert (role.name, role.offset, role.positional) == ("positional", -1, 1.0)


def test_a_head_without_maps_is_not_assessed() -> None:
    assert Looks().result().name == "not assessed"


def test_the_rarest_tokens_are_those_that_all_samples_hold_least() -> None:
    tokens = np.array([5, 6, 7, 7])
    found = rarest_of(tokens, np.ones(4, bool), {5: 9, 6: 2, 7: 4})
    assert found is not None
    assert found.tolist() == [False, True, False, False]
    assert rarest_of(tokens, np.ones(4, bool), {5: 1, 6: 1, 7: 1}) is None
