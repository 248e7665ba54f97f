"""Channels through norms, depthwise convolutions, residuals, concatenations and into a dense head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxprune.cut import count_parameters
from onnxprune.inputs import compare_inputs
from onnxprune.passes import RemoveChannels
from onnxprune.protocol import Context
from onnxprune.runtime import observe_shapes, open_session
from onnxprune.sites import find_sites
from onnxprune.structure import read_structure
from tests.building import Net
from tests.test_removal import assert_equals_masking, probes_of, propose


def conv(net: Net, x: str, d_in: int, d_out: int, *, kernel: int = 3, group: int = 1) -> str:
    weight = net.constant(net.numbers.standard_normal((d_out, d_in // group, kernel, kernel)).astype(np.float32))
    return str(net.op("Conv", x, weight, net.weight(d_out), group=group, pads=[kernel // 2] * 4))


def plain(net: Net, x: str) -> str:
    return conv(net, net.op("Relu", conv(net, x, 3, 16)), 16, 5)


def normed(net: Net, x: str) -> str:
    vectors = [net.weight(16), net.weight(16), net.weight(16), net.constant(np.ones(16, np.float32))]
    return conv(net, net.op("Relu", net.op("BatchNormalization", conv(net, x, 3, 16), *vectors)), 16, 5)


def depthwise(net: Net, x: str) -> str:
    y = net.op("Relu", conv(net, x, 3, 16, kernel=1))
    return conv(net, net.op("Relu", conv(net, y, 16, 16, group=16)), 16, 5, kernel=1)


def residual(net: Net, x: str) -> str:
    y = conv(net, x, 3, 16)
    return conv(net, net.op("Add", y, net.op("Relu", conv(net, y, 16, 16))), 16, 5)


def dense(net: Net, x: str) -> str:
    y = net.op("MaxPool", net.op("Relu", conv(net, x, 3, 16)), kernel_shape=[4, 4], strides=[4, 4])
    return str(net.op("Gemm", net.op("Flatten", y), net.weight(16 * 4, 5), net.weight(5)))


# Numbers that go with a channel, its own bias among them.
BODIES: dict[str, tuple[Callable[[Net, str], str], int]] = {
    "plain": (plain, 27 + 1 + 5 * 9),
    "normed": (normed, 27 + 1 + 4 + 5 * 9),
    "depthwise": (depthwise, 3 + 1 + 9 + 1 + 5),
    "dense": (dense, 27 + 1 + 4 * 5),
}


def net_of(body: Callable[[Net, str], str]) -> Net:
    net = Net()
    net.output(body(net, net.input("x", ["b", 3, 8, 8])))
    return net


@pytest.mark.parametrize("name", [*BODIES, "residual"])
def test_half_of_the_channels_go_exactly(name: str) -> None:
    body = residual if name == "residual" else BODIES[name][0]
    net = net_of(body)
    model, probes = net.model(), probes_of(net)
    one = RemoveChannels(keep=0.5, score="magnitude", multiple=4)
    proposal = propose(one, model, probes)
    smaller, changes = one.apply(model, proposal.edits)
    _, cut = proposal.edits
    assert (cut.site, len(cut.args["units"])) == ("channels.0", 8)
    # Of the residual's own convolution 16 · 16 filters of 9 numbers are left 8 · 8.
    size = 8 * (27 + 1 + 1 + 5 * 9) + (256 - 64) * 9 if name == "residual" else 8 * BODIES[name][1]
    assert count_parameters(model.graph) - count_parameters(smaller.graph) == size
    assert sum(c.params_before - c.params_after for c in changes) == size
    assert_equals_masking(net, model, smaller, proposal.edits)


def test_channels_over_which_a_norm_runs_stay() -> None:
    net = Net()
    y = conv(net, net.input("x", ["b", 3, 8, 8]), 3, 16)
    y = net.op("GroupNormalization", y, net.weight(1), net.weight(1), num_groups=1)
    net.output(conv(net, y, 16, 5))
    proposal = propose(RemoveChannels(keep=0.5, score="magnitude"), net.model(), probes_of(net))
    assert not proposal.edits
    why = "16 channels stay: GroupNormalization 'n1' normalises over it; made by c0"
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("graph", why)]


def stream(net: Net, x: str) -> str:
    """The inner convolutions make units of the stream, which is cut before."""
    y = conv(net, x, 3, 16)
    y = net.op("Add", y, conv(net, net.op("Relu", conv(net, y, 16, 24)), 24, 16))
    return conv(net, net.op("Relu", y), 16, 5)


def unbiased(net: Net, x: str) -> str:
    """A chain whose second convolution has no bias for what the first one's channels gave."""
    weight = net.constant(net.numbers.standard_normal((16, 16, 3, 3)).astype(np.float32))
    y = net.op("Conv", net.op("Relu", conv(net, x, 3, 16)), weight, pads=[1, 1, 1, 1])
    return conv(net, net.op("Relu", y), 16, 5)


def side_by_side(net: Net, x: str) -> str:
    """Two dimensions on one axis of the convolution that consumes them."""
    parts = [net.op("Relu", conv(net, x, 3, size)) for size in (16, 12)]
    return conv(net, net.op("Concat", *parts, axis=1), 28, 5)


@pytest.mark.parametrize("body", [plain, stream, unbiased, side_by_side])
def test_channels_are_refitted_though_others_on_the_same_weights_go(body: Callable[[Net, str], str]) -> None:
    """Every convolution's weight has two axes: what one cut has taken is taken from the refit of the other."""
    net = net_of(body)
    model = net.model()
    numbers = np.random.default_rng(1)
    samples = [{"x": numbers.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(6)]
    structure = read_structure(model, observe_shapes(model, probes_of(net)))
    context = Context(
        structure=structure, compare_inputs=lambda one, other, what: compare_inputs(one, other, what, samples)
    )
    wanted = open_session(model).run(samples[0])
    errors = []
    for refit in (True, False):
        one = RemoveChannels(keep=0.5, refit=refit)
        found = one.propose(model, find_sites(model, structure), context)
        cuts = [edit for edit in found.edits if edit.kind == "remove-units"]
        assert len(cuts) == sum(1 for site in find_sites(model, structure) if site.kind == "channels")
        result, _ = one.apply(model, found.edits)
        got = open_session(result).run(samples[0])
        errors.append(sum(float(np.square(got[name] - value).sum()) for name, value in wanted.items()))
    # Without a refit, half of the channels are missed much more.
    assert errors[0] < 0.7 * errors[1]
