"""How weights are stored: form, zeros and bits, told from the graph alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from onnxprune import optimize, pipeline
from onnxprune.cli import main
from onnxprune.cost import cost
from onnxprune.model import load, save
from onnxprune.passes import Cluster, PackWeights
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from onnxprune.sites import find_sites
from onnxprune.storage import Stored, stored_weights
from tests import graphs

Array = np.ndarray[Any, Any]


def weights_of(proto: onnx.ModelProto, folder: Path) -> dict[str, Stored]:
    """By name."""
    return {one.name: one for one in stored_weights(load(graphs.saved(proto, folder)))}


def packed(proto: onnx.ModelProto, folder: Path, *names: str) -> Path:
    """The model with these weights packed."""
    one, path = PackWeights(), folder / "packed.onnx"
    edits = [Edit(id=name, pass_name=one.name, site=name, kind="pack", args={"weight": name}) for name in names]
    save(one.apply(load(graphs.saved(proto, folder)), edits)[0], path)
    return path


def test_dense_weights_take_the_bits_of_their_type(tmp_path: Path) -> None:
    one = weights_of(graphs.matmul(dtype=np.float16), tmp_path)["w"]
    assert (one.form, one.dtype, one.shape, one.numbers, one.bits) == ("dense", "float16", (64, 64), 4096, 16)
    assert one.sparsity == 0


def test_packed_weights_count_as_the_dense_ones_that_they_stand_for(tmp_path: Path) -> None:
    proto = graphs.compressible()
    dense = weights_of(proto, tmp_path)
    model = load(packed(proto, tmp_path, "table", "w"))
    small = {one.name: one for one in stored_weights(model)}
    assert small.keys() == dense.keys()
    for name, one in small.items():
        assert (one.shape, one.dtype, one.nonzero) == (dense[name].shape, dense[name].dtype, dense[name].nonzero)
    assert [small[name].form for name in ("table", "other", "w")] == ["codebook of 4 bits", "dense", "bitmap"]
    # A bit a number and 32 for each of the fifth that is not zero; 7 numbers fit half a byte.
    assert small["w"].bits == pytest.approx(1 + 0.2 * 32, rel=0.05)
    assert small["table"].bits == pytest.approx(4, rel=0.05)
    before, after = (cost(each, (), None) for each in (load(tmp_path / "model.onnx"), model))
    assert (before.params, before.nonzero) == (after.params, after.nonzero)


def test_what_stands_for_zero_is_the_zero_point(tmp_path: Path) -> None:
    integers = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    integers[:, :48] = np.array([128, 7] * 24, np.uint8)
    zeros = np.array([128, 7] * 32, np.uint8)
    proto = graphs.model(
        [graphs.node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1), graphs.node("MatMul", ["x", "d"], ["y"])],
        [graphs.info("x", ("batch", 64))],
        [graphs.info("y", ("batch", 64))],
        {"w": integers, "s": np.full(64, 0.1, np.float32), "z": zeros},
    )
    one = weights_of(proto, tmp_path)["w"]
    assert one.nonzero == np.count_nonzero(integers != zeros)
    assert one.sparsity > 0.74
    again = {each.name: each for each in stored_weights(load(packed(proto, tmp_path, "w")))}["w"]
    assert (again.nonzero, again.form) == (one.nonzero, "bitmap")


def test_operators_that_unpack_blocks_count_numbers_and_not_bytes(tmp_path: Path) -> None:
    """MatMulNBits: [n, blocks, bytes], the lower half first, 8 stands for zero."""
    values = np.random.default_rng(0).integers(1, 8, (32, 64))
    values[:, ::4] = 0
    halves = (values + 8).astype(np.uint8).reshape(32, 2, 16, 2)
    proto = graphs.model(
        [graphs.node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=64, N=32, bits=4, block_size=32)],
        [graphs.info("x", ("batch", 64))],
        [graphs.info("y", ("batch", 32))],
        {"b": halves[..., 0] | (halves[..., 1] << 4), "s": np.ones((32, 2), np.float32)},
        domains=("com.microsoft",),
    )
    one = weights_of(proto, tmp_path)["b"]
    assert (one.form, one.dtype, one.shape, one.bits, one.sparsity) == ("blocks of 4 bits", "int4", (32, 64), 4, 0.25)


def test_rows_that_are_decoded_when_looked_up_count_as_numbers(tmp_path: Path) -> None:
    model, one = load(graphs.saved(graphs.compressible(), tmp_path)), Cluster()
    result, _ = one.apply(model, one.propose(model, find_sites(model), Context()).edits)
    table = {each.name: each for each in stored_weights(result)}["other.codes"]
    assert (table.form, table.shape, table.bits) == ("codebook of 4 bits, decoded when looked up", (80, 64), 4)
    assert cost(result, (), None).params == cost(model, (), None).params


def test_inspect_tells_how_weights_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.chdir(tmp_path)
    graphs.saved(graphs.compressible(), tmp_path)
    result = optimize("model.onnx", output="small.onnx", passes=["pack-weights"])
    assert result.before.params == result.after.params
    assert result.before.nonzero == result.after.nonzero
    document = json.loads(CliRunner().invoke(main, ["inspect", "small.onnx", "--json"]).output)
    (table, other, weight) = document["weights"]
    assert document["params"] == 80 * 64 * 2 + 64 * 64
    assert table.keys() == {"name", "form", "dtype", "shape", "numbers", "nonzero", "sparsity", "bits", "bytes"}
    assert [one["form"] for one in (table, other, weight)] == ["codebook of 4 bits", "dense", "bitmap"]
    # Sites are those of the dense model: packing hides none.
    assert [site["weight"] for site in document["sites"] if site["weight"]] == ["table", "other", "w"]
    text = CliRunner().invoke(main, ["inspect", "small.onnx"]).output
    assert "stored: 1 x bitmap float32: 4,096 numbers, " in text
    assert "w       bitmap              float32  64x64" in text


def test_zeros_of_any_kind_of_model_are_told(tmp_path: Path) -> None:
    values = graphs.weights(64, 64)
    values[:32] = 0
    proto = graphs.matmul()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    assert weights_of(proto, tmp_path)["w"].sparsity == 0.5
