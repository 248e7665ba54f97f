"""What `factor-linear` promises beyond the laws of every pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from onnxprune.calibration import collect
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.inputs import compare_inputs
from onnxprune.low_rank import FACTORS, factors_of
from onnxprune.model import Model, load, save
from onnxprune.observer import observer
from onnxprune.passes.factor_linear import FactorLinear
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Level, Proposal
from onnxprune.runtime import Feeds, open_session
from onnxprune.sites import Site, find_sites
from onnxprune.weights import find_weights
from tests import graphs

Array = np.ndarray[Any, Any]
GPT = Path(__file__).parents[2] / "fixtures" / "gloss-gpt"
LEVELS: tuple[Literal["none", "default"], ...] = ("none", "default")


def samples_of(path: Path, count: int = 24) -> list[dict[str, Array]]:
    return [graphs.feeds_for(path, batch=3, seed=seed) for seed in range(count)]


def context_of(one: FactorLinear, model: Model, samples: list[dict[str, Array]] | None, **more: Any) -> Context:
    if samples is None:
        return Context(**more)
    needs = one.needs(model, find_sites(model))
    return Context(
        statistics=collect(model, needs, samples) if needs.tensors else None,
        compare_inputs=lambda current, original, sources: compare_inputs(current, original, sources, samples),
        **more,
    )


def proposed(one: FactorLinear, model: Model, samples: list[dict[str, Array]] | None = None, **more: Any) -> Proposal:
    return one.propose(model, find_sites(model), context_of(one, model, samples, **more))


def factored(
    one: FactorLinear, path: Path, *, data: bool = True, **more: Any
) -> tuple[Model, tuple[Change, ...], tuple[Edit, ...]]:
    model = load(path)
    edits = proposed(one, model, samples_of(path) if data else None, **more).edits
    result, changes = one.apply(model, edits)
    return result, changes, edits


def operators(model: Model) -> list[str]:
    return [node.op for node in model.graph.nodes]


def constants_of(model: Model) -> dict[str, tuple[int, ...]]:
    held = {t.name: t for node in model.graph.nodes for t in node.inputs if hasattr(t, "values")}
    return {name: tuple(tensor.shape) for name, tensor in held.items()}


def expected(path: Path, feeds: Feeds, **weights: Array) -> dict[str, Array]:
    """Outputs of the original with some of its stored weights replaced."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            values = weights[tensor.name].astype(onnx.numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    changed = path.with_name("expected.onnx")
    onnx.save(proto, changed)
    return graphs.outputs_of(changed, dict(feeds), optimized=True)


def product(edit: Edit) -> Array:
    both: Array = edit.tensors["left"].astype(np.float64) @ edit.tensors["right"].astype(np.float64)
    return both


GEMMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "transB": {"transB": 1},
    "scaled": {"transB": 1, "alpha": 0.5, "beta": 2.0},
    "bias left out": {"beta": 0.0},
}


@pytest.mark.parametrize("attributes", GEMMS.values(), ids=GEMMS)
def test_a_gemm_becomes_the_product_of_its_factors_with_its_own_bias(
    attributes: dict[str, Any], tmp_path: Path
) -> None:
    path = graphs.saved(graphs.gemm(**attributes), tmp_path)
    result, changes, (edit,) = factored(FactorLinear(method="svd", rank=20, faster=False), path, data=False)
    assert operators(result) == ["MatMul", "Gemm"]
    assert constants_of(result) == {"w.left": (64, 20), "w.right": (20, 48), "b": (48,)}
    assert [change.what for change in changes] == ["64x48 as rank 20"]
    # 64·48 = 3072; 64·20 + 20·48 = 2240
    assert [(change.params_before, change.params_after) for change in changes] == [(3072, 2240)]
    feeds = graphs.feeds_for(path)
    weight = product(edit).T if attributes.get("transB") else product(edit)
    wanted = expected(path, feeds, w=weight)["y"]
    for level in LEVELS:
        np.testing.assert_allclose(open_session(result, level=level).run(feeds)["y"], wanted, rtol=1e-4, atol=1e-5)


def pointwise(strides: int = 1, pads: int = 0, *, bias: bool = True, spatial: int = 2) -> onnx.ModelProto:
    """One 1x1 Conv from 48 to 64 channels."""
    constants = {"w": graphs.weights(64, 48, *(1,) * spatial)} | ({"b": graphs.weights(64)} if bias else {})
    attributes = {"strides": [strides] * spatial, "pads": [pads] * 2 * spatial}
    nodes = [graphs.node("Conv", ["x", *constants], ["y"], **attributes)]
    size = (7 + 2 * pads - 1) // strides + 1
    inputs = [graphs.info("x", ("batch", 48, *(7,) * spatial))]
    return graphs.model(nodes, inputs, [graphs.info("y", ("batch", 64, *(size,) * spatial))], constants)


@pytest.mark.parametrize(
    "options",
    [{}, {"strides": 2}, {"pads": 1}, {"strides": 2, "pads": 1, "bias": False}, {"spatial": 1}, {"spatial": 3}],
    ids=str,
)
@pytest.mark.parametrize("data", [True, False], ids=["refitted", "blind"])
def test_a_pointwise_convolution_becomes_two(options: dict[str, Any], data: bool, tmp_path: Path) -> None:
    path = graphs.saved(pointwise(**options), tmp_path)
    one = FactorLinear(method="svd-llm" if data else "svd", rank=16, faster=False)
    result, changes, (edit,) = factored(one, path, data=data)
    assert operators(result) == ["Conv", "Conv"]
    assert changes[0].what == "48x64 as rank 16"
    feeds = graphs.feeds_for(path)
    kernel = product(edit).T.reshape(64, 48, *(1,) * options.get("spatial", 2))
    wanted = expected(path, feeds, w=kernel)["y"]
    if data:
        wanted = wanted + edit.tensors["bias"][0].reshape(-1, *(1,) * options.get("spatial", 2))
        # Rows of random images have a mean that is not zero.
        assert np.abs(edit.tensors["bias"]).max() > 1e-4
    for level in LEVELS:
        np.testing.assert_allclose(open_session(result, level=level).run(feeds)["y"], wanted, rtol=1e-4, atol=1e-5)


def test_means_of_outputs_are_kept_by_the_biases(tmp_path: Path) -> None:
    """Over the very samples, in the Add that follows the product, without a new constant."""
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    model, samples = load(path), samples_of(path)
    one = FactorLinear(rank=12, faster=False)
    result, _ = one.apply(model, proposed(one, model, samples).edits)
    assert operators(result) == ["MatMul", "MatMul", "Add", "Relu", "MatMul", "MatMul", "Add"]
    names = {"up_bias", "down_bias", "up.left", "up.right", "down.left", "down.right"}
    assert set(constants_of(result)) == names
    before, after = (observer(each, ["a"]) for each in (model, result))
    means = [np.mean([watch(feeds)["a"].reshape(-1, 96).mean(axis=0) for feeds in samples], axis=0)
             for watch in (before, after)]  # fmt: skip
    np.testing.assert_allclose(means[1], means[0], atol=1e-5)


def test_every_reader_of_a_shared_weight_gets_its_own_bias_and_the_same_factors(tmp_path: Path) -> None:
    path = graphs.saved(graphs.reused(3), tmp_path)
    result, changes, (edit,) = factored(FactorLinear(rank=8, faster=False), path)
    # Three readers, three means; 64·8 + 8·64 + 3·64 = 1216 numbers.
    assert edit.tensors["bias"].shape == (3, 64)
    assert changes[0].params_after == 1216
    held = constants_of(result)
    assert sorted(held) == ["w.bias", "w.bias.1", "w.bias.2", "w.left", "w.right"]
    assert operators(result) == ["MatMul", "MatMul", "Add", "Tanh"] * 3


def test_the_error_on_a_real_layer_is_the_one_that_the_singular_values_predict() -> None:
    """SVD-LLM's truncation loss equals the dropped singular values, through the written graph."""
    model = load(GPT / "model.onnx")
    with np.load(GPT / "calibration.npz") as stored:
        samples = [{"input_ids": row[None]} for row in stored["input_ids"][:24]]
    site = next(s for s in find_sites(model) if s.kind == "linear" and s.units == 384)
    one = FactorLinear(rank=40, faster=False, sites=(site.id,))
    (edit,) = proposed(one, model, samples).edits
    result, _ = one.apply(model, [edit])
    weight = next(w for w in find_weights(model.graph) if w.constant.name == site.weight)
    matrix, use = weight.constant.values.astype(np.float64), weight.uses[0]
    watched = [observer(model, [use.node.inputs[0].name, use.name]), observer(result, [use.name])]
    x = np.concatenate([watched[0](feeds)[use.node.inputs[0].name].reshape(-1, len(matrix)) for feeds in samples])
    outputs = [
        np.concatenate([watch(feeds)[use.name].reshape(-1, 384) for feeds in samples]).astype(np.float64)
        for watch in watched
    ]
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    # Without whitening: the singular values of the centred outputs themselves.
    values = np.linalg.svd(centred @ matrix, compute_uv=False)
    error = np.square(outputs[0] - outputs[1]).sum()
    assert error == pytest.approx(np.square(values[40:]).sum(), rel=1e-3)


def with_alike(scale: float = 1.0) -> onnx.ModelProto:
    """Three products of one input, of rank 10 in all, the third with outputs that are `scale` times as large."""
    proto = graphs.projections()
    left = graphs.weights(64, 10, seed=9)
    for at, tensor in enumerate(proto.graph.initializer):
        values = left @ graphs.weights(10, 64, seed=at) * (scale if tensor.name == "w_v" else 1.0)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return proto


@pytest.mark.parametrize("method", ["svd-llm", "asvd", "svd"])
def test_products_of_one_input_share_a_left_factor_where_that_takes_fewer_numbers(method: Any, tmp_path: Path) -> None:
    path = graphs.saved(with_alike(), tmp_path)
    one = FactorLinear(method=method, energy=0.999999, faster=False)
    result, (change,), (edit,) = factored(one, path)
    assert change.what == "64x192 as rank 10, one left factor for linear.0, linear.1, linear.2"
    assert edit.args["sites"] == ["linear.0", "linear.1", "linear.2"]
    shapes = {name: shape for name, shape in constants_of(result).items() if not name.endswith(".bias")}
    assert shapes == {
        "w_q.left": (64, 10), "w_q.right": (10, 64), "w_k.right": (10, 64), "w_v.right": (10, 64),
    }  # fmt: skip
    assert operators(result).count("MatMul") == 4
    feeds = graphs.feeds_for(path)
    wanted = graphs.outputs_of(path, feeds, optimized=True)["y"]
    np.testing.assert_allclose(open_session(result).run(feeds)["y"], wanted, atol=1e-3)
    apart, changes, _ = factored(replace(one, joint=False), path)
    assert len(changes) == 3
    assert operators(apart).count("MatMul") == 6


def test_a_large_output_does_not_push_aside_the_small_ones_of_the_same_input(tmp_path: Path) -> None:
    """Each keeps the energy for itself, although the third has a millionth of the others' in common with them."""
    path = graphs.saved(with_alike(scale=1000.0), tmp_path)
    result, changes, _ = factored(FactorLinear(energy=0.99, faster=False), path)
    assert "one left factor" in changes[0].what
    for name in "qkv":
        feeds = [graphs.feeds_for(path, batch=3, seed=seed) for seed in range(24)]
        watch = [observer(each, [name]) for each in (load(path), result)]
        before, after = (np.concatenate([w(f)[name] for f in feeds]).astype(np.float64) for w in watch)
        centred = before - before.mean(axis=0)
        assert np.square(before - after).sum() <= 0.0101 * np.square(centred).sum()


def test_products_that_have_nothing_in_common_are_factored_apart(tmp_path: Path) -> None:
    """Each of rank 6 in directions of its own: together they need 18."""
    proto = graphs.projections()
    for at, tensor in enumerate(proto.graph.initializer):
        values = graphs.weights(64, 6, seed=at) @ graphs.weights(6, 64, seed=at)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    path = graphs.saved(proto, tmp_path)
    # Apart 3·(64·6 + 6·64) = 2304; together 64·18 + 18·192 = 4608.
    _, changes, _ = factored(FactorLinear(energy=0.999999, faster=False), path)
    assert [change.what for change in changes] == ["64x64 as rank 6"] * 3


def test_at_a_ratio_products_share_where_that_misses_less(tmp_path: Path) -> None:
    alike = graphs.saved(with_alike(), tmp_path, "alike.onnx")
    _, changes, _ = factored(FactorLinear(ratio=0.2, faster=False), alike)
    # ⌊0.2·64·192 / 256⌋ = 9, of 10 that they have in common; apart ⌊0.2·64·64 / 128⌋ = 6.
    assert [change.what for change in changes] == ["64x192 as rank 9, one left factor for linear.0, linear.1, linear.2"]


RANK_0: Mapping[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "feed-forward": (graphs.feed_forward, 2),
    "matmul": (graphs.matmul, 1),
    "gemm": (lambda: graphs.gemm(transB=1, beta=2.0), 1),
    "convolution": (pointwise, 1),
    "half": (lambda: graphs.matmul(dtype=np.float16), 1),
    "reused": (lambda: graphs.reused(2), 2),
}


@pytest.mark.parametrize("data", [True, False], ids=["refitted", "blind"])
@pytest.mark.parametrize(("make", "readers"), RANK_0.values(), ids=RANK_0)
def test_at_rank_0_only_a_bias_stays(
    make: Callable[[], onnx.ModelProto], readers: int, data: bool, tmp_path: Path
) -> None:
    path = graphs.saved(make(), tmp_path)
    one = FactorLinear(rank=0, method="svd-llm" if data else "svd")
    result, changes, _ = factored(one, path, data=data)
    assert all(change.what.endswith(" as rank 0") for change in changes)
    assert not {"MatMul", "Gemm", "Conv"} & set(operators(result))
    assert operators(result).count("Expand") == readers
    for batch, level in itertools.product((2, 5), LEVELS):
        feeds = graphs.feeds_for(path, batch=batch)
        before = graphs.outputs_of(path, feeds, optimized=True)
        after = open_session(result, level=level).run(feeds)
        assert {name: value.shape for name, value in after.items()} == {n: v.shape for n, v in before.items()}
        # The same everywhere along the batch.
        assert all(np.array_equal(value, np.broadcast_to(value[:1], value.shape)) for value in after.values())
    saved = tmp_path / "result.onnx"
    save(result, saved)
    onnx.checker.check_model(str(saved), full_check=True)


def test_at_rank_0_the_mean_output_stays(tmp_path: Path) -> None:
    path = graphs.saved(graphs.gemm(beta=2.0), tmp_path)
    model, samples = load(path), samples_of(path)
    one = FactorLinear(rank=0)
    result, _ = one.apply(model, proposed(one, model, samples).edits)
    outputs = [graphs.outputs_of(path, feeds, optimized=True)["y"] for feeds in samples]
    wanted = np.concatenate(outputs).mean(axis=0)
    got = open_session(result).run(samples[0])["y"]
    np.testing.assert_allclose(got, np.broadcast_to(wanted, got.shape), rtol=1e-4, atol=1e-5)


def dead_input() -> onnx.ModelProto:
    """A product of an input that never changes, and one of an input that does."""
    nodes = [
        graphs.node("Mul", ["x", "zero"], ["flat"]),
        graphs.node("MatMul", ["flat", "w"], ["m"]),
        graphs.node("Add", ["m", "x"], ["y"]),
    ]
    constants = {"zero": np.zeros(graphs.WIDTH, np.float32), "w": graphs.weights(graphs.WIDTH, graphs.WIDTH)}
    shape = ("batch", graphs.WIDTH)
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], constants)


def test_an_energy_of_nothing_needs_no_rank(tmp_path: Path) -> None:
    """What never varies is a bias."""
    path = graphs.saved(dead_input(), tmp_path)
    result, changes, _ = factored(FactorLinear(energy=0.9), path)
    assert changes[0].what == "64x64 as rank 0"
    feeds = graphs.feeds_for(path)
    np.testing.assert_allclose(open_session(result).run(feeds)["y"], feeds["x"], atol=1e-6)


class Clock:
    """A latency that is looked up."""

    def __init__(self, pair_ms: float) -> None:
        self.pair_ms = pair_ms
        self.asked: list[Level] = []

    def __call__(self, site: Site, level: Level) -> float:
        """Milliseconds."""
        assert site.weight
        self.asked.append(level)
        return self.pair_ms if level.rank is not None else 1.0


def test_a_pair_stays_only_if_the_clock_says_that_it_is_faster(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    one = FactorLinear(method="svd", rank=16)
    slow = proposed(one, model, latency=Clock(0.98))
    assert slow.edits == ()
    assert slow.skips == (Skip(site="linear.0", why="rank 16 is not faster: 0.980 ms, 1.000 ms as it is"),)
    (edit,) = proposed(one, model, latency=Clock(0.5)).edits
    _, (change,) = one.apply(model, [edit])
    assert change.what == "64x64 as rank 16 (1.000 to 0.500 ms)"
    clock = Clock(2.0)
    assert len(proposed(replace(one, faster=False), model, latency=clock).edits) == 1
    assert clock.asked == []


def test_without_a_clock_the_report_says_that_nothing_was_timed(tmp_path: Path) -> None:
    _, (change,), _ = factored(FactorLinear(method="svd", rank=16), graphs.saved(graphs.matmul(), tmp_path), data=False)
    assert change.what == "64x64 as rank 16 (not timed, less work)"


def test_before_int8_both_forms_are_timed_as_integers(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    clock = Clock(0.5)
    proposed(FactorLinear(method="svd", rank=16, int8=True), model, latency=clock)
    assert clock.asked == [Level(form="int8"), Level(form="int8-pair", rank=16)]


def test_a_shared_left_factor_is_timed_beside_all_its_products(tmp_path: Path) -> None:
    """Where it is not faster, each is tried alone."""
    path = graphs.saved(with_alike(), tmp_path)
    clock = Clock(0.5)
    factored(FactorLinear(energy=0.9999), path, latency=clock)
    assert [level.columns for level in clock.asked] == [192, 192]
    clock = Clock(2.0)
    _, changes, edits = factored(FactorLinear(energy=0.9999), path, latency=clock)
    assert (edits, changes) == ((), ())
    assert [level.columns for level in clock.asked] == [192, 192, None, None, None, None, None, None]


def test_factors_are_not_factored_again(tmp_path: Path) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    one = FactorLinear(rank=30, faster=False)
    result, _, _ = factored(one, path)
    assert factors_of(result) == {"up.left", "up.right", "down.left", "down.right"}
    again = proposed(replace(one, rank=8), result, samples_of(path))
    assert again.edits == ()
    assert {skip.why for skip in again.skips} == {"a low-rank factor already"}
    assert len(again.skips) == 4


@pytest.mark.parametrize("text", ["no JSON", "{}", "[1, 2]"])
def test_metadata_of_strangers_is_no_memory(text: str, tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path)).with_metadata(**{FACTORS: text})
    assert factors_of(model) == frozenset()


def left_operand() -> onnx.ModelProto:
    nodes = [graphs.node("MatMul", ["w", "x"], ["y"])]
    constants = {"w": graphs.weights(graphs.WIDTH, graphs.WIDTH)}
    shape = (graphs.WIDTH, "batch")
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], constants)


def stacked() -> onnx.ModelProto:
    nodes = [graphs.node("MatMul", ["x", "w"], ["y"])]
    constants = {"w": graphs.weights(2, graphs.WIDTH, graphs.WIDTH)}
    shape = (2, "batch", graphs.WIDTH)
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], constants)


def behind(op: str) -> onnx.ModelProto:
    proto = graphs.matmul()
    view = graphs.node(op, ["w", "shape"] if op == "Reshape" else ["w"], ["v"])
    proto.graph.node[0].input[1] = "v"
    proto.graph.node.insert(0, view)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([64, 64]), "shape"))
    return proto


def both_ways() -> onnx.ModelProto:
    proto = graphs.matmul()
    proto.graph.node[0].output[0] = "m"
    proto.graph.node.append(graphs.node("Gemm", ["m", "w"], ["y"], transB=1))
    return proto


def given_out() -> onnx.ModelProto:
    proto = graphs.matmul()
    proto.graph.output.append(graphs.info("w", (graphs.WIDTH, graphs.WIDTH)))
    return proto


def also_added() -> onnx.ModelProto:
    proto = graphs.matmul()
    proto.graph.node[0].output[0] = "m"
    proto.graph.node.append(graphs.node("ReduceMean", ["w"], ["mean"], axes=[0], keepdims=0))
    proto.graph.node.append(graphs.node("Add", ["m", "mean"], ["y"]))
    return proto


def infinite() -> onnx.ModelProto:
    proto = graphs.matmul()
    values = graphs.weights(graphs.WIDTH, graphs.WIDTH)
    values[0, 0] = np.inf
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    return proto


def transposed_input() -> onnx.ModelProto:
    nodes = [graphs.node("Gemm", ["x", "w"], ["y"], transA=1)]
    constants = {"w": graphs.weights(graphs.WIDTH, 48)}
    inputs = [graphs.info("x", (graphs.WIDTH, "batch"))]
    return graphs.model(nodes, inputs, [graphs.info("y", ("batch", 48))], constants)


def constant_input() -> onnx.ModelProto:
    """Both sides are stored; the result is added."""
    nodes = [graphs.node("MatMul", ["c", "w"], ["m"]), graphs.node("Add", ["x", "m"], ["y"])]
    constants = {"c": graphs.weights(1, graphs.WIDTH), "w": graphs.weights(graphs.WIDTH, graphs.WIDTH)}
    shape = ("batch", graphs.WIDTH)
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], constants)


REASONS: Mapping[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "left operand": (left_operand, "the weight is the left operand of the product"),
    "stacked": (stacked, "a stack of matrices [2, 64, 64]"),
    "reshaped": (lambda: behind("Reshape"), "it stands behind Reshape, which is no transpose"),
    "both ways": (both_ways, "its readers multiply by it and by its transpose"),
    "given out": (given_out, "an output of the graph too"),
    "also added": (also_added, "also read by ReduceMean 'mean'"),
    "infinite": (infinite, "it holds infinite numbers"),
    "transposed input": (transposed_input, "the activations are transposed by the product (transA)"),
    "convolution": (
        lambda: graphs.convolution(bias=False),
        "a convolution of 3x3: only 1x1 ones multiply channels alone",
    ),
    "recurrent": (lambda: graphs.recurrent("LSTM"), "LSTM has no low-rank form"),
    "wide": (graphs.matmul, "rank=32 is rank 32 of 64x64: a pair saves nothing above 31"),
}


@pytest.mark.parametrize(("make", "why"), REASONS.values(), ids=REASONS)
def test_what_is_left_alone_is_told_with_the_reason(
    make: Callable[[], onnx.ModelProto], why: str, tmp_path: Path
) -> None:
    model = load(graphs.saved(make(), tmp_path))
    found = proposed(FactorLinear(method="svd", rank=32), model)
    assert found.edits == ()
    assert {skip.why for skip in found.skips} == {why}


def test_a_constant_input_is_told(tmp_path: Path) -> None:
    model = load(graphs.saved(constant_input(), tmp_path))
    found = proposed(FactorLinear(method="svd", rank=8), model)
    whys = [skip.why for skip in found.skips]
    assert whys == ["the weight is the left operand of the product", "its input is constant"]


def test_a_tied_table_is_left_to_factor_embedding(tmp_path: Path) -> None:
    proto = graphs.tied_embedding()
    # The product comes first, so that the table is a linear in the first place.
    nodes = [graphs.node("Transpose", ["table"], ["head"], perm=[1, 0]), graphs.node("MatMul", ["h", "head"], ["m"])]
    nodes += [graphs.node("Gather", ["table", "ids"], ["rows"])]
    inputs = [graphs.info("ids", ("batch",), graphs.INT64), graphs.info("h", ("batch", 32))]
    outputs = [graphs.info("m", ("batch", 80)), graphs.info("rows", ("batch", 32))]
    constants = {"table": onnx.numpy_helper.to_array(proto.graph.initializer[0])}
    model = load(graphs.saved(graphs.model(nodes, inputs, outputs, constants), tmp_path))
    (skip,) = proposed(FactorLinear(method="svd", rank=8), model).skips
    assert skip.why == "an embedding too: factor-embedding keeps both uses tied"


ZERO: Mapping[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "old": (lambda: graphs.matmul(opset=9), "a constant of the input's shape needs opset 10, the model has 9"),
    "strided": (lambda: pointwise(strides=2), "rank 0: the convolution's output is not of its input's size"),
    "padded": (lambda: pointwise(pads=1), "rank 0: the convolution's output is not of its input's size"),
}


@pytest.mark.parametrize(("make", "why"), ZERO.values(), ids=ZERO)
def test_what_cannot_become_a_constant_is_told(make: Callable[[], onnx.ModelProto], why: str, tmp_path: Path) -> None:
    model = load(graphs.saved(make(), tmp_path))
    assert [skip.why for skip in proposed(FactorLinear(method="svd", rank=0), model).skips] == [why]


MISTAKES = (
    ({"method": "pca"}, "factor-linear: method must be one of asvd, fwsvd, svd, svd-llm, got 'pca'."),
    ({"energy": 0.9, "rank": 3}, "factor-linear: one of energy, ratio and rank is the goal, got energy and rank."),
    ({"energy": 0.0}, "factor-linear: energy must be in (0, 1], got 0.0."),
    ({"ratio": 1.0}, "factor-linear: ratio must be in [0, 1), got 1.0."),
    ({"rank": -1}, "factor-linear: rank must be at least 0, got -1."),
)


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=lambda value: str(value)[:20])
def test_goals_that_no_pair_meets_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        FactorLinear(**options)
    assert str(error.value) == message


def test_unknown_sites_are_refused(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.feed_forward(), tmp_path))
    with pytest.raises(OptionError) as error:
        proposed(FactorLinear(sites=("linear.7",), method="svd"), model)
    assert str(error.value) == "factor-linear: no site 'linear.7'. Known: linear.0, linear.1."
    found = proposed(FactorLinear(sites=("linear.1",), method="svd", rank=4), model)
    assert [edit.site for edit in found.edits] == ["linear.1"]
    assert found.skips == (Skip(site="linear.0", why="not among option sites"),)


def test_levels_give_each_linear_its_own_rank(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.feed_forward(), tmp_path))
    found = proposed(FactorLinear(levels=("linear.1/3",), method="svd"), model)
    assert [(edit.site, edit.tensors["left"].shape[1]) for edit in found.edits] == [("linear.1", 3)]
    assert found.skips == (Skip(site="linear.0", why="not among option levels"),)
    with pytest.raises(OptionError) as error:
        FactorLinear(levels=("linear.1/3",), rank=2)
    assert str(error.value) == "factor-linear: levels state each site's rank, rank all sites'. Give one of them."


@pytest.mark.parametrize("method", ["asvd", "svd-llm"])
def test_methods_that_look_at_inputs_ask_for_them(method: Any, tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    with pytest.raises(DataError) as error:
        proposed(FactorLinear(method=method), model)
    assert str(error.value) == (
        f"factor-linear: method={method} needs sample inputs. Give --data, or method=svd, or "
        "--allow-synthetic to calibrate on made-up ones."
    )


def test_factors_of_another_model_are_declined(tmp_path: Path) -> None:
    path = graphs.saved(graphs.matmul(), tmp_path)
    one = FactorLinear(method="svd", rank=8, faster=False)
    _, _, (edit,) = factored(one, path, data=False)
    other = load(graphs.saved(graphs.gemm(), tmp_path, "other.onnx"))
    with pytest.raises(Declined, match=r"^linear\.0: factors \[64, 8\] and \[8, 64\] do not fit 'w'$"):
        one.apply(other, [edit])
    with pytest.raises(Declined, match=r"^linear\.0: the model has no weight 'gone'$"):
        one.apply(other, [replace(edit, args={**edit.args, "weights": ["gone"]})])


def test_a_bias_that_others_read_or_may_replace_is_left_as_it_is(tmp_path: Path) -> None:
    """The gain is added behind it then."""
    proto = graphs.gemm()
    proto.graph.input.append(graphs.info("b", (48,)))
    path = graphs.saved(proto, tmp_path)
    result, _, (edit,) = factored(FactorLinear(rank=8, faster=False), path)
    assert operators(result) == ["MatMul", "Gemm", "Add"]
    assert result.overridable == {"b"}
    feeds = {name: value for name, value in graphs.feeds_for(path).items() if name == "x"}
    wanted = expected(path, feeds, w=product(edit))["y"] + edit.tensors["bias"][0]
    np.testing.assert_allclose(open_session(result).run(feeds)["y"], wanted, rtol=1e-4, atol=1e-5)
