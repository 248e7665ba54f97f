"""Forms of 4 bits: rows that are unpacked as they are looked up, products with packed weights, blocks of inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune import int4, spec
from onnxprune.errors import Declined, OptionError, TargetError
from onnxprune.graph import constants
from onnxprune.latency import Clock
from onnxprune.model import load, save
from onnxprune.passes import SparseInt8, known
from onnxprune.plan import Edit
from onnxprune.protocol import Context, Level
from onnxprune.sites import Site, find_sites
from onnxprune.targets.target import parse_target
from tests import graphs
from tests.graphs import info, node

Array = np.ndarray[Any, Any]


def table(rows: int = 80, width: int = 64, dtype: Any = np.float32, rank: int = 2) -> onnx.ModelProto:
    """A table, looked up by numbers of some rank, and a function of the rows."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shape = ("batch", "sequence")[:rank]
    return graphs.model(
        [node("Gather", ["w", "i"], ["r"]), node("Tanh", ["r"], ["y"])],
        [info("i", shape, onnx.TensorProto.INT64)],
        [info("y", (*shape, width), kind)],
        {"w": graphs.weights(rows, width, dtype=dtype)},
    )


def quantized(
    proto: onnx.ModelProto, folder: Path, text: str, context: Context | None = None
) -> tuple[Path, Path, tuple[Edit, ...]]:
    path = graphs.saved(proto, folder)
    model, one = load(path), spec.parse(f"sparse-int8:{text}", known())
    edits = one.propose(model, find_sites(model), context or Context()).edits
    save(one.apply(model, edits)[0], folder / "int.onnx")
    return path, folder / "int.onnx", edits


def decoded(edit: Edit) -> Array:
    """What a table's integers stand for."""
    numbers, scale = edit.tensors["weight"].astype(np.float64), edit.tensors["scale"].astype(np.float64)
    return numbers * np.repeat(scale, numbers.shape[1] // scale.shape[1], axis=1)


def favouring(form: str) -> Context:
    """A clock that finds one form faster than all others."""

    def latency(site: Site, level: Level) -> float:
        assert site.weight == "w"
        return 1.0 if level.form == form else 2.0

    return Context(latency=latency)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("text", ["embeddings=4", "embeddings=4,block=16"])
@pytest.mark.parametrize("form", ["packed-rows", "block-rows"])
def test_rows_come_out_as_their_integers_say(tmp_path: Path, form: str, text: str, dtype: Any, rank: int) -> None:
    before, after, (edit,) = quantized(table(dtype=dtype, rank=rank), tmp_path, text, favouring(form))
    assert edit.args["forms"] == {"r": form}
    assert edit.tensors["scale"].shape == (80, 4 if "block" in text else 1)
    feeds = graphs.feeds_for(before)
    wanted = np.tanh(decoded(edit)[feeds["i"]])
    for optimized in (True, False):
        (got,) = graphs.outputs_of(after, feeds, optimized=optimized).values()
        assert got.dtype == dtype
        # The runtime's own operator multiplies in the scales' type, half precision.
        exact = dtype == np.float32 and form == "packed-rows"
        assert np.abs(got - wanted).max() < (1e-6 if exact else 3e-3)
    # 80 rows of 32 bytes, and scales.
    assert [tensor.values.nbytes for tensor in constants(load(after).graph) if tensor.name == "w.int4"] == [80 * 32]


def test_rows_of_an_odd_width_stay_a_byte_a_number(tmp_path: Path) -> None:
    _, _, (edit,) = quantized(table(width=63), tmp_path, "embeddings=4")
    assert edit.args["forms"] == {"r": "gather"}
    assert np.abs(edit.tensors["weight"]).max() == 7


def test_a_tied_table_keeps_the_bits_of_its_product(tmp_path: Path) -> None:
    proto = graphs.tied_embedding()
    assert "bits" not in quantized(proto, tmp_path, "embeddings=4")[2][0].args
    assert quantized(proto, tmp_path, "embeddings=4,bits=4")[2][0].args["bits"] == 4


def test_two_numbers_share_a_byte_the_earlier_one_below() -> None:
    # (-8 + 8) + 16 (7 + 8) = 240; (1 + 8) + 16 (0 + 8) = 137.
    bytes_ = int4.packed(np.array([[-8, 7, 1, 0]], np.int8))
    assert bytes_.tolist() == [[240, 137]]
    assert int4.pairs()[bytes_].reshape(1, 4).tolist() == [[-8, 7, 1, 0]]


@pytest.mark.parametrize(("width", "blocks", "size"), [(384, 1, 512), (384, 3, 128), (64, 4, 16), (10, 1, 16)])
def test_a_block_as_the_runtime_counts_it_makes_as_many_scales(width: int, blocks: int, size: int) -> None:
    assert int4.block_size(width, blocks) == size
    assert -(-width // size) == blocks


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "proto", [graphs.matmul, lambda dtype: graphs.gemm(dtype, transB=1, alpha=0.5, beta=2.0)], ids=["matmul", "gemm"]
)
def test_a_product_with_packed_weights_and_its_milder_form_agree(
    tmp_path: Path, proto: Any, dtype: Any, bits: int
) -> None:
    text = f"linears=weight-only,bits={bits},block=16"
    before, after, (edit,) = quantized(proto(dtype=dtype), tmp_path, text)
    assert Counter(n.op_type for n in onnx.load(after).graph.node)["MatMulNBits"] == 1
    assert edit.tensors["scale"].shape[0] == 4
    words, milder = SparseInt8().milder(edit) or ("", edit)
    assert words == "packed products"
    model = load(before)
    save(SparseInt8().apply(model, [milder])[0], tmp_path / "milder.onnx")
    feeds = graphs.feeds_for(before)
    (expected,), (packed,), (stored,) = (
        graphs.outputs_of(path, feeds).values() for path in (before, after, tmp_path / "milder.onnx")
    )
    scale = float(np.abs(expected).max())
    assert packed.dtype == stored.dtype == expected.dtype
    # Activations are rounded to 8 bits in the one and not in the other.
    assert np.abs(packed.astype(np.float64) - stored).max() < 0.02 * scale
    assert 0 < np.abs(packed.astype(np.float64) - expected).max() < {8: 0.03, 4: 0.25, 3: 0.6}[bits] * scale


def test_blocks_lose_less_than_one_scale_an_output(tmp_path: Path) -> None:
    lost = {}
    for text in ("linears=weight-only,block=16", "linears=stored"):
        before, after, _ = quantized(graphs.matmul(), tmp_path, f"{text},bits=4")
        feeds = graphs.feeds_for(before)
        (wanted,), (got,) = (graphs.outputs_of(path, feeds).values() for path in (before, after))
        lost[text] = float(np.square(got - wanted).sum())
    assert lost["linears=weight-only,block=16"] < 0.9 * lost["linears=stored"]


@pytest.mark.parametrize(("form", "taken"), [("weight-only", "weight-only"), ("int8", "dynamic")])
def test_the_clock_chooses_how_few_bits_are_multiplied(tmp_path: Path, form: str, taken: str) -> None:
    _, _, (edit,) = quantized(graphs.matmul(), tmp_path, "bits=4", favouring(form))
    assert set(edit.args["forms"].values()) == {taken}


def test_a_runtime_without_the_operator_gets_what_every_runtime_has(tmp_path: Path) -> None:
    def latency(site: Site, level: Level) -> float:
        raise TargetError(f"{site.id}: no {level.form}.")

    lost = Context(latency=latency)
    assert set(quantized(graphs.matmul(), tmp_path, "bits=4", lost)[2][0].args["forms"].values()) == {"dynamic"}
    assert set(quantized(table(), tmp_path, "embeddings=4", lost)[2][0].args["forms"].values()) == {"packed-rows"}


def test_eight_bits_are_not_timed(tmp_path: Path) -> None:
    _, _, (edit,) = quantized(graphs.matmul(), tmp_path, "bits=8", favouring("weight-only"))
    assert set(edit.args["forms"].values()) == {"dynamic"}


@pytest.mark.serial
def test_the_clock_times_forms_of_four_bits(tmp_path: Path) -> None:
    clock = Clock(parse_target("cpu:1"), budget_s=0.02)
    for proto, forms in ((graphs.matmul(), ("weight-only", "int8")), (table(), ("packed-rows", "block-rows"))):
        path = graphs.saved(proto, tmp_path)
        model = load(path)
        latency = clock.of(model, graphs.feeds_for(path))
        (site,) = (site for site in find_sites(model) if site.weight)
        assert all(latency(site, Level(form=form)) > 0 for form in forms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"forms": {"r": "dense"}}, "embedding.0: no form named 'dense'"),
        ({"weight": np.full((80, 64), 9, np.int8)}, "embedding.0: 'w' must be integers of 4 bits, from -8 to 7"),
        ({"scale": np.ones((80, 5), np.float32)}, "embedding.0: scales [80, 5] do not fit 'w' [80, 64]"),
        ({"scale": np.ones((80, 64), np.float32)}, "embedding.0: scales [80, 64] do not fit 'w' [80, 64]"),
        ({"scale": np.ones((80, 0), np.float32)}, "embedding.0: scales [80, 0] do not fit 'w' [80, 64]"),
    ],
    ids=["form", "range", "ragged", "odd", "none"],
)
def test_a_plan_that_does_not_fit_says_where(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    path, _, (edit,) = quantized(table(), tmp_path, "embeddings=4")
    args = {key: value for key, value in change.items() if key == "forms"}
    tensors = {key: value for key, value in change.items() if key != "forms"}
    broken = replace(edit, args={**edit.args, **args}, tensors={**edit.tensors, **tensors})
    with pytest.raises(Declined) as reason:
        SparseInt8().apply(load(path), [broken])
    assert str(reason.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"block": 24}, "block must be a power of two from 16 on, got 24."),
        ({"block": 8}, "block must be a power of two from 16 on, got 8."),
        ({"embeddings": 3}, "embeddings must be one of 8, 4, yes, no, got 3."),
        ({"linears": "nbits"}, "linears must be one of auto, dynamic, static, weight-only, stored, float, got 'nbits'."),  # noqa: E501
    ],
)  # fmt: skip
def test_an_option_out_of_bounds_says_what_it_may_be(options: dict[str, Any], line: str) -> None:
    with pytest.raises(OptionError) as error:
        SparseInt8(**options)
    assert str(error.value) == f"sparse-int8: {line}"
