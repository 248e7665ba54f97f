"""Few numbers a weight: how many, which, and what becomes of zeros, readers and plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import optimize, pipeline, unpack
from onnxprune.errors import OnnxPruneError
from onnxprune.graph import constants, numbers
from onnxprune.inputs import compare_inputs
from onnxprune.model import Model, load
from onnxprune.packing import find_lookups, find_packed, unpacked
from onnxprune.passes import Cluster
from onnxprune.protocol import Context, Proposal
from onnxprune.runtime import open_session
from onnxprune.sites import find_sites
from tests import graphs

Array = np.ndarray[Any, Any]


def proposed(one: Cluster, proto: onnx.ModelProto, folder: Path, feeds: Array | None = None) -> tuple[Model, Proposal]:
    """What the pass proposes for a new graph, with inputs `x` where some are given."""
    model = load(graphs.saved(proto, folder))
    context = Context()
    if feeds is not None:
        samples = ({"x": feeds},)
        context = Context(
            compare_inputs=lambda current, original, sources: compare_inputs(current, original, sources, samples)
        )
    return model, one.propose(model, find_sites(model), context)


def weight_of(model: Model, name: str = "w") -> Array:
    """A weight as its readers get it."""
    return next(numbers(t) for t in constants(unpacked(model, lookups=True)[0].graph) if t.name == name)


@pytest.mark.parametrize("count", [16, 256])
def test_a_weight_holds_no_more_numbers_than_asked(tmp_path: Path, count: Any) -> None:
    one = Cluster(centroids=count)
    model, proposal = proposed(one, graphs.matmul(rows=128), tmp_path)
    result, (change,) = one.apply(model, proposal.edits)
    assert len(np.unique(weight_of(result))) == count
    # 64 · 128 numbers of half a byte or one, the codebook, and less than a kilobyte of tables and places.
    assert change.bytes_after <= 64 * 128 * (0.5 if count == 16 else 1) + 4 * count + 1024
    assert change.what.endswith(f"128x64, {count} numbers")


def test_zeros_stay_zeros_and_nothing_else_becomes_one(tmp_path: Path) -> None:
    proto = graphs.matmul()
    values = graphs.weights(64, 64)
    values[np.random.default_rng(0).random(values.shape) < 0.6] = 0
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    feeds = np.random.default_rng(1).standard_normal((100, 64)).astype(np.float32)
    for samples in (None, feeds):
        one = Cluster()
        model, proposal = proposed(one, proto, tmp_path, samples)
        result, _ = one.apply(model, proposal.edits)
        came = weight_of(result)
        assert np.array_equal(came == 0, values == 0)
        assert len(np.unique(came)) == 16


def test_inputs_that_come_make_up_for_rounding(tmp_path: Path) -> None:
    """With samples the outputs are nearer than with the nearest numbers, and those nearer than without a weight."""
    generator = np.random.default_rng(0)
    mixed = generator.standard_normal((64, 64)) * np.geomspace(3, 0.01, 64)
    feeds = (generator.standard_normal((400, 64)) @ mixed).astype(np.float32)
    losses = []
    for one, samples in ((Cluster(), feeds), (Cluster(solver="round"), feeds), (Cluster(solver="round"), None)):
        model, proposal = proposed(one, graphs.matmul(), tmp_path, samples)
        result, _ = one.apply(model, proposal.edits)
        expected, came = (open_session(each).run({"x": feeds})["y"] for each in (model, result))
        losses.append(float(np.square(came - expected).sum() / np.square(expected).sum()))
    assert losses[0] < 0.5 * losses[1]
    assert losses[1] < losses[2]


def test_rows_are_decoded_after_they_are_looked_up(tmp_path: Path) -> None:
    one = Cluster()
    proto = graphs.compressible()
    model, proposal = proposed(one, proto, tmp_path)
    result, _ = one.apply(model, proposal.edits)
    (table,) = find_lookups(result.graph)
    assert (table.shape, table.codes.shape) == ((80, 64), (80, 32))
    assert np.array_equal(table.decoded(), weight_of(result, "other"))
    ids = np.array([[0, 79, -1], [5, -80, 7]])
    dense, _ = unpacked(result, lookups=True)
    for level in ("default", "none"):
        came = open_session(result, level=level).run({"ids": ids})["y"]
        assert np.array_equal(came, open_session(dense, level=level).run({"ids": ids})["y"])
    assert find_packed(dense.graph) == ()
    assert find_lookups(dense.graph) == ()


def test_a_table_that_a_head_multiplies_by_is_decoded_at_load(tmp_path: Path) -> None:
    one = Cluster()
    model, proposal = proposed(one, graphs.tied_embedding(), tmp_path)
    result, (change,) = one.apply(model, proposal.edits)
    assert change.what == "codebook of 4 bits: 80x32, 16 numbers"
    assert find_lookups(result.graph) == ()


def test_an_unpacked_file_has_dense_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    graphs.saved(graphs.compressible(), tmp_path)
    optimize(tmp_path / "model.onnx", output=tmp_path / "small.onnx", passes=["cluster", "pack-weights"])
    assert unpack(tmp_path / "small.onnx", tmp_path / "dense.onnx") == 3
    plain = onnx.load(tmp_path / "dense.onnx")
    assert sorted(tensor.name for tensor in plain.graph.initializer) == ["other", "table", "w"]
    assert [node.op_type for node in plain.graph.node] == ["Gather", "Gather", "Add", "MatMul"]


def test_weights_that_stay_are_named_with_the_reason(tmp_path: Path) -> None:
    _, proposal = proposed(Cluster(embeddings=False), graphs.compressible(), tmp_path)
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("embedding.0", "option embeddings=no"),
        ("embedding.1", "option embeddings=no"),
    ]
    _, proposal = proposed(Cluster(), graphs.compressible(), tmp_path)
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("embedding.0", "it holds 7 different numbers, no more than 16")
    ]
    _, proposal = proposed(Cluster(), graphs.recurrent("LSTM"), tmp_path, np.zeros((5, 2, 16), np.float32))
    assert [edit.args.get("blind") for edit in proposal.edits] == [None, "its inputs are states inside the recurrence"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"centroids": 8}, "cluster: centroids must be one of 16, 256, got 8."),
        ({"solver": "best"}, "cluster: solver must be one of auto, joint, round, got 'best'."),
    ],
)
def test_options_that_no_form_stands_for_are_told(options: dict[str, Any], line: str) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        Cluster(**options)
    assert str(caught.value) == line


def test_making_up_for_rounding_needs_samples(tmp_path: Path) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        proposed(Cluster(solver="joint"), graphs.matmul(), tmp_path)
    assert str(caught.value) == (
        "cluster: solver=joint needs sample inputs. Give --data, or solver=round, or --allow-synthetic to calibrate on "
        "made-up ones."
    )
