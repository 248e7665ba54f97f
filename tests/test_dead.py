"""Units that carry nothing: found by weights, never by what a run happens to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from onnxprune.passes import RemoveDead
from onnxprune.plan import Edit, Skip
from onnxprune.protocol import Context
from onnxprune.runtime import observe, observe_shapes, open_session
from onnxprune.sites import find_sites
from onnxprune.structure import read_structure
from onnxprune.unchanging import Unchanging
from tests.building import PROBES, Net
from tests.equality import BOUND, relative_error

Array = np.ndarray[Any, Any]
HEADS, SIZE, WIDTH = 4, 8, 24


@dataclass(frozen=True)
class Found:
    """What remove-dead proposed: units by site, where constants were folded, and the reasons of the rest."""

    units: dict[str, list[int]]
    folds: dict[str, list[list[str]]]
    why: dict[str, list[str]]
    edits: tuple[Edit, ...]
    skips: tuple[Skip, ...]


def removed(net: Net) -> Found:
    """Propose, apply, and assert that no output moved by more than DESIGN's bound at any size."""
    model = net.model()
    probes = [net.feeds(sizes) for sizes in PROBES]
    structure = read_structure(model, observe_shapes(model, probes))
    context = Context(structure=structure, observe=lambda names: observe(model, probes[0], names))
    one = RemoveDead()
    proposal = one.propose(model, find_sites(model, structure), context)
    smaller, _ = one.apply(model, proposal.edits)
    for level in ("none", "default"):
        before, after = open_session(model, level=level), open_session(smaller, level=level)
        for feeds in [*probes, *net.checks()]:
            assert relative_error(after.run(feeds), before.run(feeds)) <= BOUND
    why: dict[str, list[str]] = {}
    for skip in proposal.skips:
        why.setdefault(skip.site, []).append(skip.why)
    cuts = [edit for edit in proposal.edits if edit.kind == "remove-units"]
    return Found(
        units={edit.site: edit.args["units"] for edit in cuts},
        folds={edit.site: edit.args["folds"] for edit in cuts if edit.args.get("folds")},
        why=why,
        edits=proposal.edits,
        skips=proposal.skips,
    )


def columns(*units: int, size: int = SIZE) -> list[int]:
    """Columns of some heads."""
    return [unit * size + at for unit in units for at in range(size)]


class Parts:
    """Weights and biases of one attention, to be zeroed before the graph is built."""

    def __init__(self, net: Net) -> None:
        wide = HEADS * SIZE
        self.weight = {part: net.numbers.standard_normal((WIDTH, wide)).astype(np.float32) for part in "qkv"}
        self.bias = {part: net.numbers.standard_normal(wide).astype(np.float32) for part in "qkv"}
        self.out = net.numbers.standard_normal((wide, WIDTH)).astype(np.float32)


def separate(net: Net, x: str, parts: Parts) -> list[str]:
    """Queries, keys and values [b, heads, s, size] of three products."""
    made = []
    for part in "qkv":
        y = net.op("MatMul", x, net.constant(parts.weight[part]))
        y = net.op("Add", y, net.constant(parts.bias[part]))
        made.append(net.op("Transpose", net.reshape(y, 0, 0, HEADS, SIZE), perm=[0, 2, 1, 3]))
    return made


def packed_in_thirds(net: Net, x: str, parts: Parts) -> list[str]:
    """The same of one product whose columns are all queries, all keys, all values."""
    weight, bias = (np.concatenate([held[part] for part in "qkv"], -1) for held in (parts.weight, parts.bias))
    y = net.op("Add", net.op("MatMul", x, net.constant(weight)), net.constant(bias))
    thirds = net.op("Split", y, net.constant(np.array([HEADS * SIZE] * 3)), outputs=3, axis=-1)
    return [net.op("Transpose", net.reshape(t, 0, 0, HEADS, SIZE), perm=[0, 2, 1, 3]) for t in thirds]


def packed_by_head(net: Net, x: str, parts: Parts) -> list[str]:
    """The same of one product whose columns are [heads, 3, size], as GPT-NeoX has it."""
    weight, bias = (
        np.stack([held[part].reshape(*held[part].shape[:-1], HEADS, SIZE) for part in "qkv"], -2)
        for held in (parts.weight, parts.bias)
    )
    y = net.op("MatMul", x, net.constant(weight.reshape(WIDTH, -1)))
    y = net.reshape(net.op("Add", y, net.constant(bias.reshape(-1))), 0, 0, HEADS, 3 * SIZE)
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    bounds = [net.constant(np.array([at * SIZE])) for at in range(4)]
    return [net.op("Slice", y, bounds[at], bounds[at + 1], net.constant(np.array([3]))) for at in range(3)]


IDIOMS: dict[str, Callable[[Net, str, Parts], list[str]]] = {
    "separate": separate,
    "in thirds": packed_in_thirds,
    "by head": packed_by_head,
}


def attention(
    idiom: str, edit: Callable[[Parts], None], *, gate: Array | None = None, gated: str = "", guard: bool = False
) -> Net:
    """Self-attention behind a linear, with a residual; `gate` is multiplied to the probabilities or the context."""
    net = Net()
    parts = Parts(net)
    edit(parts)
    x = net.input("x", ["b", "s", WIDTH])
    q, k, v = IDIOMS[idiom](net, x, parts)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    probabilities = net.op("Softmax", net.op("Mul", scores, net.constant(np.float32(SIZE**-0.5))), axis=-1)
    if guard:
        blank = net.op("IsNaN", probabilities)
        probabilities = net.op("Where", blank, net.constant(np.float32(0)), probabilities)
    if gated == "probabilities" and gate is not None:
        probabilities = net.op("Mul", probabilities, net.constant(gate))
    context = net.op("MatMul", probabilities, v)
    if gated == "context" and gate is not None:
        context = net.op("Mul", context, net.constant(gate))
    joined = net.reshape(net.op("Transpose", context, perm=[0, 2, 1, 3]), 0, 0, HEADS * SIZE)
    net.output(net.op("Add", net.op("MatMul", joined, net.constant(parts.out)), x))
    return net


@pytest.mark.parametrize("idiom", IDIOMS)
def test_nothing_of_a_sound_attention_is_dead(idiom: str) -> None:
    found = removed(attention(idiom, lambda _: None))
    assert not found.edits
    assert found.why == {"heads.0": ["none of its units is dead"]}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_heads_whose_output_rows_are_zero_go(idiom: str) -> None:
    def edit(parts: Parts) -> None:
        parts.out[columns(1, 3)] = 0

    found = removed(attention(idiom, edit))
    assert found.units == {"heads.0": [1, 3]}
    assert not found.folds


@pytest.mark.parametrize("idiom", IDIOMS)
@pytest.mark.parametrize("guard", [False, True])
def test_heads_of_zero_value_weights_leave_their_bias_in_the_next_one(idiom: str, guard: bool) -> None:
    """Softmax rows sum to one: the head gives out its value bias wherever one looks."""

    def edit(parts: Parts) -> None:
        parts.weight["v"][:, columns(2)] = 0

    found = removed(attention(idiom, edit, guard=guard))
    assert found.units == {"heads.0": [2]}
    assert len(found.folds["heads.0"]) == 1


@pytest.mark.parametrize("idiom", IDIOMS)
def test_heads_of_zero_query_and_key_weights_alone_stay(idiom: str) -> None:
    """They average their values, which is not nothing."""

    def edit(parts: Parts) -> None:
        parts.weight["q"][:, columns(2)] = parts.weight["k"][:, columns(2)] = 0

    assert not removed(attention(idiom, edit)).edits


@pytest.mark.parametrize("idiom", IDIOMS)
def test_half_a_head_is_no_dead_head(idiom: str) -> None:
    def edit(parts: Parts) -> None:
        parts.weight["v"][:, columns(2)[: SIZE // 2]] = 0
        parts.out[columns(2)[SIZE // 2 : -1]] = 0

    assert not removed(attention(idiom, edit)).edits


@pytest.mark.parametrize("idiom", IDIOMS)
@pytest.mark.parametrize("gated", ["probabilities", "context"])
def test_heads_behind_a_constant_gate_of_zero_go(idiom: str, gated: str) -> None:
    gate = np.array([1, 0, 0.5, 0], np.float32).reshape(1, HEADS, 1, 1)
    found = removed(attention(idiom, lambda _: None, gate=gate, gated=gated))
    assert found.units == {"heads.0": [1, 3]}
    assert not found.folds


def test_where_all_heads_are_dead_one_stays_and_the_report_says_so() -> None:
    def edit(parts: Parts) -> None:
        parts.out[:] = 0

    found = removed(attention("separate", edit))
    assert found.units == {"heads.0": [1, 2, 3]}
    assert found.why == {"heads.0": ["every unit is dead, and one must stay"]}


def feed_forward(activation: str, edit: Callable[[dict[str, Array]], None]) -> Net:
    """24 -> 32 -> 24 with both biases."""
    net = Net(opset=20)
    held = {
        "up": net.numbers.standard_normal((WIDTH, 32)).astype(np.float32),
        "up_bias": net.numbers.standard_normal(32).astype(np.float32),
        "down": net.numbers.standard_normal((32, WIDTH)).astype(np.float32),
        "down_bias": net.numbers.standard_normal(WIDTH).astype(np.float32),
    }
    edit(held)
    x = net.input("x", ["b", "s", WIDTH])
    h = net.op("Add", net.op("MatMul", x, net.constant(held["up"])), net.constant(held["up_bias"]))
    if activation == "decomposed":
        erf = net.op("Erf", net.op("Div", h, net.constant(np.float32(2**0.5))))
        h = net.op("Mul", h, net.op("Add", erf, net.constant(np.float32(1))))
        h = net.op("Mul", h, net.constant(np.float32(0.5)))
    else:
        h = net.op(activation, h)
    y = net.op("MatMul", h, net.constant(held["down"]))
    net.output(net.op("Add", y, net.constant(held["down_bias"])))
    return net


@pytest.mark.parametrize("activation", ["Relu", "Gelu", "Tanh", "decomposed"])
def test_neurons_without_weights_leave_what_their_bias_makes_of_the_activation(activation: str) -> None:
    def edit(held: dict[str, Array]) -> None:
        held["up"][:, [3, 7]] = 0
        held["up_bias"][[3, 7]] = 1.5

    found = removed(feed_forward(activation, edit))
    assert found.units == {"neurons.0": [3, 7]}
    assert len(found.folds["neurons.0"]) == 1


def test_what_the_activation_blanks_needs_no_folding() -> None:
    def edit(held: dict[str, Array]) -> None:
        held["up"][:, [3, 7]] = 0
        held["up_bias"][[3, 7]] = -1.5

    found = removed(feed_forward("Relu", edit))
    assert found.units == {"neurons.0": [3, 7]}
    assert not found.folds


def test_a_neuron_that_never_fires_on_the_probes_stays() -> None:
    """Its value is 0 in every run that anyone looks at; only weights can tell that it is never anything else."""

    def edit(held: dict[str, Array]) -> None:
        held["up_bias"][5] = -1000

    assert not removed(feed_forward("Relu", edit)).edits


def test_a_saturated_neuron_stays() -> None:
    def edit(held: dict[str, Array]) -> None:
        held["up_bias"][5] = 1000

    assert not removed(feed_forward("Tanh", edit)).edits


def test_a_neuron_may_be_ignored_by_some_and_silent_for_others() -> None:
    """Two readers: the first has no weights for unit 4, the second reads it behind a gate of zero."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    h = net.op("Relu", net.linear(x, WIDTH, 32))
    first = net.numbers.standard_normal((32, WIDTH)).astype(np.float32)
    first[[4, 9]] = 0
    gate = np.ones(32, np.float32)
    gate[[4, 11]] = 0
    net.output(net.op("MatMul", h, net.constant(first)))
    net.output(net.op("MatMul", net.op("Mul", h, net.constant(gate)), net.weight(32, WIDTH)))
    assert removed(net).units == {"neurons.0": [4]}


@pytest.mark.parametrize("zeroed", ["gate", "up"])
@pytest.mark.parametrize("packed", [False, True])
def test_gated_neurons_of_a_zero_gate_or_a_zero_product_go(zeroed: str, packed: bool) -> None:
    """Silu(0) = 0, so that either factor makes an end of it."""
    net = Net()
    held = {name: net.numbers.standard_normal((WIDTH, 32)).astype(np.float32) for name in ("gate", "up")}
    held[zeroed][:, [2, 30]] = 0
    x = net.input("x", ["b", "s", WIDTH])
    if packed:
        both = net.op("MatMul", x, net.constant(np.concatenate([held["gate"], held["up"]], 1)))
        gate, up = net.op("Split", both, net.constant(np.array([32, 32])), outputs=2, axis=-1)
    else:
        gate, up = (net.op("MatMul", x, net.constant(held[name])) for name in ("gate", "up"))
    h = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), up)
    net.output(net.op("MatMul", h, net.weight(32, WIDTH)))
    found = removed(net)
    assert found.units == {"neurons.0": [2, 30]}
    assert not found.folds


def test_a_gate_that_is_constant_but_not_zero_is_no_reason() -> None:
    net = Net()
    gate = net.numbers.standard_normal((WIDTH, 32)).astype(np.float32)
    gate[:, 2] = 0
    x = net.input("x", ["b", "s", WIDTH])
    opened = net.op("Sigmoid", net.op("MatMul", x, net.constant(gate)))  # one half at unit 2
    h = net.op("Mul", opened, net.op("MatMul", x, net.weight(WIDTH, 32)))
    net.output(net.op("MatMul", h, net.weight(32, WIDTH)))
    assert removed(net).why == {"neurons.0": ["none of its units is dead"]}


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1}, {"transB": 1, "alpha": 2.0}])
def test_gemms_fold_by_their_own_factors(attributes: dict[str, Any]) -> None:
    net = Net()
    up, down = (net.numbers.standard_normal(shape).astype(np.float32) for shape in ((WIDTH, 32), (32, WIDTH)))
    up[:, 6] = 0
    if attributes.get("transB"):
        up, down = up.T.copy(), down.T.copy()
    x = net.input("x", ["b", WIDTH])
    h = net.op("Sigmoid", net.op("Gemm", x, net.constant(up), net.weight(32), **attributes))
    net.output(net.op("Gemm", h, net.constant(down), net.weight(WIDTH), **attributes))
    found = removed(net)
    assert found.units == {"neurons.0": [6]}
    assert len(found.folds["neurons.0"]) == 1


def test_a_gemm_whose_second_summand_changes_keeps_its_unit() -> None:
    net = Net()
    up = net.numbers.standard_normal((WIDTH, 32)).astype(np.float32)
    up[:, 6] = 0
    x = net.input("x", ["b", WIDTH])
    summand = net.op("MatMul", x, net.weight(WIDTH, 32))
    h = net.op("Sigmoid", net.op("Gemm", x, net.constant(up), summand))
    net.output(net.op("Gemm", h, net.weight(32, WIDTH), net.weight(WIDTH)))
    assert removed(net).why == {"neurons.0": ["none of its units is dead"]}


def test_what_is_computed_from_dead_units_alone_is_dead_too() -> None:
    """Unit 3 of the second layer reads nothing but units 6 and 7 of the first, which have no weights."""
    net = Net()
    first, second = (net.numbers.standard_normal(shape).astype(np.float32) for shape in ((WIDTH, 32), (32, 16)))
    first[:, [6, 7]] = 0
    second[[at for at in range(32) if at not in {6, 7}], 3] = 0
    x = net.input("x", ["b", "s", WIDTH])
    h = net.op("Sigmoid", net.op("Add", net.op("MatMul", x, net.constant(first)), net.weight(32)))
    h = net.op("Sigmoid", net.op("Add", net.op("MatMul", h, net.constant(second)), net.weight(16)))
    net.output(net.linear(h, 16, WIDTH))
    found = removed(net)
    assert found.units == {"neurons.0": [6, 7], "neurons.1": [3]}
    assert found.folds.keys() == {"neurons.0", "neurons.1"}


def convnet(shift: float, *, pads: int, activation: str = "Relu", group: int = 1) -> Net:
    """Conv, BatchNormalization whose gain is zero at channels 1 and 4, an activation, Conv."""
    net = Net()
    gain, bias = np.ones(8, np.float32), net.numbers.standard_normal(8).astype(np.float32)
    gain[[1, 4]], bias[[1, 4]] = 0, shift
    x = net.input("x", ["b", 3, 9, 9])
    y = net.op("Conv", x, net.weight(8, 3, 3, 3), pads=[1, 1, 1, 1])
    vectors = (gain, bias, np.zeros(8, np.float32), np.ones(8, np.float32))
    y = net.op(activation, net.op("BatchNormalization", y, *(net.constant(vector) for vector in vectors)))
    if group > 1:
        y = net.op("Conv", y, net.weight(8, 1, 3, 3), net.weight(8), group=8, pads=[1, 1, 1, 1])
    net.output(net.op("Conv", y, net.weight(5, 8, 3, 3), pads=[pads] * 4))
    return net


@pytest.mark.parametrize("pads", [0, 1])
def test_channels_that_relu_blanks_behind_a_zero_gain_go(pads: int) -> None:
    found = removed(convnet(-0.5, pads=pads))
    assert found.units == {"channels.0": [1, 4]}
    assert not found.folds


def test_the_constant_of_a_channel_goes_into_a_convolution_without_padding() -> None:
    found = removed(convnet(0.5, pads=0))
    assert found.units == {"channels.0": [1, 4]}
    assert len(found.folds["channels.0"]) == 1


def test_the_constant_of_a_channel_stays_where_the_next_convolution_pads() -> None:
    """At the border the constant meets zeros, which no bias can repeat."""
    found = removed(convnet(0.5, pads=1))
    assert not found.edits
    why = "the convolution that reads their constant pads its border, so that no bias makes up for it; 2 units stay"
    assert found.why["channels.0"] == [why]


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool", "MaxPool"])
def test_pools_pass_constants_on(pool: str) -> None:
    net = Net()
    first = net.numbers.standard_normal((8, 3, 3, 3)).astype(np.float32)
    first[5] = 0
    x = net.input("x", ["b", 3, 8, 8])
    y = net.op("Conv", x, net.constant(first), net.weight(8))
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]} if pool == "MaxPool" else {}
    y = net.op(pool, y, **attributes)
    net.output(net.op("Conv", y, net.weight(4, 8, 1, 1)))
    assert removed(net).units == {"channels.0": [5]}


def test_a_padded_convolution_of_a_constant_depends_on_the_size_even_where_one_pixel_hides_it() -> None:
    """On a single pixel the border is everywhere, so that a run alone would call it one constant."""
    net = convnet(0.5, pads=0, group=8)
    net.inputs = [("x", ["b", 3, "h", "w"], net.inputs[0][2])]
    model = net.model()
    feeds = net.feeds({"b": 2, "h": 3, "w": 3})
    shapes = {name: runs[0] for name, runs in observe_shapes(model, [feeds]).items()}
    asked = Unchanging(model.graph, shapes).asked
    held = Unchanging(model.graph, shapes, observe(model, feeds, sorted(asked)))
    behind = [node.outputs[0].name for node in model.graph.nodes if node.op in {"Relu", "Conv"}]
    assert [name in held.still for name in behind] == [False, True, False, False]


def test_a_depthwise_convolution_passes_zeros_on_but_no_other_constant_where_it_pads() -> None:
    """Behind zeros the depthwise bias is left, wherever one looks; behind 0.5 there is a border."""
    silent = removed(convnet(-0.5, pads=0, group=8))
    assert silent.units == {"channels.0": [1, 4]}
    assert silent.folds
    assert not removed(convnet(0.5, pads=0, group=8)).edits


def test_a_constant_that_differs_from_place_to_place_stays() -> None:
    net = Net()
    x = net.input("x", ["b", 3, 6, 6])
    first = net.numbers.standard_normal((8, 3, 1, 1)).astype(np.float32)
    first[2] = 0
    y = net.op("Add", net.op("Conv", x, net.constant(first)), net.weight(8, 6, 6))
    net.output(net.op("Conv", y, net.weight(4, 8, 1, 1)))
    found = removed(net)
    assert not found.edits
    assert found.why["channels.0"] == ["their value never changes, but differs from place to place; 1 units stay"]


def test_dead_channels_of_a_residual_must_be_dead_in_every_branch() -> None:
    net = Net()
    weights = [net.numbers.standard_normal((8, channels, 1, 1)).astype(np.float32) for channels in (3, 8)]
    weights[0][[1, 2]] = 0
    weights[1][[2, 3]] = 0
    x = net.input("x", ["b", 3, 6, 6])
    stem = net.op("Conv", x, net.constant(weights[0]))
    branch = net.op("Conv", net.op("Relu", stem), net.constant(weights[1]))
    net.output(net.op("Conv", net.op("Add", stem, branch), net.weight(4, 8, 1, 1)))
    assert removed(net).units == {"channels.0": [2]}


def test_heads_of_a_fused_attention_leave_their_value_bias() -> None:
    net = Net()
    weight = net.numbers.standard_normal((WIDTH, 3 * HEADS * SIZE)).astype(np.float32)
    weight[:, [2 * HEADS * SIZE + at for at in columns(1)]] = 0
    x = net.input("x", ["b", "s", WIDTH])
    bias = net.constant(net.numbers.standard_normal(3 * HEADS * SIZE).astype(np.float32))
    y = net.op("Attention", x, net.constant(weight), bias, domain="com.microsoft", num_heads=HEADS)
    net.output(net.linear(y, HEADS * SIZE, WIDTH))
    found = removed(net)
    assert found.units == {"heads.0": [1]}
    assert found.folds


@pytest.mark.parametrize("domain", ["com.microsoft", ""])
def test_heads_of_a_fused_attention_of_three_inputs_go_too(domain: str) -> None:
    net = Net(opset=18 if domain else 23)
    parts = Parts(net)
    parts.weight["v"][:, columns(3)] = 0
    x = net.input("x", ["b", "s", WIDTH])
    q, k, v = (
        net.op("Add", net.op("MatMul", x, net.constant(parts.weight[part])), net.constant(parts.bias[part]))
        for part in "qkv"
    )
    if domain:
        y = net.op("MultiHeadAttention", q, k, v, domain=domain, num_heads=HEADS)
    else:
        y = net.op("Attention", q, k, v, q_num_heads=HEADS, kv_num_heads=HEADS)
    net.output(net.op("MatMul", y, net.constant(parts.out)))
    found = removed(net)
    assert found.units == {"heads.0": [3]}
    assert found.folds


def test_fused_activations_pass_constants_on() -> None:
    net = Net()
    up = net.numbers.standard_normal((WIDTH, 32)).astype(np.float32)
    up[:, 9] = 0
    x = net.input("x", ["b", "s", WIDTH])
    h = net.op("BiasGelu", net.op("MatMul", x, net.constant(up)), net.weight(32), domain="com.microsoft")
    net.output(net.linear(h, 32, WIDTH))
    assert removed(net).units == {"neurons.0": [9]}


def test_layers_that_share_all_weights_fold_once() -> None:
    """Two calls of one feed-forward: the shared bias gains the constant once, and no node is added."""
    net = Net()
    up = net.numbers.standard_normal((WIDTH, 32)).astype(np.float32)
    up[:, 9] = 0
    names = [net.constant(up), net.weight(32), net.weight(32, WIDTH), net.weight(WIDTH)]
    x = net.input("x", ["b", "s", WIDTH])
    for _ in range(2):
        h = net.op("Sigmoid", net.op("Add", net.op("MatMul", x, names[0]), names[1]))
        x = net.op("Add", net.op("MatMul", h, names[2]), names[3])
    net.output(x)
    found = removed(net)
    assert found.units == {"neurons.0": [9]}
    assert [len(readers) for readers in found.folds["neurons.0"]] == [2]


def test_a_sound_graph_is_not_run() -> None:
    net = feed_forward("Relu", lambda _: None)
    model = net.model()
    structure = read_structure(model, observe_shapes(model, [net.feeds(sizes) for sizes in PROBES]))

    def refuse(names: Any) -> Any:
        raise AssertionError(names)

    proposal = RemoveDead().propose(model, find_sites(model, structure), Context(structure=structure, observe=refuse))
    assert not proposal.edits


@pytest.mark.parametrize(("dead", "gone"), [(3, []), (11, [*range(8)])])
def test_dead_channels_go_in_whole_blocks_of_eight(dead: int, gone: list[int]) -> None:
    """Of 32 channels 3 fill no block; of 11 eight do, and three stay."""
    net = Net()
    first = net.numbers.standard_normal((32, 3, 3, 3)).astype(np.float32)
    first[:dead] = 0
    made = net.op("Conv", net.input("x", ["b", 3, 8, 8]), net.constant(first))
    net.output(net.op("Conv", net.op("Relu", made), net.weight(4, 32, 1, 1)))
    found = removed(net)
    assert found.units == ({"channels.0": gone} if gone else {})
    assert found.why["channels.0"] == ["kernels want channels in blocks of 8; 3 units stay"]
