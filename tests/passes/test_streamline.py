"""The pass as a user meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from onnxprune import optimize
from onnxprune.calibration import Statistics
from onnxprune.errors import Declined, OptionError
from onnxprune.judge import Broken, refuse_moved
from onnxprune.model import load, save
from onnxprune.passes import SparseInt8, Streamline
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from onnxprune.runtime import observe_shapes, open_session
from onnxprune.sites import find_sites
from onnxprune.streamlining import REWRITES
from tests.building import CHECKED, Net

# Rewrites that take nothing's place but what they find.
CALM = tuple(rewrite.name for rewrite in REWRITES if not rewrite.rival)


def layers(count: int = 2) -> Net:
    """Attention as sdpa exports it: roots on queries and keys, a mask made per layer, guards, computed shapes."""
    net = Net()
    ids, mask = (net.input(name, ("b", "s"), TensorProto.INT64) for name in ("input_ids", "attention_mask"))
    x = net.op("Gather", net.weight(8, 32), ids)
    for _ in range(count):
        shape, zero = net.op("Shape", x), net.constant([0])
        sizes = [net.op("Unsqueeze", net.op("Gather", shape, net.constant(np.int64(at))), zero) for at in (0, 1)]
        split = net.op("Concat", *sizes, net.constant([-1]), net.constant([8]), axis=0)
        merge = net.op("Concat", *sizes, net.constant([-1]), axis=0)
        q, k, v = (net.op("Reshape", net.linear(x, 32, 32), split) for _ in range(3))
        q, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        q, k = (
            net.op("Mul", part, net.constant(np.float32(8**-0.25)))
            for part in (q, net.op("Transpose", k, perm=[0, 2, 3, 1]))
        )
        keep = net.op("Unsqueeze", net.op("Cast", mask, to=TensorProto.BOOL), net.constant([1, 2]))
        low = net.op("Where", keep, net.constant(np.float32(0)), net.constant(np.float32(-np.inf)))
        shares = net.op("Softmax", net.op("Add", net.op("MatMul", q, k), low), axis=-1)
        shares = net.op("Where", net.op("IsNaN", shares), net.constant(np.float32(0)), shares)
        back = net.op("Transpose", net.op("MatMul", shares, v), perm=[0, 2, 1, 3])
        x = net.op("Add", x, net.linear(net.op("Reshape", back, merge), 32, 32))
        x = net.op("LayerNormalization", x, net.weight(32), net.weight(32), axis=-1)
    net.output(x)
    return net


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    save(layers().model(), path)
    return path


@pytest.mark.parametrize("before", [(), ("sparse-int8",)])
def test_layers_of_attention_lose_all_that_is_no_product(path: Path, tmp_path: Path, before: tuple[str, ...]) -> None:
    """Before and behind int8; the clock may take all of it back where runs are as short as these."""
    small = tmp_path / "small.onnx"
    result = optimize(path, output=small, passes=[*before, f"streamline:rewrites={'+'.join(CALM)}"])
    report = result.reports[-1]
    words = [change.what for change in report.changes]
    if not report.reverted:
        assert "4 computed shapes made literals" in words or "8 computed shapes made literals" in words
        assert "2 NaN guards gone" in words
        assert "4 scales moved into weights" in words
        kinds = {node.op for node in load(small).graph.nodes}
        assert not kinds & {"Shape", "Concat", "IsNaN", "Where"} - {"Where"}
    assert result.fidelity.score > (0.9 if before else 0.9999)


def test_a_sample_whose_mask_blanks_everything_gives_the_same_as_before(path: Path) -> None:
    model = load(path)
    shapes_of = layers()
    feeds = [shapes_of.feeds(sizes) for sizes in CHECKED]
    one = Streamline(rewrites=("nan-guards",))
    edits = one.propose(model, (), Context()).edits
    rewritten, _ = one.apply(model, edits)
    for given in feeds:
        given["attention_mask"][0] = 0
    refuse_moved(model, rewritten, feeds)


def test_a_rewrite_that_moves_an_output_is_refused(path: Path) -> None:
    net = layers()
    model = load(path)
    other = model.copy()
    gain = next(node for node in other.graph.nodes if node.op == "LayerNormalization").inputs[1]
    gain.values = gain.values * np.float32(1.01)
    with pytest.raises(Broken, match=r"output 'layernormalization\d+' moved by .*, a rewrite may move it by "):
        refuse_moved(model, other, [net.feeds(CHECKED[0])])


def test_an_unknown_rewrite_is_refused_by_name() -> None:
    with pytest.raises(OptionError) as caught:
        Streamline(rewrites=("magic",))
    assert str(caught.value) == (
        "streamline: rewrites must be all, or some of clips, duplicates, fixed-steps, fused-attention, gains, "
        "gemms, movement, nan-guards, positions, scales, shapes, sizes, spreads, tables, got 'magic'."
    )


def test_a_plan_with_an_unknown_rewrite_is_declined(path: Path) -> None:
    edit = Edit(id="streamline.magic", pass_name="streamline", site="graph", kind="magic")
    with pytest.raises(Declined) as caught:
        Streamline().apply(load(path), (edit,))
    assert str(caught.value) == "streamline.magic: no rewrite is named 'magic'"


def test_a_plan_replays_where_an_earlier_edit_is_missing(path: Path) -> None:
    """Literals name what the graph itself says: a chain that reads otherwise now is left alone."""
    model = load(path)
    one = Streamline(rewrites=CALM)
    shapes = observe_shapes(model, [layers().feeds(sizes) for sizes in CHECKED])
    edits = one.propose(model, (), Context(shapes=shapes)).edits
    assert {edit.kind for edit in edits} >= {"shapes", "nan-guards", "scales"}
    rewritten, changes = one.apply(model, edits)
    open_session(rewritten)
    assert len(changes) == len(edits)


def test_attention_is_one_operator_and_the_rest_is_there_where_the_clock_sends_it_home(path: Path) -> None:
    model = load(path)
    one = Streamline(rewrites=("fused-attention", "nan-guards"))
    proposal = one.propose(model, (), Context())
    # The guards are within the operator; their own rewrite waits for the case that the operator goes.
    assert [edit.kind for edit in proposal.edits] == ["fused-attention", "nan-guards"]
    fused, changes = one.apply(model, proposal.edits)
    assert [change.what for change in changes] == ["2 attentions are one operator each"]
    assert fused.graph.opset == 23
    plain, changes = one.apply(model, [edit for edit in proposal.edits if one.rivals(edit) is None])
    assert [change.what for change in changes] == ["2 NaN guards gone"]
    assert plain.graph.opset == model.graph.opset
    feeds = layers().feeds(CHECKED[0])
    feeds["attention_mask"][0] = 0
    (wanted,), (got,), (other,) = (open_session(each).run(feeds).values() for each in (model, fused, plain))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(other, wanted, rtol=0, atol=1e-5)
    assert one.propose(fused, (), Context()).edits == ()


def test_what_moves_outputs_comes_last_and_stands_beside_newer_operators(path: Path) -> None:
    """Behind all that other rewrites do, and with operators of opset 23."""
    model, first, one = load(path), SparseInt8(), Streamline(rewrites=("all",))
    small, _ = first.apply(model, first.propose(model, find_sites(model, None), Context()).edits)
    names = one.needs(small, ()).spans
    assert names
    spans = Statistics(spans={name: np.array([[-4.0, 4.0]] * 9) for name in names})
    shapes = observe_shapes(small, [layers().feeds(sizes) for sizes in CHECKED])
    edits = one.propose(small, (), Context(shapes=shapes, statistics=spans)).edits
    assert [edit.kind for edit in edits][-1] == "fixed-steps"
    assert sum(edit.kind == "fixed-steps" for edit in edits) == 1
    rewritten, _ = one.apply(small, edits)
    kinds = {node.op for node in rewritten.graph.nodes}
    assert kinds >= {"Attention", "MatMulIntegerToFloat"}
    assert rewritten.graph.opset == 23
    (got,) = open_session(rewritten).run(layers().feeds(CHECKED[0])).values()
    assert np.isfinite(got).all()


def test_portable_leaves_out_what_needs_a_newer_opset(path: Path) -> None:
    proposal = Streamline(rewrites=("fused-attention",), portable=True).propose(load(path), (), Context())
    assert proposal.edits == ()
    assert [skip.why for skip in proposal.skips] == [
        "fused-attention: its operators need opset 23, the model has 18; option portable"
    ]
