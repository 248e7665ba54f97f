"""Channels through norms, depthwise convolutions, residuals, concatenations and into a dense head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxprune.cut import count_parameters
from onnxprune.passes import RemoveChannels
from onnxprune.runtime import open_session
from tests.building import Net
from tests.equality import BOUND, Traced, masked, relative_error
from tests.test_removal import look, probes_of, propose


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
    structure, sites = look(model, probes)
    site = next(site for site in sites if site.id == "channels.0")
    assert site.dimension is not None
    reference = masked(Traced(model, dict(structure.shapes), structure.dimensions), {site.dimension: cut.args["units"]})
    for level in ("none", "default"):
        for feeds in net.checks():
            got, wanted = (open_session(each, level=level).run(feeds) for each in (smaller, reference))
            assert relative_error(got, wanted) <= BOUND


def test_channels_over_which_a_norm_runs_stay() -> None:
    net = Net()
    y = conv(net, net.input("x", ["b", 3, 8, 8]), 3, 16)
    y = net.op("GroupNormalization", y, net.weight(1), net.weight(1), num_groups=1)
    net.output(conv(net, y, 16, 5))
    proposal = propose(RemoveChannels(keep=0.5, score="magnitude"), net.model(), probes_of(net))
    assert not proposal.edits
    why = "16 channels stay: GroupNormalization 'n1' normalises over it; made by c0"
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("graph", why)]
