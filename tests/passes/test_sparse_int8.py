"""Int8 where it helps, in the forms that the runtime fuses; a reason everywhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxprune.calibration import collect
from onnxprune.errors import OptionError
from onnxprune.graph import constants
from onnxprune.model import Model, load, save
from onnxprune.passes import SparseInt8
from onnxprune.plan import Edit
from onnxprune.protocol import Context, Proposal
from onnxprune.sites import find_sites
from tests import graphs
from tests.graphs import info, node


def proposal_for(model: Model, one: SparseInt8, feeds: Sequence[dict[str, Any]] = ()) -> Proposal:
    sites = find_sites(model)
    needs = one.needs(model, sites)
    statistics = collect(model, needs, feeds) if feeds and needs.tensors else None
    return one.propose(model, sites, Context(statistics=statistics))


def quantized(
    proto: onnx.ModelProto, folder: Path, one: SparseInt8 | None = None, *, calibrate: bool = False
) -> tuple[Path, Path, dict[str, str]]:
    """The original, the result, and why sites were left alone."""
    one = one or SparseInt8()
    path = graphs.saved(proto, folder)
    model = load(path)
    proposal = proposal_for(model, one, [graphs.feeds_for(path, seed=at) for at in range(4)] if calibrate else [])
    result, _ = one.apply(model, proposal.edits) if proposal.edits else (model, ())
    save(result, folder / "int8.onnx")
    return path, folder / "int8.onnx", {skip.site: skip.why for skip in proposal.skips}


def optimized_ops(path: Path, folder: Path) -> Counter[str]:
    """The operators that are left once the runtime has fused what it fuses."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(found.op_type for found in onnx.load(folder / "optimized.onnx").graph.node)


def ops(path: Path) -> Counter[str]:
    return Counter(found.op_type for found in onnx.load(path).graph.node)


def worst_error(before: Path, after: Path, seed: int = 9) -> float:
    """Largest error of the first output as a share of its largest value, at both optimization levels."""
    feeds = graphs.feeds_for(before, seed=seed)
    errors = []
    for optimized in (True, False):
        expected = next(iter(graphs.outputs_of(before, feeds, optimized=optimized).values())).astype(np.float64)
        got = next(iter(graphs.outputs_of(after, feeds, optimized=optimized).values()))
        assert got.dtype == next(iter(graphs.outputs_of(before, feeds).values())).dtype
        errors.append(float(np.abs(got - expected).max() / np.abs(expected).max()))
    return max(errors)


# Products


def test_a_product_becomes_the_form_that_the_runtime_fuses(tmp_path: Path) -> None:
    before, after, skips = quantized(graphs.matmul(), tmp_path)
    assert ops(after) == Counter(DynamicQuantizeLinear=1, MatMulInteger=1, Cast=1, Mul=2)
    assert optimized_ops(after, tmp_path) == Counter(DynamicQuantizeMatMul=1)
    assert 0 < worst_error(before, after) < 0.02
    assert not skips
    # 64 x 64 int8 and 64 scales; the rest are names.
    assert after.stat().st_size < 64 * 64 + 64 * 4 + 600


def test_activations_that_several_products_read_are_quantized_once(tmp_path: Path) -> None:
    before, after, _ = quantized(graphs.projections(), tmp_path)
    assert ops(after)["DynamicQuantizeLinear"] == 1
    assert optimized_ops(after, tmp_path) == Counter(DynamicQuantizeLinear=1, MatMulIntegerToFloat=3, Sum=1)
    assert 0 < worst_error(before, after) < 0.02


@pytest.mark.parametrize(
    "attributes",
    [{}, {"transB": 1}, {"alpha": 0.25, "beta": 3.0}, {"transB": 1, "alpha": -2.0, "beta": 0.0}],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_gemm_keeps_what_its_attributes_mean(tmp_path: Path, attributes: dict[str, Any], dtype: Any) -> None:
    before, after, skips = quantized(graphs.gemm(dtype, **attributes), tmp_path)
    assert not skips
    assert ops(after)["MatMulInteger"] == 1
    assert ops(after)["Transpose"] == 0
    assert 0 < worst_error(before, after) < 0.02


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_a_gemm_whose_bias_is_computed(tmp_path: Path, beta: float, dtype: Any) -> None:
    proto = graphs.gemm(dtype, beta=beta)
    proto.graph.node.insert(0, node("Tanh", ["b"], ["computed"]))
    proto.graph.node[1].input[2] = "computed"
    before, after, skips = quantized(proto, tmp_path)
    assert not skips
    assert ops(after)["MatMulInteger"] == 1
    assert 0 < worst_error(before, after) < 0.02


def test_a_gemm_that_transposes_its_activations_is_left_alone(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Gemm", ["x", "w"], ["y"], transA=1)],
        [info("x", (64, "batch"))],
        [info("y", ("batch", 64))],
        {"w": graphs.weights(64, 64)},
    )
    before, after, skips = quantized(proto, tmp_path)
    assert skips == {"linear.0": "the activations are transposed by the product (transA)"}
    assert worst_error(before, after) == 0


def test_a_weight_that_is_read_again_and_again_is_stored_once(tmp_path: Path) -> None:
    before, after, _ = quantized(graphs.reused(layers=3), tmp_path)
    assert ops(after)["MatMulInteger"] == 3
    stored = Counter((str(t.values.dtype), t.shape) for t in constants(load(after).graph))
    assert stored == Counter({("int8", (64, 64)): 1, ("float32", (64,)): 1})
    assert 0 < worst_error(before, after) < 0.05


def test_a_table_that_is_the_head_too_stays_one_tensor(tmp_path: Path) -> None:
    before, after, skips = quantized(graphs.tied_embedding(), tmp_path)
    assert not skips
    assert [t.shape for t in constants(load(after).graph) if t.values.dtype == np.int8] == [(80, 32)]
    assert ops(after)["MatMulInteger"] == 1
    assert ops(after)["Gather"] == 2
    assert 0 < worst_error(before, after) < 0.02


def test_half_precision_models_stay_half_around_integer_products(tmp_path: Path) -> None:
    before, after, skips = quantized(graphs.matmul(dtype=np.float16), tmp_path)
    assert not skips
    assert ops(after)["MatMulInteger"] == 1
    assert 0 < worst_error(before, after) < 0.02
    (value,) = onnx.load(after).graph.output
    assert value.type.tensor_type.elem_type == graphs.FLOAT16


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (9, 4), (10, 3), (11, 6)])
def test_opsets_without_dynamic_quantization_are_raised(tmp_path: Path, opset: int, ir: int) -> None:
    before, after, skips = quantized(graphs.matmul(opset=opset, ir=ir), tmp_path)
    assert not skips
    assert onnx.load(after).opset_import[0].version == 11
    onnx.checker.check_model(str(after), full_check=True)
    assert 0 < worst_error(before, after) < 0.02


def test_stored_weights_are_decoded_at_load(tmp_path: Path) -> None:
    before, after, _ = quantized(graphs.matmul(), tmp_path, SparseInt8(linears="stored"))
    assert ops(after) == Counter(Cast=1, Mul=1, MatMul=1)
    assert optimized_ops(after, tmp_path) == Counter(MatMul=1)
    assert 0 < worst_error(before, after) < 0.01


def test_rows_of_an_embedding_have_a_scale_each(tmp_path: Path) -> None:
    proto = graphs.model(
        [node("Gather", ["table", "ids"], ["y"])],
        [info("ids", ("batch", "sequence"), graphs.INT64)],
        [info("y", ("batch", "sequence", 32))],
        {"table": graphs.weights(80, 32) * np.logspace(-3, 3, 80, dtype=np.float32)[:, None]},
    )
    before, after, _ = quantized(proto, tmp_path)
    feeds = {"ids": np.arange(80)[None]}
    expected, got = (graphs.outputs_of(path, feeds)["y"][0] for path in (before, after))
    # Half a step of 127 a row, and 2⁻¹¹ for a scale of half precision.
    error = np.abs(got - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() < 0.5 / 127 + 2**-11 + 1e-6
    # int8 numbers, and a scale of two bytes a row
    assert after.stat().st_size < 80 * 32 + 80 * 2 + 700


# Convolutions


def test_a_convolution_without_samples_is_stored_and_folds(tmp_path: Path) -> None:
    before, after, _ = quantized(graphs.convolution(), tmp_path)
    assert ops(after)["DequantizeLinear"] == 0
    # Relu merges into the first Conv; Cast and Mul are gone.
    fused = optimized_ops(after, tmp_path)
    assert not {"Cast", "Mul"} & fused.keys()
    assert 0 < worst_error(before, after) < 0.02


@pytest.mark.parametrize(("opset", "ir"), [(17, 8), (13, 7), (11, 6), (11, 3), (9, 3)])
def test_convolutions_between_ranges_fuse_to_integer_convolutions(tmp_path: Path, opset: int, ir: int) -> None:
    before, after, skips = quantized(graphs.convolution(opset=opset, ir=ir), tmp_path, calibrate=True)
    assert not skips
    assert onnx.load(after).opset_import[0].version == max(opset, 13)
    onnx.checker.check_model(str(after), full_check=True)
    fused = optimized_ops(after, tmp_path)
    assert fused["QLinearConv"] == 2
    assert not {"Conv", "FusedConv", "Relu"} & fused.keys()
    assert 0 < worst_error(before, after) < 0.1


@pytest.mark.parametrize("group", [2, 16])
@pytest.mark.parametrize("calibrate", [False, True])
def test_grouped_and_depthwise_convolutions(tmp_path: Path, group: int, calibrate: bool) -> None:
    before, after, _ = quantized(graphs.convolution(group=group), tmp_path, calibrate=calibrate)
    held = {t.name for t in constants(load(after).graph) if t.values.dtype == np.int8 and len(t.shape) == 4}
    # The depthwise one holds 32·1·9 = 288 numbers, too few to gain unless integers flow by; 16 groups of 2 hold 2304.
    assert held == ({"v.int8"} if group == 16 and not calibrate else {"v.int8", "w.int8"})
    assert 0 < worst_error(before, after) < 0.1


@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_are_stored(tmp_path: Path, group: int) -> None:
    before, after, _ = quantized(graphs.transposed_convolution(group), tmp_path, calibrate=True)
    assert ops(after) == Counter(Cast=1, Mul=1, ConvTranspose=1)
    assert 0 < worst_error(before, after) < 0.02


def test_a_half_precision_convolution_is_stored_even_with_samples(tmp_path: Path) -> None:
    before, after, _ = quantized(graphs.convolution(np.float16), tmp_path, calibrate=True)
    assert ops(after)["QuantizeLinear"] == 0
    assert ops(after)["Cast"] == 2
    assert 0 < worst_error(before, after) < 0.02


def test_a_bias_that_a_caller_may_override_stays_open(tmp_path: Path) -> None:
    proto = graphs.convolution()
    proto.graph.input.append(info("b", (32,)))
    before, after, _ = quantized(proto, tmp_path, calibrate=True)
    feeds = graphs.feeds_for(before) | {"b": np.zeros(32, np.float32)}
    sessions = [onnxruntime.InferenceSession(str(path)) for path in (before, after)]
    expected, got = (session.run(None, feeds)[0] for session in sessions)
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    closed = graphs.outputs_of(before, graphs.feeds_for(before))["y"]
    assert np.abs(expected - closed).max() > 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_weights_are_stored(tmp_path: Path, op: str) -> None:
    before, after, skips = quantized(graphs.recurrent(op), tmp_path)
    assert not skips
    assert ops(after) == Counter({"Cast": 2, "Mul": 2, op: 1})
    assert 0 < worst_error(before, after) < 0.02


# Zeros


@pytest.mark.parametrize("make", [graphs.matmul, graphs.gemm, graphs.tied_embedding, graphs.convolution])
@pytest.mark.parametrize("calibrate", [False, True])
def test_zeros_stay_exact_zeros_and_nothing_else_becomes_one_by_much(
    tmp_path: Path, make: graphs.Maker, calibrate: bool
) -> None:
    proto = make()
    zero: dict[str, Any] = {}
    for at, tensor in enumerate(proto.graph.initializer):
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim > 1:
            zero[tensor.name] = np.random.default_rng(0).random(array.shape) < 0.75
            array[zero[tensor.name]] = 0
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(array, tensor.name))
    _, after, _ = quantized(proto, tmp_path, calibrate=calibrate)
    held = {t.name: t.values for t in constants(load(after).graph)}
    for name, where in zero.items():
        array = held[f"{name}.int8"]
        assert not array[where if array.shape == where.shape else where.T].any()
    # Zero is zero on the grid: every zero point of a weight is 0.
    for name, array in held.items():
        if name.endswith(".int8.zero_point"):
            assert not array.any()


# Left alone, and why


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (graphs.matmul(rows=8), {"linear.0": "fewer than 1024 numbers: its scales would outweigh what int8 saves"}),
        (
            graphs.model(
                [node("MatMul", ["x", "w"], ["y"])],
                [info("x", ("batch", 512))],
                [info("y", ("batch", 8))],
                {"w": graphs.weights(512, 8)},
            ),
            {"linear.0": "narrower than 16: such a product is slower with integers"},
        ),
        (
            graphs.model(
                [node("MatMul", ["w", "x"], ["y"])],
                [info("x", (64, "batch"))],
                [info("y", (64, "batch"))],
                {"w": graphs.weights(64, 64)},
            ),
            {"linear.0": "the weight is the left operand of the product"},
        ),
        (graphs.matmul(dtype=np.float64), {"linear.0": "float64 products have no integer form"}),
        (
            graphs.model(
                [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "w"], ["y"])],
                [info("x", (64, 64))],
                [info("y", (64, 64))],
                {"w": graphs.weights(64, 64)},
            ),
            {"linear.0": "also read by Add 'y', which wants it in float"},
        ),
        (
            graphs.model(
                [node("MatMul", ["x", "w"], ["y"])],
                [info("x", ("batch", 64))],
                [info("y", ("batch", 64)), info("w", (64, 64))],
                {"w": graphs.weights(64, 64)},
            ),
            {"linear.0": "an output of the graph too, which wants it in float"},
        ),
        (graphs.sparse(np.array([1, 2, 3])), {"linear.0": "stored sparse already"}),
        (
            graphs.overridable(),
            {
                "m": "the weight is a graph input too: a caller may override it",
                "a": "the weight is a graph input too: a caller may override it",
            },
        ),
        (
            graphs.branches(),
            {
                "then": "MatMul inside the body of a control-flow operator",
                "m": "MatMul inside the body of a control-flow operator",
                "else": "MatMul inside the body of a control-flow operator",
                "linear.0": "also read by MatMul 'else', which wants it in float",
            },
        ),
        (
            graphs.model(
                [node("MatMul", ["x", "w"], ["y"])],
                [info("x", ("batch", 64))],
                [info("y", ("batch", 64))],
                {"w": np.full((64, 64), np.inf, np.float32)},
            ),
            {"linear.0": "it holds infinite numbers"},
        ),
        (
            graphs.model(
                [node("Gather", ["w", "i"], ["y"], axis=1)],
                [info("i", ("batch",), graphs.INT64)],
                [info("y", (64, "batch"))],
                {"w": graphs.weights(64, 64)},
            ),
            {"embedding.0": "rows are not looked up on the table's first axis"},
        ),
    ],
    ids=lambda value: "" if isinstance(value, onnx.ModelProto) else next(iter(value.values())),
)
def test_what_would_not_gain_is_left_alone_with_the_reason(
    tmp_path: Path, proto: onnx.ModelProto, expected: dict[str, str]
) -> None:
    path = graphs.saved(proto, tmp_path)
    proposal = proposal_for(load(path), SparseInt8())
    assert {skip.site: skip.why for skip in proposal.skips} == expected


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        (graphs.matmul, {"linears": "float"}, "option linears=float"),
        (graphs.convolution, {"convs": "float"}, "option convs=float"),
        (graphs.tied_embedding, {"embeddings": False}, "option embeddings=no"),
        (
            graphs.convolution,
            {"convs": "static"},
            "option convs=static: needs sample inputs, and a float32 Conv of constants whose output others read",
        ),
    ],
)
def test_an_option_is_a_reason(tmp_path: Path, make: graphs.Maker, options: dict[str, Any], why: str) -> None:
    proposal = proposal_for(load(graphs.saved(make(), tmp_path)), SparseInt8(**options))
    assert not proposal.edits
    assert {skip.why for skip in proposal.skips} == {why}


def test_our_own_results_are_recognised(tmp_path: Path) -> None:
    for at, (make, calibrate) in enumerate(
        [
            (graphs.matmul, False),
            (graphs.projections, False),
            (graphs.convolution, True),
            (graphs.tied_embedding, False),
        ]
    ):
        folder = tmp_path / str(at)
        folder.mkdir()
        _, after, _ = quantized(make(), folder, calibrate=calibrate)
        proposal = proposal_for(load(after), SparseInt8(), [graphs.feeds_for(after)])
        assert not proposal.edits


def quantize_with_the_runtimes_tool(source: Path, target: Path, *, static: bool) -> None:
    from onnxruntime import quantization

    if not static:
        quantization.quantize_dynamic(source, target)
        return

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([graphs.feeds_for(source)])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    quantization.quantize_static(source, target, Reader())


@pytest.mark.parametrize(
    ("make", "static", "expected"),
    [
        (graphs.feed_forward, False, {"already quantized: DynamicQuantizeLinear", "already quantized: MatMulInteger"}),
        (graphs.convolution, True, {"already quantized: DequantizeLinear", "already quantized: QuantizeLinear"}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # the runtime's own tool warns of its own code
def test_models_that_others_quantized_are_recognised(
    tmp_path: Path, make: graphs.Maker, static: bool, expected: set[str]
) -> None:
    path = graphs.saved(make(), tmp_path)
    quantize_with_the_runtimes_tool(path, tmp_path / "theirs.onnx", static=static)
    proposal = proposal_for(load(tmp_path / "theirs.onnx"), SparseInt8(), [graphs.feeds_for(path)])
    assert not proposal.edits
    reasons = {skip.why for skip in proposal.skips}
    assert reasons & expected


# Whole networks


@pytest.mark.parametrize(("opset", "dynamo"), [(17, False), (23, True)])
def test_exports_of_a_bert_load_after(tmp_path: Path, opset: int, dynamo: bool) -> None:
    path = graphs.bert(tmp_path, opset=opset, dynamo=dynamo)
    one, model = SparseInt8(), load(path)
    result, changes = one.apply(model, proposal_for(model, one).edits)
    save(result, tmp_path / "int8.onnx")
    # 2 layers of 4 square matrices and 2 of the feed-forward; the tables of 100, 64 and 2 rows (the last too small).
    assert len(changes) >= 12 + 2
    assert 0 < worst_error(path, tmp_path / "int8.onnx") < 0.1


def test_an_attention_operator_of_opset_23_is_left_whole(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", f"w_{part}"], [part]) for part in "qkv"]
    nodes.append(node("Attention", ["q", "k", "v"], ["y"], q_num_heads=4, kv_num_heads=4))
    shape = ("batch", "sequence", 64)
    constants = {f"w_{part}": graphs.weights(64, 64, seed=at) for at, part in enumerate("qkv")}
    proto = graphs.model(nodes, [info("x", shape)], [info("y", shape)], constants, opset=23, ir=11)
    before, after, skips = quantized(proto, tmp_path)
    assert not skips
    assert ops(after)["Attention"] == 1
    assert ops(after)["DynamicQuantizeLinear"] == 1
    assert 0 < worst_error(before, after) < 0.1


@pytest.mark.filterwarnings("ignore")  # the runtime's own tool warns of its own code
def test_graphs_that_the_runtimes_optimizer_fused_load_after(tmp_path: Path) -> None:
    from onnxruntime.transformers import optimizer

    source = graphs.bert(tmp_path)
    fused = optimizer.optimize_model(str(source), model_type="bert", num_heads=4, hidden_size=32)
    path = tmp_path / "fused.onnx"
    fused.save_model_to_file(str(path))
    assert ops(path)["Attention"] + ops(path)["SkipLayerNormalization"] > 0
    one, model = SparseInt8(), load(path)
    edits: tuple[Edit, ...] = proposal_for(model, one).edits
    assert edits
    result, _ = one.apply(model, edits)
    save(result, tmp_path / "int8.onnx")
    assert 0 < worst_error(path, tmp_path / "int8.onnx") < 0.1


def test_sites_limit_what_becomes_int8(tmp_path: Path) -> None:
    model = load(graphs.saved(graphs.feed_forward(), tmp_path))
    found = proposal_for(model, SparseInt8(sites=("linear.1",)))
    assert [edit.site for edit in found.edits] == ["linear.1"]
    assert [(skip.site, skip.why) for skip in found.skips] == [("linear.0", "not among option sites")]
    with pytest.raises(OptionError) as error:
        proposal_for(model, SparseInt8(sites=("linear.9",)))
    assert str(error.value) == "sparse-int8: no site 'linear.9'. Known: linear.0, linear.1."
