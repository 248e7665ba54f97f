"""Residual blocks: what is one, what only looks like one, and what removing one means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from onnxprune.blocks import Block, find_blocks
from onnxprune.errors import Declined
from onnxprune.graph import storage
from onnxprune.model import Model, load
from onnxprune.passes import RemoveBlocks
from onnxprune.plan import Edit
from onnxprune.protocol import Context
from onnxprune.runtime import Feeds, observe_shapes, open_session
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Structure, read_structure
from tests.building import PROBES, Net
from tests.equality import relative_error
from tests.matrix.exporting import exported, feeds

Array = np.ndarray[Any, Any]
WIDTH, HEADS, SIZE = 24, 4, 6


def norm(net: Net, x: str) -> str:
    return str(net.op("LayerNormalization", x, net.weight(WIDTH), net.weight(WIDTH)))


def attention(net: Net, x: str, mask: str = "") -> str:
    q, k, v = (
        net.op("Transpose", net.reshape(net.linear(x, WIDTH, WIDTH), 0, 0, HEADS, SIZE), perm=[0, 2, 1, 3])
        for _ in "qkv"
    )
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.op("Add", mask, scores) if mask else scores
    context = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.linear(net.reshape(net.op("Transpose", context, perm=[0, 2, 1, 3]), 0, 0, WIDTH), WIDTH, WIDTH)


def feed_forward(net: Net, x: str) -> str:
    return net.linear(net.op("Relu", net.linear(x, WIDTH, 32)), 32, WIDTH)


def pre_norm(net: Net, x: str) -> str:
    for _ in range(2):
        x = net.op("Add", x, attention(net, norm(net, x)))
        x = net.op("Add", feed_forward(net, norm(net, x)), x)
    return x


def post_norm(net: Net, x: str) -> str:
    for _ in range(2):
        x = norm(net, net.op("Add", attention(net, x), x))
        x = norm(net, net.op("Add", feed_forward(net, x), x))
    return x


def parallel(net: Net, x: str) -> str:
    for _ in range(2):
        h = norm(net, x)
        x = net.op("Add", net.op("Add", attention(net, h), feed_forward(net, h)), x)
    return x


def nested(net: Net, x: str) -> str:
    """A long way around two short ones, as in a U-Net."""
    y = net.op("Add", x, feed_forward(net, x))
    y = net.op("Add", y, feed_forward(net, y))
    return str(net.op("Add", net.linear(y, WIDTH, WIDTH), x))


def scaled(net: Net, x: str) -> str:
    """Sum instead of Add, and a gain on the branch."""
    branch = net.op("Mul", feed_forward(net, norm(net, x)), net.weight(WIDTH))
    return str(net.op("Sum", branch, x))


BODIES: dict[str, tuple[Callable[[Net, str], str], list[str]]] = {
    "pre-norm": (pre_norm, ["attention", "feed-forward"] * 2),
    "post-norm": (post_norm, ["attention", "feed-forward"] * 2),
    "parallel": (parallel, ["attention"] * 2),
    "nested": (nested, ["feed-forward"] * 3),
    "scaled": (scaled, ["feed-forward"]),
}


def net_of(body: Callable[[Net, str], str]) -> Net:
    net = Net()
    net.output(body(net, net.linear(net.input("x", ["b", "s", WIDTH]), WIDTH, WIDTH)))
    return net


def blocks_of(model: Model, probes: Sequence[Feeds]) -> tuple[Block, ...]:
    return find_blocks(model.graph, observe_shapes(model, probes))


def zeroed(model: Model, blocks: list[Block]) -> Model:
    """The original with what each block adds multiplied by zero."""
    import onnx_graphsurgeon as gs

    copy = model.copy()
    tensors = copy.graph.tensors()
    for number, block in enumerate(blocks):
        add = tensors[block.output].inputs[0]
        branch = tensors[block.branch]
        silent = gs.Variable(f"silent{number}")
        zero = gs.Constant(f"zero{number}", np.zeros((), np.float32))
        slots = [slot for slot, tensor in enumerate(add.inputs) if tensor is branch]
        add.inputs[slots[0]] = silent
        times = gs.Node("Mul", inputs=[branch, zero], outputs=[silent])
        copy.graph.nodes.insert(next(at for at, node in enumerate(copy.graph.nodes) if node is add), times)
    return copy


def structured(model: Model, probes: Sequence[Feeds]) -> tuple[Structure, tuple[Site, ...]]:
    structure = read_structure(model, observe_shapes(model, probes))
    return structure, find_sites(model, structure)


def proposed(one: RemoveBlocks, model: Model, probes: Sequence[Feeds]) -> tuple[tuple[Edit, ...], dict[str, str]]:
    structure, sites = structured(model, probes)
    proposal = one.propose(model, sites, Context(structure=structure))
    return proposal.edits, {skip.site: skip.why for skip in proposal.skips}


def probes_of(net: Net) -> list[Feeds]:
    return [net.feeds(sizes) for sizes in PROBES]


@pytest.mark.parametrize("name", BODIES)
def test_blocks_are_found_in_every_arrangement(name: str) -> None:
    body, roles = BODIES[name]
    net = net_of(body)
    blocks = blocks_of(net.model(), probes_of(net))
    assert [block.role for block in blocks] == roles
    assert not any(block.pinned for block in blocks)


@pytest.mark.parametrize("name", BODIES)
def test_a_removed_block_equals_a_branch_times_zero(name: str) -> None:
    """Each block alone, then all of them at once; nodes stay as they were, so that only zeros are left out."""
    net = net_of(BODIES[name][0])
    model = net.model()
    probes = probes_of(net)
    blocks = blocks_of(model, probes)
    choices = [[number] for number in range(len(blocks))] + [list(range(len(blocks)))]
    for choice in choices:
        one = RemoveBlocks(sites=tuple(f"block.{number}" for number in choice))
        edits, _ = proposed(one, model, probes)
        smaller, changes = one.apply(model, edits)
        reference = zeroed(model, [blocks[number] for number in choice])
        for level in ("none", "default"):
            for feeds_ in net.checks():
                got = open_session(smaller, level=level).run(feeds_)
                wanted = open_session(reference, level=level).run(feeds_)
                assert relative_error(got, wanted) <= 1e-6
                assert relative_error(open_session(model).run(feeds_), wanted) > 0.01
        (before, before_bytes), (after, after_bytes) = storage(model.graph), storage(smaller.graph)
        assert sum(change.params_before - change.params_after for change in changes) == before - after > 0
        assert sum(change.bytes_before - change.bytes_after for change in changes) == before_bytes - after_bytes


def test_the_parameters_of_a_block_are_those_that_go_with_it() -> None:
    net = net_of(scaled)
    # Norm 2·24, up 24·32 + 32, down 32·24 + 24, gain 24.
    assert [block.params for block in blocks_of(net.model(), probes_of(net))] == [48 + 800 + 792 + 24]


def test_masks_and_biases_that_are_added_to_scores_are_no_blocks() -> None:
    """Even where batch and heads are so fixed that they have the shape of the scores."""
    net = Net()
    x = net.input("x", [1, 9, WIDTH])
    mask = net.op("Mul", net.input("mask", [1, HEADS, 9, 9]), net.constant(np.float32(-3)))
    for _ in range(2):
        x = net.op("Add", attention(net, norm(net, x), mask), x)
    net.output(x)
    blocks = blocks_of(net.model(), [net.feeds({})] * 2)
    assert [block.role for block in blocks] == ["attention", "attention"]


def test_a_bias_that_later_layers_read_outlives_the_block_that_computes_it() -> None:
    """As in T5, whose first layer makes the positions of all."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    table = net.linear(net.op("ReduceMean", x, net.constant(np.array([0, 1])), keepdims=1), WIDTH, HEADS)
    bias = net.op("Transpose", net.op("Unsqueeze", table, net.constant(np.array([3]))), perm=[0, 2, 1, 3])
    for _ in range(2):
        x = net.op("Add", x, attention(net, norm(net, x), bias))
    net.output(x)
    model, probes = net.model(), probes_of(net)
    one = RemoveBlocks(sites=("block.0",))
    smaller, _ = one.apply(model, proposed(one, model, probes)[0])
    # A norm of 2·24 and four linears of 24·24 + 24; the table that makes the bias stays.
    assert [block.params for block in blocks_of(model, probes)] == [2448] * 2
    reference = zeroed(model, [blocks_of(model, probes)[0]])
    for feeds_ in net.checks():
        assert relative_error(open_session(smaller).run(feeds_), open_session(reference).run(feeds_)) <= 1e-6


@pytest.mark.parametrize("moved", [False, True])
def test_a_cache_that_is_given_out_pins_its_block(moved: bool) -> None:
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    h = norm(net, x)
    keys = net.linear(h, WIDTH, WIDTH)
    scores = net.op("MatMul", net.linear(h, WIDTH, WIDTH), net.op("Transpose", keys, perm=[0, 2, 1]))
    context = net.op("MatMul", net.op("Softmax", scores, axis=-1), net.linear(h, WIDTH, WIDTH))
    net.output(net.op("Add", x, net.linear(context, WIDTH, WIDTH)))
    cache = net.reshape(keys, 0, 0, HEADS, SIZE) if moved else keys
    net.output(cache)
    model, probes = net.model(), probes_of(net)
    edits, why = proposed(RemoveBlocks(keep=0, score="magnitude"), model, probes)
    assert not edits
    assert why == {"block.0": f"graph output {cache!r} is computed inside it"}


def test_residuals_inside_fused_norms_are_listed_and_left() -> None:
    """The second one is told by the sum that the first gives out beside its norm."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    y, _, _, total = net.op(
        "SkipLayerNormalization", x, feed_forward(net, x), net.weight(WIDTH), domain="com.microsoft", outputs=4
    )
    branch = feed_forward(net, y)
    net.output(net.op("SkipLayerNormalization", total, branch, net.weight(WIDTH), domain="com.microsoft"))
    _, why = proposed(RemoveBlocks(keep=0, score="magnitude"), net.model(), probes_of(net))
    assert why == dict.fromkeys(["block.0", "block.1"], "the residual is added inside SkipLayerNormalization")


def test_a_projected_shortcut_is_no_block_and_an_identity_one_is() -> None:
    net = Net()
    x = net.input("x", ["b", 3, 12, 12])
    x = net.op("Relu", net.op("Conv", x, net.weight(8, 3, 3, 3), pads=[1] * 4))
    for channels, last in ((8, 8), (8, 12)):
        y = net.op("Conv", net.op("Relu", net.op("Conv", x, net.weight(channels, 8, 3, 3), pads=[1] * 4)),
                   net.weight(last, channels, 3, 3), pads=[1] * 4)  # fmt: skip
        shortcut = x if last == 8 else net.op("Conv", x, net.weight(last, 8, 1, 1))
        x = net.op("Relu", net.op("Add", y, shortcut))
    net.output(x)
    blocks = blocks_of(net.model(), probes_of(net))
    assert [(block.role, block.params) for block in blocks] == [("convolution", 2 * 8 * 8 * 9)]


def test_sums_without_weights_or_without_an_ancestor_are_no_blocks() -> None:
    net = Net()
    x, y = net.input("x", ["b", "s", WIDTH]), net.input("y", ["b", "s", WIDTH])
    both = net.op("Add", net.linear(x, WIDTH, WIDTH), net.linear(y, WIDTH, WIDTH))
    net.output(net.op("Add", both, net.op("Tanh", both)))
    assert not blocks_of(net.model(), probes_of(net))


def test_a_block_whose_sum_is_an_output_hands_its_input_out_under_that_name() -> None:
    net = net_of(pre_norm)
    model, probes = net.model(), probes_of(net)
    one = RemoveBlocks(sites=("block.2", "block.3"))
    smaller, _ = one.apply(model, proposed(one, model, probes)[0])
    assert [tensor.name for tensor in smaller.graph.outputs] == net.outputs
    open_session(smaller).run(net.checks()[0])


def test_a_plan_of_another_model_is_declined() -> None:
    net = net_of(pre_norm)
    model, probes = net.model(), probes_of(net)
    edits, _ = proposed(RemoveBlocks(sites=("block.0",)), model, probes)
    other = net_of(scaled).model()
    with pytest.raises(Declined, match=r"^block\.0: the model has no tensors '.+' and '.+'$"):
        RemoveBlocks().apply(other, edits)


# Blocks of two layers: attention and feed-forward each, cross-attention too in decoders, one where both stand in
# parallel; MobileBERT has four feed-forwards and the whole layer around them.
EXPORTS = {
    "bert": 4,
    "vit": 4,
    "gpt2": 4,
    "llama": 4,
    "t5": 10,
    "falcon": 2,
    "gpt-neox": 2,
    "albert": 4,
    "mobilebert": 10,
    "convnext": 2,
}


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.filterwarnings("ignore")
def test_blocks_of_an_architecture_are_found_and_removed(name: str) -> None:
    model = load(exported(name, "torchscript17", "eager"))
    probes = [feeds(name, batch, length) for batch, length in ((2, 17), (5, 13))]
    blocks = blocks_of(model, probes)
    assert len(blocks) == EXPORTS[name]
    assert not any(block.pinned for block in blocks)
    chosen = sorted({1, len(blocks) - 1})
    one = RemoveBlocks(sites=tuple(f"block.{number}" for number in chosen))
    smaller, _ = one.apply(model, proposed(one, model, probes)[0])
    check = feeds(name, 1, 23)
    wanted = open_session(zeroed(model, [blocks[number] for number in chosen])).run(check)
    assert relative_error(open_session(smaller).run(check), wanted) <= 1e-5


@pytest.mark.serial
def test_four_times_the_layers_take_about_four_times_as_long() -> None:
    """Alternated; a search that walks the rest of the stream from each sum takes sixteen times as long."""
    import time

    def layers(count: int) -> Callable[[Net, str], str]:
        def body(net: Net, x: str) -> str:
            for _ in range(count):
                x = net.op("Add", x, feed_forward(net, norm(net, x)))
            return x

        return body

    graphs = [net_of(layers(count)).model().graph for count in (300, 1200)]
    ratios = []
    for _ in range(7):
        taken = []
        for graph in graphs:
            before = time.perf_counter()
            find_blocks(graph, {})
            taken.append(time.perf_counter() - before)
        ratios.append(taken[1] / taken[0])
    assert sorted(ratios)[3] < 8
