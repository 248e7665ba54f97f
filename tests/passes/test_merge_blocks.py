"""Layers merged into one: what becomes of the weights, where the search goes, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune import optimize, pipeline
from onnxprune.cosines import Pair, mean_cosines
from onnxprune.errors import DataError, Declined, OptionError
from onnxprune.graph import constants
from onnxprune.merging import merged_weights
from onnxprune.model import Model, load, save
from onnxprune.passes import MergeBlocks
from onnxprune.protocol import Context, Proposal
from onnxprune.runtime import Feeds, observe, observe_shapes
from onnxprune.sites import find_sites
from onnxprune.structure import read_structure
from tests import graphs

Array = np.ndarray[Any, Any]


def feeds_of(path: Path, count: int = 4) -> list[Feeds]:
    return [graphs.feeds_for(path, batch=1, other=5 + seed, seed=seed) for seed in range(count)]


def propose(one: MergeBlocks, model: Model, feeds: list[Feeds], *, original: Model | None = None) -> Proposal:
    structure = read_structure(model, observe_shapes(model, feeds[:2]))
    context = Context(
        structure=structure,
        cosines=lambda first, second, pairs: mean_cosines(first, second, pairs, feeds),
        original=original,
    )
    return one.propose(model, find_sites(model, structure), context)


def opened(proto: onnx.ModelProto, folder: Path) -> tuple[Model, list[Feeds]]:
    path = graphs.saved(proto, folder)
    return load(path), feeds_of(path)


def values(model: Model) -> dict[str, Array]:
    return {tensor.name: np.asarray(tensor.values) for tensor in constants(model.graph)}


def calm(count: int = 4, size: float = 0.1, **options: bool) -> onnx.ModelProto:
    """Layers that add little to their stream, so that merging them keeps its direction."""
    proto = graphs.layers(count, **options)
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name.endswith((".o.weight", ".down.weight")):
            small = numpy_helper.to_array(tensor) * np.float32(size)
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(small, tensor.name))
    return proto


def test_the_rules_agree_for_two_layers_and_differ_for_three() -> None:
    """2 + (3 - 2) + (5 - 2) = 6 as printed, 5 as released."""
    stack = [np.full((2, 2), number, np.float32) for number in (2, 3, 5)]
    assert merged_weights(stack[:2], "last")[0, 0] == merged_weights(stack[:2], "sum-of-differences")[0, 0] == 3
    assert merged_weights(stack, "last")[0, 0] == 5
    assert merged_weights(stack, "sum-of-differences")[0, 0] == 6
    assert merged_weights(stack, "sum-of-differences").dtype == np.float32


@pytest.mark.parametrize("after", [False, True], ids=["norms before", "norms after"])
def test_the_merged_layer_is_the_last_one_with_the_norms_of_the_first(after: bool, tmp_path: Path) -> None:
    """The same network, built by hand: layer 1 has the products of layer 2, which is gone with its norms."""
    model, feeds = opened(graphs.layers(3, normalised_after=after), tmp_path)
    edits = propose(MergeBlocks(keep=2), model, feeds).edits
    assert [edit.args["layers"] for edit in edits] == [["block.2+block.3", "block.4+block.5"]]
    merged, changes = MergeBlocks().apply(model, edits)

    expected = graphs.layers(2, normalised_after=after)
    before = values(model)
    for at, tensor in enumerate(expected.graph.initializer):
        source = before[tensor.name]
        if tensor.name.startswith("1.") and not tensor.name.endswith(".gain"):
            source = before[tensor.name.replace("1.", "2.", 1)]
        expected.graph.initializer[at].CopyFrom(numpy_helper.from_array(source, tensor.name))
    by_hand = load(graphs.saved(expected, tmp_path, "by_hand.onnx"))
    assert len(merged.graph.nodes) == len(by_hand.graph.nodes)
    assert values(merged).keys() == values(by_hand).keys()
    for one in feeds:
        np.testing.assert_array_equal(observe(merged, one, ["y"])["y"], observe(by_hand, one, ["y"])["y"])
    # Attention 4·(64·64 + 64), feed-forward 2·64·96 + 96 + 64, and two gains of 64.
    assert [change.params_before - change.params_after for change in changes] == [16640 + 12448 + 128]


def test_the_reported_cosine_is_that_of_the_saved_file(tmp_path: Path) -> None:
    model, feeds = opened(calm(), tmp_path)
    edits = propose(MergeBlocks(keep=2), model, feeds).edits
    assert len(edits) == 2
    merged, changes = MergeBlocks().apply(model, edits)
    path = tmp_path / "merged.onnx"
    save(merged, path)
    states = [[observe(one, feed, ["last"])["last"].ravel() for feed in feeds] for one in (model, load(path))]
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(*states, strict=True)]
    assert edits[-1].args["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert changes[-1].what == (
        f"2 layers merged into one (final hidden states keep cosine {edits[-1].args['cosine']:.4f})"
    )


def test_every_accepted_merge_stays_above_the_threshold(tmp_path: Path) -> None:
    model, feeds = opened(calm(), tmp_path)
    everything = propose(MergeBlocks(threshold=-1.0), model, feeds).edits
    cosines = [edit.args["cosine"] for edit in everything]
    assert len(cosines) == 3
    middle = (max(cosines) + min(cosines)) / 2
    some = propose(MergeBlocks(threshold=middle), model, feeds)
    assert 0 < len(some.edits) < 3
    assert all(edit.args["cosine"] > middle for edit in some.edits)
    refused = [skip.why for skip in some.skips]
    assert any(why.endswith(f"not above {middle:g}") for why in refused)


def test_the_walk_starts_at_the_last_layers_and_goes_down(tmp_path: Path) -> None:
    """6 layers, groups of 3: 3 4 5 at once; two down is 1, and 1 2 3; then the rest, which two no longer reach."""
    model, feeds = opened(calm(6), tmp_path)
    edits = propose(MergeBlocks(threshold=-1.0, group=3, interval=2), model, feeds).edits
    assert [edit.site for edit in edits] == ["block.6+block.7", "block.2+block.3"]
    assert [len(edit.args["layers"]) for edit in edits] == [3, 3]
    assert edits[1].depends_on == (edits[0].id,)


def test_a_window_past_the_last_layer_is_cut_off_there(tmp_path: Path) -> None:
    """5 layers, groups of 3: 2 3 4 become 2, and one down only 1 2 are left to merge, then 0 1."""
    model, feeds = opened(calm(5), tmp_path)
    edits = propose(MergeBlocks(threshold=-1.0, group=3), model, feeds).edits
    assert [len(edit.args["layers"]) for edit in edits] == [3, 2, 2]


def test_a_target_never_merges_the_first_layer_without_a_threshold(tmp_path: Path) -> None:
    model, feeds = opened(calm(3), tmp_path)
    proposal = propose(MergeBlocks(keep=1), model, feeds)
    assert [edit.site for edit in proposal.edits] == ["block.2+block.3"]
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("block.0+block.1", "only a threshold may merge the first layer"),
        ("graph", "2 layers stay, not 1: no further merge is allowed"),
    ]
    allowed = propose(MergeBlocks(keep=1, threshold=-1.0), model, feeds).edits
    assert "block.0+block.1" in {edit.site for edit in allowed}


def test_a_target_is_met_exactly_by_a_smaller_last_group(tmp_path: Path) -> None:
    """6 layers to 3 in groups of 3: three become one, 4 are left, and two of them become one."""
    model, feeds = opened(calm(6), tmp_path)
    edits = propose(MergeBlocks(keep=3, group=3), model, feeds).edits
    assert [len(edit.args["layers"]) for edit in edits] == [3, 2]


def test_a_share_is_one_of_the_original_layers(tmp_path: Path) -> None:
    model, feeds = opened(calm(4), tmp_path)
    once, _ = MergeBlocks().apply(model, propose(MergeBlocks(keep=0.75), model, feeds).edits)
    assert propose(MergeBlocks(keep=0.75), once, feeds).edits == ()
    assert len(propose(MergeBlocks(keep=0.5), once, feeds).edits) == 1


def test_a_merged_model_is_not_searched_by_a_threshold_again(tmp_path: Path) -> None:
    model, feeds = opened(calm(), tmp_path)
    once, _ = MergeBlocks().apply(model, propose(MergeBlocks(keep=3, threshold=0.9), model, feeds).edits)
    again = propose(MergeBlocks(threshold=0.5), once, feeds)
    assert again.edits == ()
    assert [skip.why for skip in again.skips] == [
        "its layers were merged before, by threshold 0.9; start from the original to merge more"
    ]
    # The same run knows the original, so that its cosines are still of that.
    assert propose(MergeBlocks(threshold=-1.0), once, feeds, original=model).edits


def test_layers_that_are_not_alike_are_not_merged(tmp_path: Path) -> None:
    proto = calm(3)
    next(node for node in proto.graph.node if node.output[0] == "1.feed.r").op_type = "Tanh"
    model, feeds = opened(proto, tmp_path)
    proposal = propose(MergeBlocks(threshold=-1.0), model, feeds)
    assert proposal.edits == ()
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("block.0+block.1", "block.0+block.1 and block.2+block.3 are not alike"),
        ("block.2+block.3", "block.2+block.3 and block.4+block.5 are not alike"),
        ("block.4+block.5", "stays"),
    ]


def test_a_weight_that_others_read_is_not_written(tmp_path: Path) -> None:
    """As in ALBERT: every layer reads the first one's weight."""
    proto = calm(2)
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = name.replace("1.feed.up.weight", "0.feed.up.weight")
    model, feeds = opened(proto, tmp_path)
    proposal = propose(MergeBlocks(threshold=-1.0), model, feeds)
    assert proposal.edits == ()
    assert proposal.skips[0].why == "weight '0.feed.up.weight' is shared with MatMul '1.feed.up.product'"


def test_a_state_that_something_else_reads_keeps_its_layer(tmp_path: Path) -> None:
    """The second of three layers gives its sum out, too, so that it could not go."""
    proto = calm(3)
    proto.graph.output.append(graphs.info("1.feed.sum", ("batch", "sequence", graphs.WIDTH)))
    model, feeds = opened(proto, tmp_path)
    proposal = propose(MergeBlocks(threshold=-1.0, group=3), model, feeds)
    assert proposal.edits == ()
    assert proposal.skips[0].why == "'1.feed.sum' is also read outside of the layers"


def test_a_last_layer_whose_sum_is_the_output_keeps_the_name(tmp_path: Path) -> None:
    proto = calm(2)
    del proto.graph.node[-2:]
    proto.graph.output[0].name = "1.feed.sum"
    del proto.graph.initializer[-1]
    model, feeds = opened(proto, tmp_path)
    edits = propose(MergeBlocks(threshold=-1.0), model, feeds).edits
    merged, _ = MergeBlocks().apply(model, edits)
    assert [tensor.name for tensor in merged.graph.outputs] == ["1.feed.sum"]
    cosine = mean_cosines(merged, model, [Pair("1.feed.sum", "1.feed.sum", None)], feeds)[0]
    assert edits[0].args["cosine"] == pytest.approx(cosine, abs=1e-6)


def test_edits_that_do_not_fit_are_declined(tmp_path: Path) -> None:
    model, feeds = opened(calm(2), tmp_path)
    edit = propose(MergeBlocks(threshold=-1.0), model, feeds).edits[0]
    key, name = next(iter(edit.args["weights"].items()))
    misfit = replace(edit, tensors={**edit.tensors, key: np.zeros((3, 3), np.float32)})
    with pytest.raises(Declined) as told:
        MergeBlocks().apply(model, [misfit])
    assert str(told.value) == f"block.0+block.1: the model has no weight {name!r} of float32 [3, 3]"
    with pytest.raises(Declined) as told:
        MergeBlocks().apply(model, [replace(edit, args={**edit.args, "output": "nowhere"})])
    assert str(told.value) == "block.0+block.1: the model has no tensors 'nowhere' and '0.feed.sum'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "merge-blocks: keep must be a share in (0, 1] or a count from 1, got 0."),
        ({"keep": 1.5}, "merge-blocks: keep must be a share in (0, 1] or a count from 1, got 1.5."),
        ({"threshold": 2.0}, "merge-blocks: threshold must be a cosine in [-1, 1], got 2.0."),
        ({"group": 1}, "merge-blocks: group must be at least 2 layers, got 1."),
        ({"interval": 0}, "merge-blocks: interval must be at least 1 layer, got 0."),
        (
            {"rule": "mean"},
            "merge-blocks: rule must be one of last, sum-of-differences, got 'mean'.",
        ),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as told:
        MergeBlocks(**options)
    assert str(told.value) == message


def test_a_search_without_samples_is_told(tmp_path: Path) -> None:
    path = graphs.saved(calm(2), tmp_path)
    with pytest.raises(DataError) as told:
        optimize(path, passes=["merge-blocks:keep=1"])
    assert str(told.value) == (
        "merge-blocks: its search needs sample inputs. Give --data, or --allow-synthetic to calibrate on made-up ones."
    )


def test_without_a_target_nothing_is_merged_and_that_is_said(tmp_path: Path) -> None:
    model, feeds = opened(calm(2), tmp_path)
    proposal = propose(MergeBlocks(), model, feeds)
    assert proposal.edits == ()
    assert [skip.why for skip in proposal.skips] == ["neither keep nor threshold asks for a merge"]


def test_a_model_without_layers_says_so(tmp_path: Path) -> None:
    model, feeds = opened(graphs.residual_blocks(), tmp_path)
    assert [s.why for s in propose(MergeBlocks(keep=1), model, feeds).skips] == [
        "fewer than two whole layers were found"
    ]


def test_a_plan_of_merges_replays_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    path = graphs.saved(calm(4), tmp_path)
    data = tmp_path / "data.npz"
    np.savez(data, x=np.stack([np.asarray(feed["x"])[:, :5] for feed in feeds_of(path, 8)]))
    result = optimize(path, output=tmp_path / "out.onnx", data=str(data), passes=["merge-blocks:keep=0.5"])
    pipeline.apply(path, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.output.read_bytes()
    assert json.loads(result.plan.read_text())["options"]["loss"] == "divergence"
