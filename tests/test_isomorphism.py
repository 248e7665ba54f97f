"""Which layers are alike, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.blocks import Block, find_blocks
from onnxprune.isomorphism import Layer, anatomy, final_hidden, find_layers, group_blocks
from onnxprune.model import Model, load
from onnxprune.runtime import observe_shapes
from tests import graphs
from tests.test_blocks import net_of, parallel, post_norm, pre_norm, probes_of


def layers_of(proto: onnx.ModelProto, folder: Path) -> tuple[Model, tuple[Layer, ...]]:
    path = graphs.saved(proto, folder)
    model = load(path)
    probes = [graphs.feeds_for(path, batch=2, other=5), graphs.feeds_for(path, batch=3, other=7)]
    return model, find_layers(find_blocks(model.graph, observe_shapes(model, probes)), model.graph)


def keys(proto: onnx.ModelProto, folder: Path) -> list[object]:
    model, layers = layers_of(proto, folder)
    return [anatomy(model.graph, layer).key for layer in layers]


@pytest.mark.parametrize("after", [False, True], ids=["norms before", "norms after"])
def test_layers_that_differ_in_weights_alone_are_alike(after: bool, tmp_path: Path) -> None:
    found = keys(graphs.layers(3, normalised_after=after), tmp_path)
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_a_layer_reaches_from_what_it_reads_to_what_the_next_one_reads(tmp_path: Path) -> None:
    """Norms behind a sum belong to its layer, that of the last layer too; the norm before the head is none."""
    _, before = layers_of(graphs.layers(2), tmp_path)
    assert [(layer.start, layer.end) for layer in before] == [("x", "0.feed.sum"), ("0.feed.sum", "1.feed.sum")]
    _, after = layers_of(graphs.layers(2, normalised_after=True), tmp_path)
    assert [(layer.start, layer.end) for layer in after] == [("x", "0.feed.norm"), ("0.feed.norm", "1.feed.norm")]


@pytest.mark.parametrize(("after", "hidden"), [(False, "last"), (True, "1.feed.norm")])
def test_the_final_hidden_state_is_what_the_head_reads(after: bool, hidden: str, tmp_path: Path) -> None:
    path = graphs.saved(graphs.layers(2, normalised_after=after), tmp_path)
    model = load(path)
    shapes = observe_shapes(model, [graphs.feeds_for(path)])
    found = find_layers(find_blocks(model.graph, shapes), model.graph)
    assert final_hidden(model.graph, found[-1], shapes) == hidden


def test_weights_and_biases_of_products_are_matrices_and_gains_of_norms_are_not(tmp_path: Path) -> None:
    model, layers = layers_of(graphs.layers(2), tmp_path)
    first, second = (anatomy(model.graph, layer) for layer in layers)
    assert {one.name for one in first.held if not one.matrix} == {"0.attention.norm.gain", "0.feed.norm.gain"}
    # q, k, v, o, up and down, each with a bias.
    assert sum(one.matrix for one in first.held) == 12
    assert [one.name.replace("0.", "1.", 1) for one in first.held] == [one.name for one in second.held]


def replaced(proto: onnx.ModelProto, name: str, change: Callable[[graphs.Array], graphs.Array]) -> onnx.ModelProto:
    for at, tensor in enumerate(proto.graph.initializer):
        if tensor.name == name:
            proto.graph.initializer[at].CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return proto


def narrower() -> onnx.ModelProto:
    """The second layer has 80 neurons where the others have 96."""
    proto = graphs.layers(3)
    for name, axis in (("1.feed.up.weight", 1), ("1.feed.up.bias", 0), ("1.feed.down.weight", 0)):
        proto = replaced(proto, name, lambda values, axis=axis: np.take(values, range(80), axis=axis))  # type: ignore[misc]
    return proto


def another_activation() -> onnx.ModelProto:
    proto = graphs.layers(3)
    next(node for node in proto.graph.node if node.output[0] == "1.feed.r").op_type = "Tanh"
    return proto


def another_scale() -> onnx.ModelProto:
    """A scalar is part of what a layer does: here the size of the scores."""
    proto = graphs.layers(3)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "other"))
    next(node for node in proto.graph.node if node.output[0] == "1.attention.scaled").input[1] = "other"
    return proto


def another_axis() -> onnx.ModelProto:
    proto = graphs.layers(3)
    softmax = next(node for node in proto.graph.node if node.output[0] == "1.attention.p")
    softmax.attribute[0].i = -2
    return proto


@pytest.mark.parametrize("make", [narrower, another_activation, another_scale, another_axis])
def test_layers_that_differ_in_more_are_not_alike(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    first, second, third = keys(make(), tmp_path)
    assert first == third
    assert first != second


def test_the_order_of_nodes_in_the_file_does_not_matter(tmp_path: Path) -> None:
    """The three projections of the second layer stand in another order."""
    proto = graphs.layers(2)
    nodes = list(proto.graph.node)
    names = ["1.attention.q.product", "1.attention.q", "1.attention.qs", "1.attention.qt"]
    moved = [node for node in nodes if node.output[0] in names]
    rest = [node for node in nodes if node.output[0] not in names]
    at = next(at for at, node in enumerate(rest) if node.output[0] == "1.attention.qk")
    del proto.graph.node[:]
    proto.graph.node.extend([*rest[:at], *moved, *rest[at:]])
    first, second = keys(proto, tmp_path)
    assert first == second


def roles(body: Callable[..., str]) -> list[list[str]]:
    net = net_of(body)
    model = net.model()
    blocks: tuple[Block, ...] = find_blocks(model.graph, observe_shapes(model, probes_of(net)))
    return [[block.role for block in group] for group in group_blocks(blocks, model.graph)]


def test_attention_and_the_feed_forward_after_it_are_a_layer() -> None:
    assert roles(pre_norm) == [["attention", "feed-forward"]] * 2
    assert roles(post_norm) == [["attention", "feed-forward"]] * 2


def test_attention_and_feed_forward_side_by_side_are_a_layer() -> None:
    assert roles(parallel) == [["attention"]] * 2
