"""Constants added to what linears give out: into the bias that is there, else into one of their own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from onnxprune.biases import add_bias
from onnxprune.errors import Declined
from onnxprune.model import Model
from onnxprune.runtime import open_session
from tests.building import Net

Array = np.ndarray[Any, Any]
D = 6


def checked(net: Net, added: dict[str, Array]) -> tuple[Counter[str], dict[str, str]]:
    """Add to each named output; assert that these, and only these, are shifted. Operators, and what was renamed."""
    model = net.model()
    copy = model.copy()
    renamed: dict[str, str] = {}
    for name, bias in added.items():
        renamed |= add_bias(copy.graph, [name], bias)
    feeds = net.checks()[0]
    wanted = open_session(shifted(model, added), level="none").run(feeds)
    got = open_session(copy, level="none").run(feeds)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
    return Counter(node.op for node in copy.graph.nodes), renamed


def shifted(model: Model, added: dict[str, Array]) -> Model:
    """The reference: an Add behind each node."""
    import onnx_graphsurgeon as gs

    copy = model.copy()
    for node in list(copy.graph.nodes):
        name = node.outputs[0].name
        if name in added:
            out = node.outputs[0]
            before = gs.Variable(f"{name}.before")
            rank = 1 if node.op != "Conv" else 3
            bias = gs.Constant(f"{name}.shift", added[name].reshape(-1, *[1] * (rank - 1)).astype(np.float32))
            node.outputs.clear()
            node.outputs.append(before)
            add = gs.Node("Add", inputs=[before, bias], outputs=[out])
            at = next(at for at, each in enumerate(copy.graph.nodes) if each is node)
            copy.graph.nodes.insert(at + 1, add)
    return copy


def some(size: int = D) -> Array:
    return np.arange(1.0, size + 1)


def test_the_add_behind_a_product_takes_it() -> None:
    net = Net()
    product = net.op("MatMul", net.input("x", ["b", D]), net.weight(D, D))
    net.output(net.op("Add", net.weight(D), product))
    assert checked(net, {product: some()}) == ({"MatMul": 1, "Add": 1}, {})


def test_a_bias_with_another_reader_is_left_alone() -> None:
    net = Net()
    bias = net.weight(D)
    product = net.op("MatMul", net.input("x", ["b", D]), net.weight(D, D))
    net.output(net.op("Add", product, bias))
    net.output(net.op("Neg", bias))
    ops, renamed = checked(net, {product: some()})
    assert ops["Add"] == 2
    assert list(renamed.values()) == [product]


def test_a_bias_of_one_number_does_not_grow() -> None:
    net = Net()
    product = net.op("MatMul", net.input("x", ["b", D]), net.weight(D, D))
    net.output(net.op("Add", product, net.weight(1)))
    assert checked(net, {product: some()})[0]["Add"] == 2


def test_a_product_that_others_read_too_gets_a_bias_before_all_of_them() -> None:
    net = Net()
    product = net.op("MatMul", net.input("x", ["b", D]), net.weight(D, D))
    net.output(net.op("Add", product, net.weight(D)))
    net.output(net.op("Neg", product))
    ops, renamed = checked(net, {product: some()})
    assert ops["Add"] == 2
    assert len(renamed) == 1


def test_an_output_of_the_graph_keeps_its_name() -> None:
    net = Net()
    product = net.op("MatMul", net.input("x", ["b", D]), net.weight(D, D))
    net.output(product)
    assert checked(net, {product: some()})[0] == {"MatMul": 1, "Add": 1}


@pytest.mark.parametrize(("bias", "adds"), [("none", 0), ("own", 0), ("shared", 1), ("scaled", 1)])
def test_a_gemm_takes_it_into_its_own_bias(bias: str, adds: int) -> None:
    net = Net()
    operands = [net.input("x", ["b", D]), net.weight(D, D)] + ([] if bias == "none" else [net.weight(D)])
    product = net.op("Gemm", *operands, beta=2.0 if bias == "scaled" else 1.0)
    net.output(product)
    if bias == "shared":
        net.output(net.op("Neg", operands[2]))
    assert checked(net, {product: some()})[0]["Add"] == adds


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_takes_it_on_its_channels(bias: bool) -> None:
    net = Net()
    operands = [net.input("x", ["b", 3, 5, 5]), net.weight(D, 3, 3, 3)] + ([net.weight(D)] if bias else [])
    out = net.op("Conv", *operands)
    net.output(out)
    assert checked(net, {out: some()})[0] == {"Conv": 1}


def test_a_fused_sum_takes_it_into_the_bias_of_its_summand() -> None:
    net = Net()
    x = net.input("x", ["b", "s", D])
    product = net.op("MatMul", x, net.weight(D, D))
    net.output(
        net.op("SkipLayerNormalization", product, x, net.weight(D), net.weight(D), net.weight(D),
               domain="com.microsoft")
    )  # fmt: skip
    assert checked(net, {product: some()})[0] == {"MatMul": 1, "SkipLayerNormalization": 1}


def test_readers_of_one_weight_share_what_they_gain() -> None:
    """Two products with one bias between them: it is changed once. Two without: they get one constant."""
    for biased in (True, False):
        net = Net()
        weight, bias = net.weight(D, D), net.weight(D)
        x = net.input("x", ["b", D])
        names = []
        for _ in range(2):
            names.append(net.op("MatMul", x, weight))
            x = net.op("Relu", net.op("Add", names[-1], bias) if biased else names[-1])
        net.output(x)
        model = net.model()
        copy = model.copy()
        add_bias(copy.graph, names, some())
        wanted = open_session(shifted(model, dict.fromkeys(names, some()))).run(net.checks()[0])
        got = open_session(copy).run(net.checks()[0])
        np.testing.assert_allclose(got[x], wanted[x], rtol=1e-5)
        constants = {t.name for node in copy.graph.nodes for t in node.inputs if hasattr(t, "values")}
        assert len(constants) == 2


def test_a_bias_that_a_caller_may_replace_is_left_alone() -> None:
    net = Net()
    bias = net.weight(D)
    product = net.op("MatMul", net.input("x", ["b", D]), net.weight(D, D))
    net.output(net.op("Add", product, bias))
    copy = net.model().copy()
    assert add_bias(copy.graph, [product], some(), overridable=frozenset({bias}))
    assert Counter(node.op for node in copy.graph.nodes)["Add"] == 2


def test_a_node_that_is_not_there_is_declined() -> None:
    net = Net()
    net.output(net.op("Relu", net.input("x", ["b", D])))
    with pytest.raises(Declined, match=r"^the model has no tensor 'nothing'$"):
        add_bias(net.model().graph, ["nothing"], some())
