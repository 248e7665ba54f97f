"""Biases take up what zeros and few bits do to mean outputs, where there are biases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import spec
from onnxprune.errors import Declined
from onnxprune.model import load, save
from onnxprune.passes import known
from onnxprune.plan import Edit
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node
from tests.quantizing.test_stages import context, correlated

Array = np.ndarray[Any, Any]


def biased() -> onnx.ModelProto:
    """A product with a bias behind it, a Gemm with its own, and a product without."""
    return graphs.model(
        [
            node("MatMul", ["x", "w0"], ["a"]), node("Add", ["a", "b0"], ["b"]), node("Relu", ["b"], ["c"]),
            node("Gemm", ["c", "w1", "b1"], ["d"], transB=1), node("Sigmoid", ["d"], ["e"]),
            node("MatMul", ["e", "w2"], ["y"]),
        ],
        [info("x", ("batch", 64))],
        [info("y", ("batch", 64))],
        {f"w{at}": graphs.weights(64, 64, seed=at) for at in range(3)}
        | {f"b{at}": graphs.weights(64, seed=9 + at) for at in range(2)},
    )  # fmt: skip


def solved(folder: Path, text: str) -> tuple[Path, Path, tuple[Edit, ...], list[dict[str, Array]]]:
    path = graphs.saved(biased(), folder)
    feeds = correlated(path, 6)
    for one in feeds:
        one["x"] += np.float32(1.5)
    model, one = load(path), spec.parse(f"sparse-int8:linears=stored,bits=3,sparsity=0.5{text}", known())
    edits = one.propose(model, find_sites(model), context(feeds)).edits
    save(one.apply(model, edits)[0], folder / "solved.onnx")
    return path, folder / "solved.onnx", edits, feeds


def mean_moved(before: Path, after: Path, feeds: list[dict[str, Array]], name: str) -> float:
    """How far the mean of a tensor over all rows moved, as a share of its spread."""
    values = []
    for path in (before, after):
        proto = onnx.load(path)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        onnx.save(proto, path.with_suffix(".seen.onnx"))
        values.append(np.concatenate([graphs.outputs_of(path.with_suffix(".seen.onnx"), f)[name] for f in feeds]))
    moved = values[0].astype(np.float64).mean(axis=0) - values[1].astype(np.float64).mean(axis=0)
    return float(np.linalg.norm(moved) / np.linalg.norm(values[0].std(axis=0)))


def test_biases_keep_the_mean_of_what_they_are_added_to(tmp_path: Path) -> None:
    before, after, edits, feeds = solved(tmp_path, "")
    assert ["gain" in edit.tensors for edit in edits] == [True, True, False]
    # b and d are sums with biases.
    assert mean_moved(before, after, feeds, "b") < 1e-4
    assert mean_moved(before, after, feeds, "d") < 1e-4
    before, after, edits, feeds = solved(tmp_path, ",correct=no")
    assert not any("gain" in edit.tensors for edit in edits)
    assert mean_moved(before, after, feeds, "d") > 1e-2


def test_a_gain_stays_with_the_integers_that_it_was_solved_for(tmp_path: Path) -> None:
    path, _, edits, _ = solved(tmp_path, "")
    one, model = spec.parse("sparse-int8", known()), load(path)
    dynamic = replace(edits[0], args={**edits[0].args, "forms": {"a": "dynamic"}, "layout": "product"})
    found = one.milder(dynamic)
    assert found is not None
    assert np.array_equal(found[1].tensors["gain"], edits[0].tensors["gain"])
    finer = one.finer(edits[0], model)
    assert finer is not None
    assert "gain" not in finer[1].tensors


@pytest.mark.parametrize("gain", [np.zeros(63, np.float32), np.zeros(64), np.full(64, np.inf, np.float32)])
def test_a_gain_that_fits_no_output_is_declined(tmp_path: Path, gain: Array) -> None:
    path, _, edits, _ = solved(tmp_path, "")
    broken = replace(edits[0], tensors={**edits[0].tensors, "gain": gain})
    with pytest.raises(Declined) as reason:
        spec.parse("sparse-int8", known()).apply(load(path), [broken])
    assert str(reason.value) == (
        f"linear.0: a bias gains finite float32 numbers, one an output, got {gain.dtype} [{len(gain)}]"
    )
