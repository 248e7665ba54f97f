"""Weights solved one after the other: zeros where they were asked for, less lost than by rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import spec
from onnxprune.errors import DataError, OptionError
from onnxprune.inputs import compare_inputs
from onnxprune.model import load, save
from onnxprune.passes import SparseInt8, known
from onnxprune.plan import Change, Edit
from onnxprune.protocol import Context
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node

Array = np.ndarray[Any, Any]


def correlated(path: Path, count: int) -> list[dict[str, Array]]:
    """Feeds whose features, or channels, move together as in networks: rounding can then be made up for."""
    numbers = np.random.default_rng(1)
    first = graphs.feeds_for(path, batch=24)
    axes = {name: 1 if value.ndim > 3 else value.ndim - 1 for name, value in first.items()}
    mixing = {name: numbers.standard_normal((9, value.shape[axes[name]])) for name, value in first.items()}
    made = []
    for _ in range(count):
        feeds = dict(first)
        for name, value in first.items():
            if value.dtype.kind == "f":
                moved = np.moveaxis(value, axes[name], -1)
                drawn = numbers.standard_normal((*moved.shape[:-1], 9)) @ mixing[name]
                drawn += 0.1 * numbers.standard_normal(moved.shape)
                feeds[name] = np.moveaxis(drawn, -1, axes[name]).astype(value.dtype)
        made.append(feeds)
    return made


def solved(proto: onnx.ModelProto, folder: Path, text: str) -> tuple[tuple[Edit, ...], tuple[Change, ...], float]:
    """Edits, changes, and the share of the first output's energy that is lost on new inputs."""
    path = graphs.saved(proto, folder)
    model, one = load(path), spec.parse(f"sparse-int8:{text}", known())
    feeds = correlated(path, 9)
    edits = one.propose(model, find_sites(model), context(feeds[:8])).edits
    result, changes = one.apply(model, edits)
    save(result, folder / "solved.onnx")
    (expected,) = graphs.outputs_of(path, feeds[8]).values()
    (got,) = graphs.outputs_of(folder / "solved.onnx", feeds[8]).values()
    wide = expected.astype(np.float64)
    return edits, changes, float(np.square(got - wide).sum() / np.square(wide).sum())


def context(feeds: list[dict[str, Array]]) -> Context:
    return Context(compare_inputs=lambda current, original, sources: compare_inputs(current, original, sources, feeds))


def zeros(edit: Edit) -> float:
    return float(np.mean(edit.tensors["weight"] == 0))


def chain() -> onnx.ModelProto:
    """Three products, two activations between them."""
    return graphs.model(
        [
            node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["a"], ["b"]),
            node("Gemm", ["b", "w1"], ["c"], transB=1), node("Tanh", ["c"], ["d"]),
            node("MatMul", ["d", "w2"], ["y"]),
        ],
        [info("x", ("batch", 64))],
        [info("y", ("batch", 64))],
        {f"w{at}": graphs.weights(64, 64, seed=at) for at in range(3)},
    )  # fmt: skip


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("solver", ["joint", "prune-then-round", "round"])
def test_zeros_are_as_many_as_asked_and_integers_stay_on_their_grid(tmp_path: Path, bits: int, solver: str) -> None:
    edits, changes, _ = solved(chain(), tmp_path, f"sparsity=0.75,bits={bits},solver={solver}")
    assert len(edits) == 3
    for edit, change in zip(edits, changes, strict=True):
        assert zeros(edit) >= 0.75
        # 8 bits round little else to zero.
        assert bits < 8 or zeros(edit) < 0.78
        assert np.abs(edit.tensors["weight"]).max() <= {8: 127, 4: 7, 3: 3}[bits]
        stated = "as int8" if bits == 8 else f"in {bits} bits"
        assert change.what == f"integer product: 64x64 {stated}, {100 * zeros(edit):.1f} % zeros"


@pytest.mark.parametrize(
    "text", ["sparsity=2:4", "sparsity=1:4,score=wanda", "sparsity=2:4,score=magnitude,solver=round"]
)
def test_blocks_hold_along_the_inputs_whatever_way_the_weight_is_stored(tmp_path: Path, text: str) -> None:
    edits, _, _ = solved(chain(), tmp_path, text)
    most = 1 if "1:4" in text else 2
    for edit in edits:
        # Of integer products the tensors are [k, n], of the transposed Gemm too.
        assert (np.count_nonzero(edit.tensors["weight"].reshape(16, 4, 64), axis=1) <= most).all()


def test_blocks_of_a_convolution_hold_along_its_channels(tmp_path: Path) -> None:
    (edit, *_), _, _ = solved(graphs.convolution(), tmp_path, "sparsity=2:4,convs=stored")
    weight = edit.tensors["weight"]
    blocks = weight.reshape(weight.shape[0], -1, 4, *weight.shape[2:])
    assert (np.count_nonzero(blocks, axis=2) <= 2).all()


@pytest.mark.parametrize("text", ["bits=3", "bits=4", "bits=3,sparsity=0.5", "sparsity=0.5"])
def test_solving_loses_less_than_rounding(tmp_path: Path, text: str) -> None:
    form = "linears=stored"
    rounded = solved(chain(), tmp_path, f"{form},{text},solver=round,score=magnitude")[2]
    joint = solved(chain(), tmp_path, f"{form},{text}")[2]
    assert 0 < joint < 0.7 * rounded


def test_solving_on_what_earlier_weights_left_loses_less(tmp_path: Path) -> None:
    apart = solved(chain(), tmp_path, "linears=stored,sparsity=0.6,bits=4,sequential=no")[2]
    assert solved(chain(), tmp_path, "linears=stored,sparsity=0.6,bits=4")[2] < 0.9 * apart


@pytest.mark.parametrize("proto", [graphs.convolution(), graphs.convolution(group=16), graphs.transposed_convolution()])
def test_convolutions_are_solved_group_by_group(tmp_path: Path, proto: onnx.ModelProto) -> None:
    rounded = solved(proto, tmp_path, "convs=stored,bits=3,solver=round")[2]
    assert 0 < solved(proto, tmp_path, "convs=stored,bits=3")[2] < rounded


def test_a_weight_that_is_read_again_and_again_is_solved_once(tmp_path: Path) -> None:
    edits, _, lost = solved(graphs.reused(layers=3), tmp_path, "sparsity=0.5,linears=stored")
    assert len(edits) == 1
    assert (
        lost < solved(graphs.reused(layers=3), tmp_path, "sparsity=0.5,linears=stored,solver=round,score=magnitude")[2]
    )


def test_tables_and_heads_tied_to_them_get_no_zeros(tmp_path: Path) -> None:
    edits, _, _ = solved(graphs.tied_embedding(), tmp_path, "sparsity=0.5")
    assert [zeros(edit) < 0.02 for edit in edits] == [True]


def test_what_cannot_be_seen_is_pruned_by_size_and_said(tmp_path: Path) -> None:
    _, changes, _ = solved(graphs.recurrent("LSTM"), tmp_path, "sparsity=0.5")
    assert [change.what.rpartition("; ")[2] for change in changes][1] == (
        "its inputs are not looked at: its inputs are states inside the recurrence"
    )


def test_half_precision_goes_through(tmp_path: Path) -> None:
    edits, _, lost = solved(graphs.matmul(dtype=np.float16), tmp_path, "sparsity=0.5,bits=4")
    assert zeros(edits[0]) >= 0.5
    assert lost < 0.3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sparsity": 1.0}, "sparsity must be a share in [0, 1) or N:M with 0 < N < M, got 1.0."),
        ({"sparsity": "4:4"}, "sparsity must be a share in [0, 1) or N:M with 0 < N < M, got '4:4'."),
        ({"sparsity": "half"}, "sparsity must be a share in [0, 1) or N:M with 0 < N < M, got 'half'."),
        ({"sparsity": "\n"}, "sparsity must be a share in [0, 1) or N:M with 0 < N < M, got '\\n'."),
        ({"bits": 5}, "bits must be one of 8, 4, 3, got 5."),
        ({"score": "size"}, "score must be one of obs, wanda, magnitude, got 'size'."),
        ({"solver": "best"}, "solver must be one of auto, joint, prune-then-round, round, got 'best'."),
    ],
)  # fmt: skip
def test_an_option_out_of_bounds_says_what_it_may_be(options: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError) as error:
        SparseInt8(**options)
    assert str(error.value) == f"sparse-int8: {line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sparsity=0.5", "sparsity=0.5 needs sample inputs. Give --data, or solver=round,score=magnitude, or "),
        ("solver=joint", "solver=joint needs sample inputs. Give --data, or solver=round, or "),
        ("sparsity=2:4,score=wanda,solver=round",
         "sparsity=2:4 needs sample inputs. Give --data, or solver=round,score=magnitude, or "),
    ],
)  # fmt: skip
def test_without_sample_inputs_one_line_says_what_to_do(tmp_path: Path, text: str, line: str) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    with pytest.raises(DataError) as error:
        spec.parse(f"sparse-int8:{text}", known()).propose(model, find_sites(model), Context())
    assert str(error.value) == f"sparse-int8: {line}--allow-synthetic to calibrate on made-up ones."


@pytest.mark.parametrize("text", ["bits=4", "sparsity=0.5,solver=round,score=magnitude"])
def test_what_needs_no_inputs_does_without(tmp_path: Path, text: str) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    edits = spec.parse(f"sparse-int8:{text}", known()).propose(model, find_sites(model), Context()).edits
    assert len(edits) == 1
