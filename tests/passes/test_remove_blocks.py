"""The options of remove-blocks: shares of the original blocks, roles, chosen blocks, messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxprune.blocks import find_blocks
from onnxprune.cosines import mean_cosines
from onnxprune.data import Samples
from onnxprune.errors import DataError, OptionError
from onnxprune.loss import choose_loss
from onnxprune.model import Model, load, save, to_bytes
from onnxprune.passes import RemoveBlocks
from onnxprune.plan import Edit
from onnxprune.protocol import Context, Proposal
from onnxprune.runtime import Feeds, observe_shapes, open_session
from onnxprune.sites import find_sites
from onnxprune.structure import read_structure
from tests.building import Net
from tests.test_blocks import WIDTH, attention, feed_forward, net_of, norm, pre_norm, probes_of


def layers(count: int) -> Net:
    """Attention and feed-forward in turn: blocks 0, 2, 4 … and 1, 3, 5 …."""

    def body(net: Net, x: str) -> str:
        for _ in range(count):
            x = net.op("Add", x, attention(net, norm(net, x)))
            x = net.op("Add", x, feed_forward(net, norm(net, x)))
        return x

    return net_of(body)


def propose(one: RemoveBlocks, model: Model, probes: list[Feeds], seed: int = 0) -> Proposal:
    structure = read_structure(model, observe_shapes(model, probes))
    return one.propose(model, find_sites(model, structure), Context(structure=structure, seed=seed))


def run(one: RemoveBlocks, model: Model, probes: list[Feeds]) -> tuple[Model, list[str]]:
    proposal = propose(one, model, probes)
    return one.apply(model, proposal.edits)[0], [edit.site for edit in cuts(proposal)]


def cuts(proposal: Proposal) -> tuple[Edit, ...]:
    """The edits of blocks, without the one that notes which sites there are."""
    return tuple(edit for edit in proposal.edits if edit.kind != "note-sites")


def test_a_share_is_one_of_the_original_blocks(tmp_path_factory: pytest.TempPathFactory) -> None:
    """6 blocks: half of them, 3, go at once; then nothing; then another share of the same 6, whatever is left."""
    net = layers(3)
    probes = probes_of(net)
    half, gone = run(RemoveBlocks(keep=0.5, score="magnitude"), net.model(), probes)
    assert len(gone) == 3
    path = tmp_path_factory.mktemp("cut") / "half.onnx"
    save(half, path)
    again = load(path)
    assert run(RemoveBlocks(keep=0.5, score="magnitude"), again, probes)[1] == []
    # 0.34 · 6 = 2.04, so that one more goes of the three.
    _, more = run(RemoveBlocks(keep=0.34, score="magnitude"), again, probes)
    assert len(more) == 1
    assert not set(more) & set(gone)


def test_a_share_of_a_role_is_one_of_the_original_blocks_of_that_role() -> None:
    """Of 3 attentions 2 stay; at a third of them 1 does: removed feed-forwards do not count."""
    net = layers(3)
    probes = probes_of(net)
    one, gone = run(RemoveBlocks(keep=2, roles=("attention",), score="magnitude"), net.model(), probes)
    assert [site in {"block.0", "block.2", "block.4"} for site in gone] == [True]
    two, gone = run(RemoveBlocks(keep=0.34, roles=("feed-forward",), score="magnitude"), one, probes)
    assert len(gone) == 2
    _, gone = run(RemoveBlocks(keep=0.34, roles=("attention",), score="magnitude"), two, probes)
    assert len(gone) == 1
    assert not run(RemoveBlocks(keep=0.67, roles=("attention",), score="magnitude"), two, probes)[1]


def test_ids_survive_the_removal_of_other_blocks() -> None:
    net = layers(2)
    probes = probes_of(net)
    model = net.model()
    smaller, _ = run(RemoveBlocks(sites=("block.1",)), model, probes)
    before, after = (
        {site.id: site.anchor for site in find_sites(each, read_structure(each, observe_shapes(each, probes)))
         if site.kind == "block"} for each in (model, smaller)
    )  # fmt: skip
    assert after == {name: anchor for name, anchor in before.items() if name != "block.1"}


def test_every_block_is_removed_or_listed() -> None:
    net = layers(2)
    proposal = propose(RemoveBlocks(keep=1, roles=("attention",), score="magnitude"), net.model(), probes_of(net))
    gone = [edit.site for edit in cuts(proposal)]
    skips = {skip.site: skip.why for skip in proposal.skips}
    assert len(gone) == 1
    assert sorted([*gone, *skips]) == ["block.0", "block.1", "block.2", "block.3"]
    assert skips["block.1"] == "its role is feed-forward, which option roles leaves out"
    assert [why for site, why in skips.items() if site in {"block.0", "block.2"}] == ["stays"]


def test_a_model_without_blocks_says_so() -> None:
    net = Net()
    net.output(net.linear(net.input("x", ["b", WIDTH]), WIDTH, WIDTH))
    proposal = propose(RemoveBlocks(keep=0, score="magnitude"), net.model(), probes_of(net))
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("graph", "no residual blocks were found")]


def test_random_choices_follow_the_seed() -> None:
    net = layers(4)
    model, probes = net.model(), probes_of(net)
    one = RemoveBlocks(keep=0.5, score="random")
    chosen = [[edit.site for edit in cuts(propose(one, model, probes, seed))] for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len({tuple(sites) for sites in chosen}) > 1


def test_the_weakest_blocks_go_first() -> None:
    net = layers(2)
    for tensor in net.initializers:
        if list(tensor.dims) == [32, WIDTH] and tensor is next(t for t in net.initializers if t.dims == tensor.dims):
            tensor.raw_data = bytes(len(tensor.raw_data))
    assert [
        edit.site for edit in cuts(propose(RemoveBlocks(keep=3, score="magnitude"), net.model(), probes_of(net)))
    ] == ["block.1"]


def test_edits_applied_again_give_the_same_bytes() -> None:
    net = net_of(pre_norm)
    model, probes = net.model(), probes_of(net)
    one = RemoveBlocks(keep=0.5, score="magnitude")
    edits = cuts(propose(one, model, probes))
    assert to_bytes(one.apply(model, edits)[0]) == to_bytes(RemoveBlocks().apply(model, edits)[0])


def test_a_reverted_edit_leaves_the_others_good() -> None:
    """Whatever subset of a proposal stands, its edits name what they need."""
    net = net_of(pre_norm)
    model, probes = net.model(), probes_of(net)
    first, *edits = propose(RemoveBlocks(keep=0, score="magnitude"), model, probes).edits
    assert len(edits) == 4
    for left_out in edits:
        smaller, _ = RemoveBlocks().apply(model, [first, *(edit for edit in edits if edit is not left_out)])
        structure = read_structure(smaller, observe_shapes(smaller, probes))
        assert [s.id for s in find_sites(smaller, structure) if s.kind == "block"] == [left_out.site]
    assert RemoveBlocks().apply(model, [first]) == (model, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": -1}, "remove-blocks: keep must be a share in [0, 1] or a count from 0, got -1."),
        ({"keep": 1.5}, "remove-blocks: keep must be a share in [0, 1] or a count from 0, got 1.5."),
        ({"keep": float("nan")}, "remove-blocks: keep must be a share in [0, 1] or a count from 0, got nan."),
        (
            {"roles": ("mlp",)},
            "remove-blocks: no role named 'mlp'. Known: attention, convolution, feed-forward.",
        ),
        (
            {"layers": True, "roles": ("attention",)},
            "remove-blocks: roles choose blocks, layers=yes cuts whole layers. Give one of them.",
        ),
        (
            {"layers": True, "sites": ("block.0",)},
            "remove-blocks: sites choose blocks, layers=yes cuts whole layers. Give one of them.",
        ),
        ({"guard": "2"}, "remove-blocks: guard must be counts FIRST/LAST such as 4/2, got '2'."),
        (
            {"greedy": True, "score": "cosine"},
            "remove-blocks: greedy=yes scores by loss, got score=cosine. Give one of them.",
        ),
        (
            {"score": "obs"},
            "remove-blocks: score must be one of cosine, loss, magnitude, random, taylor, got 'obs'.",
        ),
    ],
)
def test_bad_options_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as told:
        RemoveBlocks(**options)  # type: ignore[arg-type]  # what a user may type
    assert str(told.value) == message


def test_an_unknown_site_is_told_with_the_known_ones() -> None:
    net = layers(1)
    with pytest.raises(OptionError) as told:
        propose(RemoveBlocks(sites=("block.9",)), net.model(), probes_of(net))
    assert str(told.value) == "remove-blocks: no site 'block.9'. Known: block.0, block.1."


def test_every_other_site_keeps_its_id_too() -> None:
    """Heads, neurons and linears behind a removed block are not renumbered, now or in a later run."""
    net = layers(2)
    probes = probes_of(net)
    model = net.model()
    smaller, _ = run(RemoveBlocks(sites=("block.0", "block.1")), model, probes)
    before, after = (
        {
            (site.kind, site.anchor): site.id
            for site in find_sites(each, read_structure(each, observe_shapes(each, probes)))
        }
        for each in (model, smaller)
    )
    # The first linear stays, the six of the first layer go.
    assert [name for name in after.values() if name.startswith("linear.")] == [
        "linear.0",
        *(f"linear.{n}" for n in range(7, 13)),
    ]
    assert {"heads.1", "neurons.1"} <= set(after.values())
    assert all(before[key] == name for key, name in after.items())


# Scores that need samples: a model whose blocks matter as their size says


def louder(net: Net, gains: Sequence[float]) -> Model:
    """The network with what each block adds multiplied; blocks in data order."""
    model = net.model()
    blocks = find_blocks(model.graph, observe_shapes(model, probes_of(net)))
    tensors = model.graph.tensors()
    for block, gain in zip(blocks, gains, strict=True):
        product = tensors[block.branch].inputs[0]
        # The last Add of a block is its bias, on a product with its weight.
        parts = [tensor for tensor in product.inputs if isinstance(tensor, gs.Constant)]
        parts += [t for t in product.inputs[0].inputs[0].inputs if isinstance(t, gs.Constant)]
        for tensor in parts:
            tensor.values = (tensor.values * gain).astype(np.float32)
    return model


def scored(one: RemoveBlocks, model: Model, probes: list[Feeds], loss: Callable[[Model], float]) -> Proposal:
    structure = read_structure(model, observe_shapes(model, probes))
    context = Context(
        structure=structure,
        loss=loss,
        cosines=lambda first, second, pairs: mean_cosines(first, second, pairs, probes),
    )
    return one.propose(model, find_sites(model, structure), context)


def divergence(model: Model, probes: list[Feeds]) -> Callable[[Model], float]:
    return choose_loss(model, open_session(model), Samples(feeds=tuple(probes), source="probes"), None)


@pytest.mark.parametrize("score", ["loss", "cosine"])
def test_the_block_that_does_least_goes_first(score: Literal["loss", "cosine"]) -> None:
    net = layers(2)
    probes = probes_of(net)
    model = louder(net, (1.0, 0.2, 0.02, 1.0))
    for keep, expected in ((3, ["block.2"]), (2, ["block.1", "block.2"])):
        one = RemoveBlocks(keep=keep, score=score)
        edits = cuts(scored(one, model, probes, divergence(model, probes)))
        assert [edit.site for edit in edits] == expected


def test_the_loss_of_a_removal_is_that_of_the_model_without_the_block() -> None:
    net = layers(2)
    model, probes = net.model(), probes_of(net)
    loss = divergence(model, probes)
    edits = cuts(scored(RemoveBlocks(keep=3), model, probes, loss))
    smaller, changes = RemoveBlocks().apply(model, edits)
    before, after = edits[0].args["loss"]
    assert before == pytest.approx(0, abs=1e-9)
    assert after == loss(smaller)
    assert changes[0].what == f"block removed (loss {before:.4g} to {after:.4g})"


def test_greedy_scores_anew_after_each_removal() -> None:
    """Made losses: alone, 1 costs less than 2; but once 0 is gone, 2 is free."""
    net = layers(2)
    model, probes = net.model(), probes_of(net)
    made = {(): 0.0, (0,): 0.1, (1,): 0.2, (2,): 0.3, (3,): 9.0, (0, 1): 5.0, (0, 2): 0.1, (0, 3): 9.0}
    structure = read_structure(model, observe_shapes(model, probes))
    outputs = [site.anchor for site in find_sites(model, structure) if site.kind == "block"]
    calls: list[tuple[int, ...]] = []

    def loss(candidate: Model) -> float:
        left = candidate.graph.tensors()
        calls.append(tuple(at for at, name in enumerate(outputs[:3]) if name not in left))
        if outputs[3] in left and left[outputs[3]].inputs[0].op != "Add":
            calls[-1] += (3,)
        return made[calls[-1]]

    once = cuts(scored(RemoveBlocks(keep=2), model, probes, loss))
    assert [edit.site for edit in once] == ["block.0", "block.1"]
    assert len(calls) == 5
    calls.clear()
    greedy = cuts(scored(RemoveBlocks(keep=2, greedy=True), model, probes, loss))
    assert [edit.site for edit in greedy] == ["block.0", "block.2"]
    assert [edit.args["loss"] for edit in greedy] == [[0.0, 0.1], [0.1, 0.1]]
    assert len(calls) == 1 + 4 + 3


def test_whole_layers_are_cut_and_counted() -> None:
    net = layers(3)
    probes = probes_of(net)
    model = net.model()
    edits = cuts(propose(RemoveBlocks(keep=2, layers=True, score="magnitude"), model, probes))
    assert len(edits) == 1
    assert edits[0].site in {"block.0+block.1", "block.2+block.3", "block.4+block.5"}
    smaller, changes = RemoveBlocks().apply(model, edits)
    assert [change.what for change in changes] == ["layer removed"]
    both = cuts(propose(RemoveBlocks(sites=tuple(edits[0].site.split("+"))), model, probes))
    assert [t.name for t in smaller.graph.tensors().values()] == [
        t.name for t in RemoveBlocks().apply(model, both)[0].graph.tensors().values()
    ]


def test_a_share_of_layers_is_one_of_the_original_layers() -> None:
    net = layers(4)
    probes = probes_of(net)
    half = RemoveBlocks(keep=0.5, layers=True, score="magnitude")
    smaller, gone = run(half, net.model(), probes)
    assert len(gone) == 2
    assert run(half, smaller, probes)[1] == []
    # 0.25 · 4 = 1 layer stays.
    assert len(run(RemoveBlocks(keep=0.25, layers=True, score="magnitude"), smaller, probes)[1]) == 1


def test_the_guard_keeps_the_first_and_the_last() -> None:
    net = layers(2)
    proposal = propose(RemoveBlocks(keep=0, guard="1/2", score="magnitude"), net.model(), probes_of(net))
    assert [edit.site for edit in cuts(proposal)] == ["block.1"]
    assert [(skip.site, skip.why) for skip in proposal.skips] == [
        ("block.0", "guarded as one of the first"),
        ("block.2", "guarded as one of the last"),
        ("block.3", "guarded as one of the last"),
    ]


def test_blocks_of_no_layer_say_so() -> None:
    def body(net: Net, x: str) -> str:
        x = net.op("Add", x, feed_forward(net, norm(net, x)))
        return pre_norm(net, x)

    net = net_of(body)
    proposal = propose(RemoveBlocks(keep=1, layers=True, score="magnitude"), net.model(), probes_of(net))
    assert [(skip.site, skip.why) for skip in proposal.skips if skip.why != "stays"] == [
        ("block.0", "it is part of no layer")
    ]


@pytest.mark.parametrize("score", ["loss", "cosine"])
@pytest.mark.parametrize("keep", [1, 0.5])
def test_scores_by_samples_need_some(score: Literal["loss", "cosine"], keep: float) -> None:
    net = layers(1)
    with pytest.raises(DataError) as told:
        propose(RemoveBlocks(keep=keep, score=score), net.model(), probes_of(net))
    assert str(told.value) == (
        f"remove-blocks: score={score} needs sample inputs. Give --data, or score=magnitude, or --allow-synthetic to "
        "calibrate on made-up ones."
    )


def test_nothing_is_asked_of_a_pass_that_cuts_nothing() -> None:
    net = layers(1)
    assert cuts(propose(RemoveBlocks(), net.model(), probes_of(net))) == ()
