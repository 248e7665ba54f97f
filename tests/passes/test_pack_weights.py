"""Packing weights: which are taken, which are left with what reason, and what must stay as it was."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune import decoding
from onnxprune.decoding import Decoded, Decoding
from onnxprune.errors import Declined, OnnxPruneError
from onnxprune.judge import Broken, refuse_other_bits
from onnxprune.memory import memory_limited
from onnxprune.model import Model, load, save, to_bytes
from onnxprune.packing import find_packed, unpacked
from onnxprune.passes import PackWeights
from onnxprune.plan import Edit, Report, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.reverting import Trial, no_slower_at_all
from onnxprune.runtime import open_session
from onnxprune.targets.timing import Ratio
from tests import graphs

Array = np.ndarray[Any, Any]


def sparse(*shape: int, dtype: Any = np.float32, share: float = 0.8, seed: int = 0) -> Array:
    """Random numbers of which `share` are zero."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(shape) if np.dtype(dtype).kind != "i" else generator.integers(-127, 128, shape)
    values[generator.random(shape) < share] = 0
    return values.astype(dtype)


def proposed(proto: onnx.ModelProto, folder: Path) -> tuple[Model, Proposal]:
    """What the pass proposes, proved by the runtime."""
    model = load(graphs.saved(proto, folder))
    return model, PackWeights().propose(model, (), Context(decoding=Decoding))


def packs(proto: onnx.ModelProto, folder: Path) -> Model:
    """The packed model, of which the runtime was seen to decode every weight, and that answers bit for bit."""
    model, proposal = proposed(proto, folder)
    assert proposal.skips == ()
    result, changes = PackWeights().apply(model, proposal.edits)
    assert len(changes) == len(proposal.edits) == len(find_packed(result.graph)) > 0
    save(result, folder / "packed.onnx")
    feeds = graphs.feeds_for(folder / "model.onnx")
    for optimized in (True, False):
        expected = graphs.outputs_of(folder / "model.onnx", feeds, optimized=optimized)
        came = graphs.outputs_of(folder / "packed.onnx", feeds, optimized=optimized)
        assert {name: value.tobytes() for name, value in came.items()} == {
            name: value.tobytes() for name, value in expected.items()
        }
    assert to_bytes(unpacked(load(folder / "packed.onnx"))[0]) == to_bytes(model)
    return result


def filled(proto: onnx.ModelProto, **values: Array) -> onnx.ModelProto:
    """The model with other numbers in some weights."""
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return proto


def integer_product() -> onnx.ModelProto:
    nodes = [
        graphs.node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        graphs.node("MatMulInteger", ["q", "w", "z"], ["p"]),
        graphs.node("Cast", ["p"], ["f"], to=graphs.FLOAT),
        graphs.node("Mul", ["s", "step"], ["t"]),
        graphs.node("Mul", ["f", "t"], ["y"]),
    ]
    constants = {"w": sparse(64, 48, dtype=np.int8), "step": np.full(48, 0.01, np.float32)}
    return graphs.model(nodes, [graphs.info("x", ("batch", 64))], [graphs.info("y", ("batch", 48))], constants)


def quantized_convolution() -> onnx.ModelProto:
    nodes = [
        graphs.node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        graphs.node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        graphs.node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        graphs.node("Conv", ["d", "wd"], ["c"], pads=[1, 1, 1, 1]),
        graphs.node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
        graphs.node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
    ]
    constants = {
        "w": sparse(24, 16, 3, 3, dtype=np.int8),
        "ws": np.full(24, 0.01, np.float32),
        "s": np.array(0.05, np.float32),
        "z": np.array(128, np.uint8),
    }
    shape = ("batch", 16, 8, 8)
    outputs = [graphs.info("y", ("batch", 24, 8, 8))]
    return graphs.model(nodes, [graphs.info("x", shape)], outputs, constants)


def blockwise_product() -> onnx.ModelProto:
    """MatMulNBits of 4 bits, whose kernel packs its weight when it is made."""
    halves = sparse(128, 2, 16, dtype=np.int8, share=0.9).view(np.uint8)
    nodes = [graphs.node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=64, N=128, bits=4,
                         block_size=32)]  # fmt: skip
    constants: dict[str, Array] = {"b": halves, "s": np.full((128, 2), 0.1, np.float32)}
    inputs, outputs = [graphs.info("x", ("batch", 64))], [graphs.info("y", ("batch", 128))]
    return graphs.model(nodes, inputs, outputs, constants, domains=("com.microsoft",))


def masked_attention() -> onnx.ModelProto:
    """A causal mask of a thousand places, as old exports of GPT-2 carry one in each layer."""
    mask = np.tril(np.ones((256, 256), np.bool_))
    nodes = [graphs.node("Where", ["mask", "x", "low"], ["y"])]
    constants: dict[str, Array] = {"mask": mask, "low": np.array(-1e4, np.float32)}
    shape = ("batch", 256, 256)
    return graphs.model(nodes, [graphs.info("x", shape)], [graphs.info("y", shape)], constants)


@pytest.mark.parametrize(
    "make",
    [
        lambda: filled(graphs.matmul(), w=sparse(64, 64)),
        lambda: filled(graphs.matmul(dtype=np.float16), w=sparse(64, 64, dtype=np.float16)),
        lambda: filled(graphs.gemm(transB=1), w=sparse(48, 64)),
        lambda: filled(graphs.convolution(), w=sparse(32, 16, 3, 3), v=sparse(32, 32, 3, 3)),
        lambda: filled(graphs.convolution(opset=11, ir=3), v=sparse(32, 32, 3, 3)),
        lambda: filled(graphs.transposed_convolution(), w=sparse(16, 32, 3, 3)),
        lambda: filled(graphs.recurrent("LSTM"), w=sparse(1, 96, 16), r=sparse(1, 96, 24)),
        lambda: filled(graphs.recurrent("GRU"), r=sparse(1, 72, 24)),
        lambda: filled(graphs.branches(), w=sparse(64, 64)),
        lambda: filled(graphs.tied_embedding(), table=sparse(80, 32)),
        graphs.compressible,
        integer_product,
        quantized_convolution,
        blockwise_product,
        masked_attention,
    ],
)
def test_operators_of_all_kinds_read_what_is_packed(tmp_path: Path, make: graphs.Maker) -> None:
    packs(make(), tmp_path)


def test_a_type_that_the_runtime_cannot_expand_stays_dense(tmp_path: Path) -> None:
    nodes = [graphs.node("Cast", ["w"], ["f"], to=graphs.FLOAT), graphs.node("MatMul", ["x", "f"], ["y"])]
    inputs, outputs = [graphs.info("x", ("batch", 64))], [graphs.info("y", ("batch", 64))]
    proto = graphs.model(nodes, inputs, outputs, {"w": sparse(64, 64, dtype=ml_dtypes.bfloat16)})
    _, proposal = proposed(proto, tmp_path)
    assert proposal.edits == ()
    (skip,) = proposal.skips
    assert skip.site == "w"
    assert skip.why.startswith("model.onnx: onnxruntime refuses the model: ")


def test_only_weights_that_are_constant_and_large_enough_are_taken(tmp_path: Path) -> None:
    proto = filled(graphs.overridable(), open=sparse(64, 64), closed=sparse(64, 64))
    _, proposal = proposed(proto, tmp_path)
    assert [edit.site for edit in proposal.edits] == ["closed"]
    given_out = filled(graphs.matmul(), w=sparse(64, 64))
    given_out.graph.output.append(graphs.info("w", (64, 64)))
    _, proposal = proposed(given_out, tmp_path)
    assert [skip.why for skip in proposal.skips] == ["no weight of it is large enough"]
    # What only a body stores stays there; what the top graph stores and bodies read is taken.
    inside = filled(graphs.branches(), w=sparse(64, 64))
    inner = next(each.g for each in inside.graph.node[0].attribute if each.g.initializer)
    inner.initializer[0].CopyFrom(numpy_helper.from_array(sparse(64, 64, seed=1), "v"))
    _, proposal = proposed(inside, tmp_path)
    assert [edit.site for edit in proposal.edits] == ["w"]


def test_dense_weights_cost_one_line(tmp_path: Path) -> None:
    _, proposal = proposed(graphs.feed_forward(), tmp_path)
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("graph", "dense is smallest for each of its 2 weights")
    ]


def test_an_old_opset_has_no_bitmaps_and_an_older_one_no_codes(tmp_path: Path) -> None:
    few = np.random.default_rng(0).integers(0, 3, (64, 64)).astype(np.float32)
    model, proposal = proposed(filled(graphs.matmul(opset=10), w=few), tmp_path)
    _, (change,) = PackWeights().apply(model, proposal.edits)
    assert change.what == "codebook of 1.6 bits: 64x64 float32"
    _, proposal = proposed(filled(graphs.matmul(opset=10), w=sparse(64, 64)), tmp_path)
    assert proposal.edits == ()
    with pytest.raises(Declined) as caught:
        proposed(filled(graphs.matmul(opset=9), w=few), tmp_path)
    assert str(caught.value) == "decoding at load needs opset 10, the graph has 9"


class Stubborn:
    """A runtime that does not fold some weights, alone or not at all beside others."""

    def __init__(self, left: Collection[str] = (), alone: Collection[str] = (), together: int = 99) -> None:
        self.left, self.alone, self.together = set(left), set(alone), together
        self.asked = 0

    def of(self, candidate: Model, names: Collection[str]) -> Decoded:
        """As `Decoding` answers."""
        del candidate
        self.asked += 1
        if self.left & set(names):
            return Decoded(left=frozenset(self.left & set(names)))
        if self.alone & set(names):
            return Decoded(why="the runtime runs other operators: 1 more Transpose")
        return Decoded(why="too many") if len(names) > self.together else Decoded()


def many(folder: Path, runtime: Stubborn) -> Proposal:
    """A proposal for four sparse weights, judged by a runtime of our own."""
    proto = filled(graphs.attention(), **{f"w_{part}": sparse(64, 64, seed=at) for at, part in enumerate("qkvo")})
    model = load(graphs.saved(proto, folder))
    return PackWeights().propose(model, (), Context(decoding=lambda _: runtime))  # type: ignore[arg-type, return-value]


def test_weights_that_would_be_decoded_at_every_run_are_left_dense(tmp_path: Path) -> None:
    proposal = many(tmp_path, Stubborn(left={"w_k", "w_v"}))
    assert [edit.site for edit in proposal.edits] == ["w_q", "w_o"]
    why = "the runtime would decode it at every run"
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("w_k", why), ("w_v", why)]


def test_a_weight_whose_operator_wants_it_constant_is_found_among_many(tmp_path: Path) -> None:
    proposal = many(tmp_path, Stubborn(alone={"w_v"}))
    assert [edit.site for edit in proposal.edits] == ["w_q", "w_k", "w_o"]
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("w_v", "the runtime runs other operators: 1 more Transpose")
    ]


def test_what_folds_in_parts_only_is_left_as_a_whole(tmp_path: Path) -> None:
    proposal = many(tmp_path, Stubborn(alone={"w_q"}, together=2))
    assert proposal.edits == ()
    assert proposal.skips[-1].why == "its weights fold one by one, but not together"


def test_without_a_runtime_nothing_is_packed(tmp_path: Path) -> None:
    model = load(graphs.saved(filled(graphs.matmul(), w=sparse(64, 64)), tmp_path))
    with pytest.raises(Declined) as caught:
        PackWeights().propose(model, (), Context())
    assert str(caught.value) == "no runtime at hand to see whether it decodes weights at load"


def test_other_bits_are_told_though_all_digits_agree(tmp_path: Path) -> None:
    model = load(graphs.saved(filled(graphs.matmul(), w=sparse(64, 64)), tmp_path))
    weight = np.nextafter(sparse(64, 64), np.float32(9))
    other = load(graphs.saved(filled(graphs.matmul(), w=weight), tmp_path, "other.onnx"))
    x = {"x": np.ones((2, 64), np.float32)}
    refuse_other_bits(model, model, [x])
    with pytest.raises(Broken) as caught:
        refuse_other_bits(model, other, [x])
    assert str(caught.value) == "output 'y' is not the same bit for bit"


def test_what_runs_slower_each_time_is_reverted_with_the_figure(tmp_path: Path) -> None:
    model, proposal = proposed(filled(graphs.matmul(), w=sparse(64, 64)), tmp_path)
    report = Report(pass_spec="pack-weights")
    trial, nothing = Trial(model, proposal.edits, report), Trial(model, (), report)

    def race(slow: int) -> Any:
        turns = []

        def run(models: Any) -> tuple[Ratio, ...]:
            turns.append(len(models))
            ratio = Ratio(0.5, 0.45, 0.55, 99) if len(turns) <= slow else Ratio(0.99, 0.9, 1.1, 99)
            return (Ratio(1, 1, 1, 99),) + (ratio,) * (len(models) - 1)

        return run

    assert no_slower_at_all(trial, nothing, race(0)) is trial
    assert no_slower_at_all(trial, nothing, race(2)) is trial
    reverted = no_slower_at_all(trial, nothing, race(3))
    assert reverted.edits == ()
    assert [(skip.site, skip.why) for skip in reverted.report.reverted] == [("w", "a run takes 2.00 x as long with it")]


@pytest.mark.parametrize(
    ("weight", "line"),
    [
        ("none", "none: the model has no weight 'none' that can be packed"),
        ("w", "w: dense is its smallest form"),
    ],
)
def test_a_plan_for_another_model_is_told(tmp_path: Path, weight: str, line: str) -> None:
    model = load(graphs.saved(graphs.matmul(), tmp_path))
    edit = Edit(id=weight, pass_name="pack-weights", site=weight, kind="pack", args={"weight": weight})
    with pytest.raises(Declined) as caught:
        PackWeights().apply(model, (edit,))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"saving": 1.0}, "pack-weights: saving must be in [0, 1), got 1.0."),
        ({"memory": -1}, "pack-weights: memory must be 0 megabytes or more, got -1."),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], line: str) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        PackWeights(**options)
    assert str(caught.value) == line


def test_weights_are_packed_as_far_as_a_session_has_memory_to_decode_them(tmp_path: Path) -> None:
    """A codebook takes 4 + 2·4 bytes a byte of codes, a bitmap more than 8 a number: the first goes first."""
    generator = np.random.default_rng(0)
    few = generator.integers(0, 16, (800, 400)).astype(np.float32)
    constants = {"table": few, "other": generator.standard_normal((800, 400)).astype(np.float32)}
    constants["w"] = sparse(400, 400)
    nodes = [
        graphs.node("Gather", ["table", "ids"], ["rows"]),
        graphs.node("Gather", ["other", "ids"], ["others"]),
        graphs.node("Add", ["rows", "others"], ["sum"]),
        graphs.node("MatMul", ["sum", "w"], ["y"]),
    ]
    inputs, outputs = [graphs.info("ids", ("count",), graphs.INT64)], [graphs.info("y", ("count", 400))]
    model = load(graphs.saved(graphs.model(nodes, inputs, outputs, constants), tmp_path))
    # 800·400 / 2 · 12 = 1.92 MB for the table; 400·400 · 12 = 1.92 MB and half a megabyte more for the product.
    for memory, packed in ((1, []), (2, ["table"]), (4, ["table"]), (5, ["table", "w"])):
        proposal = PackWeights(memory=memory).propose(model, (), Context(decoding=Decoding))
        assert [edit.site for edit in proposal.edits] == packed
        assert {skip.why for skip in proposal.skips} <= {
            f"decoding it would take a session over {memory} MB (option memory)"
        }
        assert len(proposal.skips) + len(packed) == 2


def test_weights_outside_the_file_are_packed_there(tmp_path: Path) -> None:
    proto = filled(graphs.feed_forward(), up=sparse(64, 96), down=sparse(96, 64))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="model.data", size_threshold=1024)
    model = load(path)
    proposal = PackWeights().propose(model, (), Context(decoding=Decoding))
    result, _ = PackWeights().apply(model, proposal.edits)
    save(result, tmp_path / "packed.onnx")
    assert (tmp_path / "packed.onnx.data").stat().st_size < 0.5 * (tmp_path / "model.data").stat().st_size
    x = {"x": np.ones((1, 3, 64), np.float32)}
    expected, came = (open_session(tmp_path / f"{name}.onnx").run(x)["y"] for name in ("model", "packed"))
    assert came.tobytes() == expected.tobytes()


def tied() -> onnx.ModelProto:
    """A table whose rows are looked up first and multiplied with last, and a product in between."""
    nodes = [
        graphs.node("Gather", ["table", "ids"], ["rows"]),
        graphs.node("MatMul", ["rows", "w"], ["between"]),
        graphs.node("Relu", ["between"], ["active"]),
        graphs.node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        graphs.node("MatMul", ["active", "turned"], ["y"]),
    ]
    constants = {"table": sparse(400, 128), "w": sparse(128, 128, seed=1)}
    inputs, outputs = [graphs.info("ids", ("count",), graphs.INT64)], [graphs.info("y", ("count", 400))]
    return graphs.model(nodes, inputs, outputs, constants)


FEEDS = {"ids": np.arange(5)}


def test_where_memory_is_short_what_decodes_is_proved_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(graphs.saved(tied(), tmp_path))
    whole = PackWeights().propose(model, (), Context(decoding=Decoding))
    opened: list[frozenset[str]] = []

    def optimized(part: Model) -> onnx.GraphProto:
        names = {tensor.name for node in part.graph.nodes for tensor in [*node.inputs, *node.outputs]}
        opened.append(frozenset(names & {"table", "w"}))
        return original(part)

    original = decoding._optimized
    monkeypatch.setattr(decoding, "_optimized", optimized)
    with memory_limited(1):
        parts = PackWeights().propose(model, (), Context(decoding=partial(Decoding, feeds=FEEDS)))
    assert [edit.site for edit in parts.edits] == [edit.site for edit in whole.edits] == ["table", "w"]
    assert parts.skips == ()
    # Each with the nodes that read it, dense and packed, and never both weights at once.
    assert sorted(map(sorted, opened)) == [["table"]] * 4 + [["w"]] * 2


def test_what_is_decoded_at_every_run_is_found_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(graphs.saved(tied(), tmp_path))
    # A runtime that optimizes nothing.
    monkeypatch.setattr(decoding, "_optimized", lambda part: onnx.load_from_string(to_bytes(part)).graph)
    with memory_limited(1):
        parts = PackWeights().propose(model, (), Context(decoding=partial(Decoding, feeds=FEEDS)))
    assert parts.edits == ()
    why = "the runtime would decode it at every run"
    assert parts.skips == (Skip(site="table", why=why), Skip(site="w", why=why))
