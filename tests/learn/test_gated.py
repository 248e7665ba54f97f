"""Gates at a model's weights: they act as masks on units do, and fold into the weights without a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from onnxprune.dimensions.masking import mask
from onnxprune.errors import Declined
from onnxprune.graph import constants
from onnxprune.learn.gated import Gated, Gates, gated_units, show
from onnxprune.learn.gates import FLOP, VOITA
from onnxprune.learn.module import OnnxModule, write_back
from onnxprune.model import Model
from onnxprune.removal import dimension_of
from onnxprune.runtime import observe_shapes, open_session
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Structure, read_structure
from onnxprune.synthetic import probes
from tests import graphs
from tests.graphs import node
from tests.learn.test_module import model_of

Array = np.ndarray[Any, Any]
HEADS = 4


def subject(proto: onnx.ModelProto) -> tuple[Model, Structure, list[Site]]:
    model = model_of(proto)
    structure = read_structure(model, observe_shapes(model, probes(model, open_session(model))))
    sites = find_sites(model, structure)
    return model, structure, [site for site in sites if site.kind == "heads"]


def places_of(proto: onnx.ModelProto) -> tuple[Model, Structure, list[Gated]]:
    model, structure, sites = subject(proto)
    return model, structure, [gated_units(model, site, dimension_of(site, structure)) for site in sites]


def feed() -> dict[str, Array]:
    return {"x": np.random.default_rng(5).standard_normal((2, 5, graphs.WIDTH)).astype(np.float32)}


def gates_of(places: list[Gated]) -> Gates:
    return Gates(places, VOITA, start=0.0, spread=0.01, seed=0)


def gated(model: Model, places: list[Gated], values: list[Array]) -> tuple[OnnxModule, Model]:
    module = OnnxModule(model)
    show(module, places, values)
    return module, write_back(model, module)


def transposed() -> onnx.ModelProto:
    """Attention whose output weight is stored transposed behind a Transpose, as some exporters leave it."""
    proto = graphs.attention()
    for tensor in proto.graph.initializer:
        if tensor.name == "w_o":
            turned = numpy_helper.to_array(tensor).T.copy()
            tensor.CopyFrom(numpy_helper.from_array(turned, "w_o"))
    for one in proto.graph.node:
        for at, name in enumerate(one.input):
            if name == "w_o":
                one.input[at] = "w_o_turned"
    proto.graph.node.insert(0, node("Transpose", ["w_o"], ["w_o_turned"], perm=[1, 0]))
    return proto


@pytest.mark.parametrize("maker", [graphs.attention, transposed, lambda: graphs.layers(2)])
def test_a_written_model_computes_what_the_gated_one_does(maker: Any) -> None:
    model, _, places = places_of(maker())
    generator = np.random.default_rng(0)
    module, folded = gated(model, places, [generator.uniform(size=place.units) for place in places])
    with torch.no_grad():
        mine = module(feed())["y"].numpy()
    got, plain = (open_session(one).run(feed())["y"] for one in (folded, model))
    assert np.abs(mine - got).max() <= 1e-5 * np.abs(got).max()
    assert np.abs(plain - got).max() > 1e-2 * np.abs(got).max()


def test_a_closed_gate_is_a_mask_on_its_head() -> None:
    model, structure, places = places_of(graphs.layers(2))
    values = [np.ones(place.units) for place in places]
    values[1][2] = 0.0
    _, closed = gated(model, places, values)
    masked = model.copy()
    site = next(site for site in find_sites(model, structure) if site.id == places[1].name)
    mask(masked.graph, structure.dimensions, {dimension_of(site, structure).index: [2]})
    got, wanted = (open_session(one).run(feed())["y"] for one in (closed, masked))
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    held = {constant.name: constant.values for constant in constants(closed.graph)}
    ((name, (axis, elements)),) = places[1].stored.items()
    assert not np.take(held[name], elements[2], axis=axis).any()


def test_gates_that_are_all_open_change_nothing() -> None:
    model, _, places = places_of(graphs.attention())
    _, same = gated(model, places, [np.ones(place.units) for place in places])
    for before, after in zip(constants(model.graph), constants(same.graph), strict=True):
        assert np.array_equal(before.values, after.values)


def test_the_expected_cost_counts_every_number_of_a_unit() -> None:
    _, _, places = places_of(graphs.attention())
    gates = gates_of(places)
    with torch.no_grad():
        gates.logits[0].copy_(torch.tensor([-20.0, 20.0, 20.0, -20.0]))
    # Two of four heads stay, each with 64x16 numbers of q, k, v and o and 16 of three biases: 2 * (4 * 1024 + 48).
    assert gates.expected_cost().item() == pytest.approx(2 * (4 * 1024 + 48), rel=1e-4)
    assert places[0].units == HEADS


def test_a_step_draws_the_same_gates_again() -> None:
    _, _, places = places_of(graphs.attention())
    gates = gates_of(places)
    torch.manual_seed(7)
    (first,) = gates.drawn()
    torch.manual_seed(7)
    (same,), (other,) = gates.drawn(), gates.drawn()
    assert callable(first)
    assert callable(same)
    assert callable(other)
    assert torch.equal(first(), same())
    assert not torch.equal(first(), other())


def test_gradients_of_several_runs_of_a_step_add_up() -> None:
    model, _, places = places_of(graphs.attention())
    # At FLOP's temperature most gates stand between.
    gates, module = Gates(places, FLOP, start=0.0, spread=0.01, seed=0), OnnxModule(model)
    found: list[torch.Tensor | None] = []
    for runs in (1, 2):
        torch.manual_seed(3)
        show(module, places, gates.drawn())
        gates.logits[0].grad = None
        for _ in range(runs):
            module(feed())["y"].square().sum().backward()
        found.append(gates.logits[0].grad)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].abs().sum().item() > 0
    torch.testing.assert_close(found[1], 2 * found[0])


def test_a_weight_that_something_else_reads_is_not_gated() -> None:
    proto = graphs.attention()
    proto.graph.node.append(node("Abs", ["w_o"], ["z"]))
    proto.graph.output.append(graphs.info("z", (graphs.WIDTH, graphs.WIDTH)))
    model, structure, sites = subject(proto)
    with pytest.raises(Declined, match=r"^weight 'w_o' is read by 'z', too$"):
        gated_units(model, sites[0], dimension_of(sites[0], structure))
