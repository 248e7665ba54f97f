"""What `factor-embedding` promises beyond the laws of every pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from onnxprune.calibration import collect
from onnxprune.errors import Declined, OptionError
from onnxprune.low_rank import factors_of
from onnxprune.model import Model, load, save
from onnxprune.passes.factor_embedding import FactorEmbedding
from onnxprune.passes.sparse_int8 import SparseInt8
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.runtime import open_session
from onnxprune.sites import find_sites
from tests import graphs

Array = np.ndarray[Any, Any]
GPT = Path(__file__).parents[2] / "fixtures" / "gloss-gpt"
LEVELS: tuple[Literal["none", "default"], ...] = ("none", "default")
TOKENS, DIM = 200, 32


def table() -> Array:
    """[200, 32] of falling singular values, so that low rank makes sense."""
    rng = np.random.default_rng(5)
    values: Array = (
        rng.standard_normal((TOKENS, DIM)) * 0.9 ** np.arange(DIM) @ np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    )
    return values.astype(np.float32)


def lookup(opset: int = 17, dtype: Any = np.float32) -> onnx.ModelProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [graphs.node("Gather", ["table", "ids"], ["rows"]), graphs.node("Tanh", ["rows"], ["y"])]
    inputs = [graphs.info("ids", ("batch", "sequence"), graphs.INT64)]
    outputs = [graphs.info("y", ("batch", "sequence", DIM), kind)]
    return graphs.model(nodes, inputs, outputs, {"table": table().astype(dtype)}, opset=opset)


def tied(form: Literal["view", "gemm", "copy", "biased"] = "view") -> onnx.ModelProto:
    """A lookup whose table gives the logits too: through a Transpose, by a Gemm, or from a copy of its own."""
    constants = {"table": table()}
    nodes = [graphs.node("Gather", ["table", "ids"], ["rows"]), graphs.node("Tanh", ["rows"], ["hidden"])]
    rows: tuple[int | str, ...] = ("batch", "sequence")
    if form in {"gemm", "biased"}:
        rows = ("batch",)
        constants |= {"b": graphs.weights(TOKENS)} if form == "biased" else {}
        nodes.append(graphs.node("Gemm", ["hidden", "table", *list(constants)[1:]], ["logits"], transB=1))
    elif form == "view":
        nodes += [graphs.node("Transpose", ["table"], ["head"], perm=[1, 0])]
        nodes += [graphs.node("MatMul", ["hidden", "head"], ["logits"])]
    else:
        constants["head"] = np.ascontiguousarray(table().T)
        nodes.append(graphs.node("MatMul", ["hidden", "head"], ["logits"]))
    outputs = [graphs.info("logits", (*rows, TOKENS))]
    return graphs.model(nodes, [graphs.info("ids", rows, graphs.INT64)], outputs, constants)


def zipf(seed: int, *shape: int) -> dict[str, Array]:
    """Token v about as often as 1 / (v + 1)."""
    chances = 1 / np.arange(1, TOKENS + 1)
    return {"ids": np.random.default_rng(seed).choice(TOKENS, shape, p=chances / chances.sum())}


def samples(*shape: int) -> list[dict[str, Array]]:
    return [zipf(seed, *shape) for seed in range(40)]


def proposed(one: FactorEmbedding, model: Model, feeds: Sequence[dict[str, Array]] | None = None) -> Proposal:
    needs = one.needs(model, find_sites(model))
    statistics = collect(model, needs, feeds) if feeds and needs.tensors else None
    return one.propose(model, find_sites(model), Context(statistics=statistics))


def encoded(
    one: FactorEmbedding, path: Path, feeds: Sequence[dict[str, Array]] | None = None
) -> tuple[Model, Change, Edit]:
    model = load(path)
    (edit,) = proposed(one, model, feeds).edits
    result, (change,) = one.apply(model, [edit])
    return result, change, edit


def operators(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def decoded(edit: Edit) -> Array:
    """[tokens, width] the rows that an edit stands for, without its graph."""
    projection = edit.tensors["projection"].astype(np.float64)
    tables = [edit.tensors[f"codes.{at}"] for at in range(len(edit.args["tokens"]))]
    rows, start = [], 0
    for codes in tables:
        rows.append(codes @ projection[start : start + codes.shape[1]])
        start += codes.shape[1]
    whole = np.concatenate(rows)
    return whole[edit.tensors["places"].astype(np.int64)] if "places" in edit.tensors else whole


def test_rows_are_looked_up_as_codes_and_projected(tmp_path: Path) -> None:
    path = graphs.saved(lookup(), tmp_path)
    result, change, edit = encoded(FactorEmbedding(rank=10), path)
    assert operators(result) == ["Gather", "MatMul", "Tanh"]
    assert change.what == "200x32 as codes of rank 10, all rows alike"
    # 200·32 = 6400; 200·10 + 10·32 = 2320
    assert (change.params_before, change.params_after) == (6400, 2320)
    assert (change.bytes_before, change.bytes_after) == (25600, 9280)
    assert factors_of(result) == {"table.codes", "table.projection"}
    ids = np.array([[0, 7, 199], [-1, -200, 7]])
    for level in LEVELS:
        got = open_session(result, level=level).run({"ids": ids})["y"]
        np.testing.assert_allclose(got, np.tanh(decoded(edit)[ids]), rtol=1e-5, atol=1e-6)
    # The best of rank 10: Eckart and Young.
    singular = np.linalg.svd(table().astype(np.float64), compute_uv=False)
    assert np.square(decoded(edit) - table()).sum() == pytest.approx(np.square(singular[10:]).sum(), rel=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_clusters_look_up_each_token_in_codes_of_its_own_width(dtype: Any, tmp_path: Path) -> None:
    path = graphs.saved(lookup(dtype=dtype), tmp_path)
    result, change, edit = encoded(FactorEmbedding(rank=10), path, samples(2, 12))
    # 200·1/21, 200·4/21 and the rest.
    assert edit.args["tokens"] == [9, 38, 153]
    ranks = [edit.tensors[f"codes.{at}"].shape[1] for at in range(3)]
    # Nine tokens have no more than nine directions.
    assert ranks[0] == 9
    assert ranks[1] > ranks[2]
    assert change.what == (
        f"200x32 as codes of rank {ranks[0]}, {ranks[1]}, {ranks[2]} for 9, 38, 153 tokens, weighed by 960 tokens seen"
    )
    cluster = ["Clip", "Gather"]
    assert operators(result) == [
        "Gather", "Cast", *cluster, "Sub", *cluster, "Sub", *cluster, "Concat", "MatMul", "Tanh",
    ]  # fmt: skip
    # No more numbers than codes of rank 10 take, beside a row of zeros a cluster and each token's place.
    held = sum(edit.tensors[name].size for name in edit.tensors if name != "places") - sum(ranks)
    assert held <= 10 * (TOKENS + DIM)
    assert edit.tensors["places"].dtype == np.uint16
    ids = np.arange(-TOKENS, TOKENS).reshape(4, -1)
    for level in LEVELS:
        got = open_session(result, level=level).run({"ids": ids})["y"]
        np.testing.assert_allclose(
            got, np.tanh(decoded(edit)[ids]), rtol=1e-5, atol=1e-6 if dtype == np.float32 else 4e-3
        )


def test_frequent_tokens_are_kept_better_the_more_so_with_clusters(tmp_path: Path) -> None:
    path = graphs.saved(lookup(), tmp_path)
    chances = 1 / np.arange(1, TOKENS + 1)

    def missed(one: FactorEmbedding) -> float:
        _, _, edit = encoded(one, path, samples(2, 12))
        return float(chances @ np.square(decoded(edit) - table()).sum(axis=1))

    alike, weighed, clusters = (
        missed(FactorEmbedding(rank=6, **options))
        for options in ({"frequency": False}, {"clusters": 1}, {"clusters": 3})
    )
    assert clusters < 0.9 * weighed < 0.9 * alike


def test_short_rows_count_as_much_as_long_ones_on_request(tmp_path: Path) -> None:
    proto = lookup()
    values = table() * np.where(np.arange(TOKENS) % 2, 10.0, 0.1)[:, None].astype(np.float32)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), "table"))
    path = graphs.saved(proto, tmp_path)
    squares = np.square(values).sum(axis=1)
    shares = []
    for norms in (False, True):
        _, _, edit = encoded(FactorEmbedding(rank=6, norms=norms), path)
        shares.append(float((np.square(decoded(edit) - values).sum(axis=1) / squares).mean()))
    assert shares[1] < shares[0]


@pytest.mark.parametrize("form", ["view", "gemm", "copy", "biased"])
@pytest.mark.parametrize("clusters", [1, 3])
def test_a_tied_head_reads_the_same_factors(form: Any, clusters: int, tmp_path: Path) -> None:
    path = graphs.saved(tied(form), tmp_path)
    shape = (2, 12) if form in {"view", "copy"} else (24,)
    result, change, edit = encoded(FactorEmbedding(rank=14, clusters=clusters), path, samples(*shape))
    copied = ", 1 of a stored copy" if form == "copy" else ""
    assert change.what.endswith(f"weighed by 960 tokens seen; 1 tied product{copied}")
    assert change.params_before == TOKENS * DIM * (2 if form == "copy" else 1)
    saved = tmp_path / "result.onnx"
    save(result, saved)
    onnx.checker.check_model(str(saved), full_check=True)
    stored = {t.name: tuple(t.dims) for t in onnx.load(saved).graph.initializer if t.data_type == graphs.FLOAT}
    # One copy of each factor, for both ends.
    factors = {name: shape for name, shape in stored.items() if name.startswith("table.")}
    assert len(factors) == clusters + 1
    assert set(stored) - set(factors) == ({"b"} if form == "biased" else set())
    ids = zipf(99, *shape)["ids"]
    rows = decoded(edit)
    wanted = np.tanh(rows[ids]) @ rows.T + (graphs.weights(TOKENS) if form == "biased" else 0)
    for level in LEVELS:
        got = open_session(result, level=level).run({"ids": ids})["logits"]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clusters", [1, 3])
@pytest.mark.parametrize("form", ["lookup", "view", "copy"])
def test_int8_after_it_stores_codes_as_int8_rows(form: Any, clusters: int, tmp_path: Path) -> None:
    path = graphs.saved(lookup() if form == "lookup" else tied(form), tmp_path)
    result, _, edit = encoded(FactorEmbedding(ratio=0.85, clusters=clusters), path, samples(2, 12))
    int8 = SparseInt8()
    proposal = int8.propose(result, find_sites(result), Context())
    packed, _ = int8.apply(result, proposal.edits)
    held = {t.name: t.values for node in packed.graph.nodes for t in node.inputs if hasattr(t, "values")}
    # Below 1024 numbers, or 16 in a product's row, int8 does not pay.
    large = [at for at in range(clusters) if edit.tensors[f"codes.{at}"].size >= 1024]
    names = ["table.codes"] if clusters == 1 else [f"table.codes.{at}" for at in large]
    assert len(names) == 1
    for name in names:
        assert held[f"{name}.int8"].dtype == np.int8
        assert held[f"{name}.scale"].shape == (len(held[f"{name}.int8"]), 1)
        assert name not in held
    ids = zipf(99, 2, 12)
    output = "y" if form == "lookup" else "logits"
    wanted = open_session(result).run(ids)[output]
    for level in LEVELS:
        got = open_session(packed, level=level).run(ids)[output]
        assert np.abs(got - wanted).max() <= 0.05 * np.abs(wanted).max()


def test_codes_are_not_encoded_again(tmp_path: Path) -> None:
    path = graphs.saved(lookup(), tmp_path)
    result, _, _ = encoded(FactorEmbedding(rank=16), path)
    again = proposed(FactorEmbedding(rank=4), result)
    assert again == Proposal((), (Skip(site="embedding.0", why="low-rank codes already"),))


def test_the_copy_that_an_exporter_made_of_a_tied_table_goes() -> None:
    model = load(GPT / "model.onnx")
    with np.load(GPT / "calibration.npz") as stored:
        feeds = [{"input_ids": row[None]} for row in stored["input_ids"][:16]]
    one = FactorEmbedding(ratio=0.5)
    (edit,) = proposed(one, model, feeds).edits
    assert edit.args["table"] == "model.transformer.wte.weight"
    assert len(edit.args["copies"]) == 1
    result, (change,) = one.apply(model, [edit])
    # Two copies of 1024 x 96 go.
    assert change.params_before == 2 * 1024 * 96
    assert change.params_after < 0.5 * 1024 * 96 + 2048
    before, after = (open_session(each).run(feeds[0])["logits"] for each in (model, result))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


def views_first() -> onnx.ModelProto:
    proto = lookup()
    proto.graph.node[0].input[0] = "turned"
    proto.graph.node.insert(0, graphs.node("Transpose", ["stored"], ["turned"], perm=[1, 0]))
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(table().T), "stored"))
    return proto


def with_reader(*nodes: onnx.NodeProto, outputs: Sequence[tuple[str, Sequence[int | str]]]) -> onnx.ModelProto:
    proto = lookup()
    proto.graph.node.extend(nodes)
    proto.graph.output.extend(graphs.info(name, shape) for name, shape in outputs)
    return proto


def three_axes() -> onnx.ModelProto:
    proto = lookup()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(table().reshape(TOKENS, 8, 4), "table"))
    proto.graph.output[0].CopyFrom(graphs.info("y", ("batch", "sequence", 8, 4)))
    return proto


def on_columns() -> onnx.ModelProto:
    proto = lookup()
    proto.graph.node[0].CopyFrom(graphs.node("Gather", ["table", "ids"], ["rows"], axis=1))
    proto.graph.output[0].CopyFrom(graphs.info("y", (TOKENS, "batch", "sequence")))
    return proto


REASONS: Mapping[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any], str]] = {
    "columns": (on_columns, {}, "rows are not looked up on the table's first axis"),
    "views": (views_first, {}, "rows are not looked up on the table's first axis"),
    "three axes": (three_axes, {}, "a table of 3 axes"),
    "given out": (
        lambda: with_reader(outputs=[("table", (TOKENS, DIM))]),
        {},
        "an output of the graph too",
    ),
    "other reader": (
        lambda: with_reader(graphs.node("ReduceMean", ["table"], ["mean"], axes=[0]), outputs=[("mean", (1, DIM))]),
        {},
        "also read by ReduceMean 'mean'",
    ),
    "sums over rows": (
        lambda: with_reader(
            graphs.node("Cast", ["ids"], ["f"], to=graphs.FLOAT),
            graphs.node("MatMul", ["f", "table"], ["m"]),
            outputs=[("m", ("batch", DIM))],
        ),
        {},
        "MatMul 'm' sums over the rows of the table",
    ),
    "scaled head": (
        lambda: with_reader(
            graphs.node("Flatten", ["y"], ["f"], axis=2),
            graphs.node("Gemm", ["f", "table"], ["m"], transB=1, alpha=0.5),
            outputs=[("m", ("rows", TOKENS))],
        ),
        {},
        "Gemm 'm' scales or transposes what it reads",
    ),
    "saves nothing": (lookup, {"rank": 28}, "codes of rank 28 take 6496 numbers, the table 6400"),
}


@pytest.mark.parametrize(("make", "options", "why"), REASONS.values(), ids=REASONS)
def test_what_is_left_alone_is_told_with_the_reason(
    make: Callable[[], onnx.ModelProto], options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    one = FactorEmbedding(**({"rank": 8} | options))
    found = proposed(one, load(path))
    assert found.edits == ()
    assert [skip.why for skip in found.skips] == [why]


def test_short_tables_are_encoded_by_name_only(tmp_path: Path) -> None:
    proto = lookup()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(table()[:60], "table"))
    model = load(graphs.saved(proto, tmp_path))
    (skip,) = proposed(FactorEmbedding(rank=4), model).skips
    assert skip.why == "60 rows of 32: codes would save little; name it in sites= to have them all the same"
    assert len(proposed(FactorEmbedding(rank=4, sites=("embedding.0",)), model).edits) == 1


def test_clusters_in_old_files_are_declined(tmp_path: Path) -> None:
    model = load(graphs.saved(lookup(opset=11), tmp_path))
    (skip,) = proposed(FactorEmbedding(rank=4), model, samples(2, 12)).skips
    assert skip.why == "clusters need opset 12, the model has 11; clusters=1 does without"
    assert len(proposed(FactorEmbedding(rank=4, clusters=1), model, samples(2, 12)).edits) == 1


MISTAKES = (
    ({"rank": 9, "ratio": 0.3}, "factor-embedding: one of energy, ratio and rank is the goal, got ratio and rank."),
    ({"energy": 1.5}, "factor-embedding: energy must be in (0, 1], got 1.5."),
    ({"ratio": 0.0}, "factor-embedding: ratio must be in (0, 1), got 0.0."),
    ({"rank": 0}, "factor-embedding: rank must be at least 1, got 0."),
    ({"clusters": 0}, "factor-embedding: clusters must be at least 1, got 0."),
)  # fmt: skip


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=lambda value: str(value)[:20])
def test_goals_that_no_codes_meet_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        FactorEmbedding(**options)
    assert str(error.value) == message


def test_unknown_sites_are_refused(tmp_path: Path) -> None:
    model = load(graphs.saved(lookup(), tmp_path))
    with pytest.raises(OptionError) as error:
        proposed(FactorEmbedding(sites=("embedding.3",)), model)
    assert str(error.value) == "factor-embedding: no site 'embedding.3'. Known: embedding.0."


def test_codes_of_another_model_are_declined(tmp_path: Path) -> None:
    one = FactorEmbedding(rank=8)
    _, _, edit = encoded(one, graphs.saved(lookup(), tmp_path))
    other = load(graphs.saved(graphs.tied_embedding(), tmp_path, "other.onnx"))
    with pytest.raises(Declined, match=r"^embedding\.0: the codes do not fit 'table' \[80, 32\]$"):
        one.apply(other, [edit])
    with pytest.raises(Declined, match=r"^embedding\.0: the model has no weight 'gone'$"):
        one.apply(other, [replace(edit, args={**edit.args, "table": "gone"})])
