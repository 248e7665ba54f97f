"""Neurons in every arrangement: plain, gated, gated in one matrix, shared by layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxprune.cut import count_parameters
from onnxprune.passes import RemoveNeurons
from tests.building import Net
from tests.test_removal import assert_equals_masking, probes_of, propose

WIDTH, HIDDEN = 24, 32


def plain(net: Net, x: str) -> str:
    return net.linear(net.op("Gelu", net.linear(x, WIDTH, HIDDEN)), HIDDEN, WIDTH)


def gated(net: Net, x: str) -> str:
    gate, up = (net.op("MatMul", x, net.weight(WIDTH, HIDDEN)) for _ in range(2))
    h = net.op("Mul", net.op("Mul", gate, net.op("Sigmoid", gate)), up)
    return str(net.op("MatMul", h, net.weight(HIDDEN, WIDTH)))


def packed(net: Net, x: str) -> str:
    both = net.op("MatMul", x, net.weight(WIDTH, 2 * HIDDEN))
    gate, up = net.op("Split", both, net.constant(np.array([HIDDEN, HIDDEN])), outputs=2, axis=-1)
    return str(net.op("MatMul", net.op("Mul", net.op("Gelu", gate), up), net.weight(HIDDEN, WIDTH)))


def shared(net: Net, x: str) -> str:
    weights = [net.weight(WIDTH, HIDDEN), net.weight(HIDDEN), net.weight(HIDDEN, WIDTH)]
    for _ in range(3):
        x = net.op("MatMul", net.op("Relu", net.op("Add", net.op("MatMul", x, weights[0]), weights[1])), weights[2])
    return x


def normalised(net: Net, x: str) -> str:
    """A norm over the hidden units themselves: none can go without moving the others."""
    h = net.op("LayerNormalization", net.linear(x, WIDTH, HIDDEN), net.weight(HIDDEN), net.weight(HIDDEN))
    return net.linear(h, HIDDEN, WIDTH)


# Numbers that go with a neuron.
BODIES: dict[str, tuple[Callable[[Net, str], str], int]] = {
    "plain": (plain, WIDTH + 1 + WIDTH),
    "gated": (gated, 3 * WIDTH),
    "packed": (packed, 3 * WIDTH),
    "shared": (shared, WIDTH + 1 + WIDTH),
}


def net_of(body: Callable[[Net, str], str]) -> Net:
    net = Net(opset=20)
    net.output(body(net, net.input("x", ["b", "s", WIDTH])))
    return net


@pytest.mark.parametrize("name", BODIES)
def test_a_quarter_of_the_neurons_goes_exactly(name: str) -> None:
    body, size = BODIES[name]
    net = net_of(body)
    model, probes = net.model(), probes_of(net)
    one = RemoveNeurons(keep=0.75, score="magnitude")
    proposal = propose(one, model, probes)
    _, cut = proposal.edits
    smaller, changes = one.apply(model, proposal.edits)
    assert (cut.site, len(cut.args["units"])) == ("neurons.0", HIDDEN // 4)
    assert sum(c.params_before - c.params_after for c in changes) == size * HIDDEN // 4
    assert count_parameters(model.graph) - count_parameters(smaller.graph) == size * HIDDEN // 4
    assert_equals_masking(net, model, smaller, proposal.edits)


def test_neurons_behind_a_norm_of_their_own_stay() -> None:
    net = net_of(normalised)
    proposal = propose(RemoveNeurons(keep=0.5, score="magnitude"), net.model(), probes_of(net))
    assert not proposal.edits
    why = "32 neurons stay: LayerNormalization 'n2' normalises over it; made by c0"
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("graph", why)]
