"""Zeros shared out over weights: as many in all as asked, most where the model's loss minds least."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import spec
from onnxprune.errors import DataError, OptionError
from onnxprune.model import Model, load
from onnxprune.passes import SparseInt8, known
from onnxprune.protocol import Context
from onnxprune.runtime import open_session
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node
from tests.quantizing.test_stages import context, correlated, zeros


def two_branches() -> onnx.ModelProto:
    """Two products of like size; what the second gives out hardly counts."""
    return graphs.model(
        [
            node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["x"], ["t"]), node("MatMul", ["t", "w1"], ["b"]),
            node("Mul", ["b", "little"], ["c"]), node("Add", ["a", "c"], ["y"]),
        ],
        [info("x", ("batch", 64))],
        [info("y", ("batch", 64))],
        {"w0": graphs.weights(64, 64), "w1": graphs.weights(64, 64, seed=1), "little": np.array(0.01, np.float32)},
    )  # fmt: skip


def test_zeros_go_where_the_loss_minds_least(tmp_path: Path) -> None:
    path = graphs.saved(two_branches(), tmp_path)
    feeds = correlated(path, 4)
    wanted = [graphs.outputs_of(path, one)["y"] for one in feeds]

    def loss(model: Model) -> float:
        session = open_session(model)
        return float(sum(np.square(session.run(one)["y"] - y).sum() for one, y in zip(feeds, wanted, strict=True)))

    model = load(path)
    one = spec.parse("sparse-int8:sparsity=0.5,allocation=loss", known())
    first, second = one.propose(model, find_sites(model), replace(context(feeds), loss=loss)).edits
    # Both are 4096 numbers: together as many zeros as half of each would be, and 8 bits round some more to zero.
    assert 0.5 <= (zeros(first) + zeros(second)) / 2 < 0.53
    assert zeros(second) > 0.85


@pytest.mark.parametrize("score", ["magnitude", "obs"])
def test_without_sample_inputs_there_is_no_loss_to_go_by(tmp_path: Path, score: str) -> None:
    model = load(graphs.saved(two_branches(), tmp_path))
    one = spec.parse(f"sparse-int8:sparsity=0.5,allocation=loss,solver=round,score={score}", known())
    with pytest.raises(DataError) as error:
        one.propose(model, find_sites(model), Context())
    assert str(error.value) == (
        "sparse-int8: allocation=loss needs sample inputs. Give --data, or solver=round,score=magnitude,"
        "allocation=uniform, or --allow-synthetic to calibrate on made-up ones."
    )


def test_blocks_leave_nothing_to_share_out() -> None:
    with pytest.raises(OptionError) as error:
        SparseInt8(sparsity="2:4", allocation="loss")
    assert str(error.value) == "sparse-int8: allocation=loss needs sparsity to be a share, got '2:4'."
