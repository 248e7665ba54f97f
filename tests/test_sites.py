"""Sites: what is one, what it is called, and that its name survives whatever else is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from onnxprune.graph import constants
from onnxprune.model import Model, load, save
from onnxprune.passes import RemoveHeads, RemoveNeurons
from onnxprune.protocol import Context
from onnxprune.removal import Removal
from onnxprune.runtime import observe_shapes
from onnxprune.sites import REGISTRY, Site, entries, find_sites, registered, with_registered
from onnxprune.structure import read_structure
from tests import graphs
from tests.building import PROBES, Net

WIDTH, HEADS, SIZE = 24, 4, 6


def sites_of(net: Net, model: Model | None = None) -> tuple[Site, ...]:
    held = net.model() if model is None else model
    return find_sites(held, read_structure(held, observe_shapes(held, [net.feeds(sizes) for sizes in PROBES])))


def cut(one: Removal, net: Net, model: Model) -> Model:
    structure = read_structure(model, observe_shapes(model, [net.feeds(sizes) for sizes in PROBES]))
    edits = one.propose(model, find_sites(model, structure), Context(structure=structure)).edits
    return one.apply(model, edits)[0]


def heads(net: Net, x: str, groups: int = HEADS, *, packed: bool = False) -> str:
    """Attention; with fewer groups than heads each key serves several queries."""
    sizes = [HEADS * SIZE, groups * SIZE, groups * SIZE]
    if packed:
        parts = net.op("Split", net.linear(x, WIDTH, sum(sizes)), net.constant(np.array(sizes)), outputs=3, axis=-1)
    else:
        parts = [net.linear(x, WIDTH, size) for size in sizes]
    q, k, v = (
        net.op("Transpose", net.reshape(part, 0, 0, size // SIZE, SIZE), perm=[0, 2, 1, 3])
        for part, size in zip(parts, sizes, strict=True)
    )
    if groups < HEADS:
        order = net.constant(np.repeat(np.arange(groups), HEADS // groups))
        k, v = (net.op("Gather", each, order, axis=1) for each in (k, v))
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    context = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return net.linear(net.reshape(context, 0, 0, HEADS * SIZE), HEADS * SIZE, WIDTH)


def neurons(net: Net, x: str) -> str:
    return net.linear(net.op("Relu", net.linear(x, WIDTH, 32)), 32, WIDTH)


def two_layers() -> Net:
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    for _ in range(2):
        x = net.op("Add", x, heads(net, x))
        x = net.op("Add", x, neurons(net, x))
    net.output(x)
    return net


def test_ids_count_each_kind_in_data_order() -> None:
    ids = [site.id for site in sites_of(two_layers())]
    linears = [f"linear.{number}" for number in range(12)]
    blocks = [f"block.{number}" for number in range(4)]
    assert ids == ["graph", *linears, "heads.0", "neurons.0", "heads.1", "neurons.1", *blocks]


@pytest.mark.parametrize("packed", [False, True])
def test_groups_of_heads_and_the_queries_in_each_are_sites_of_their_own(packed: bool) -> None:
    """And what one of them is cut to does not rename the other."""
    net = Net()
    net.output(heads(net, net.input("x", ["b", "s", WIDTH]), 2, packed=packed))
    model = net.model()
    found = {site.id: site for site in sites_of(net, model) if site.kind == "heads"}
    assert [site.units for site in found.values()] == [2, 2]
    assert len({site.anchor for site in found.values()}) == 2
    for name in found:
        smaller = cut(RemoveHeads(units=(f"{name}/0",)), net, model)
        (other,) = set(found) - {name}
        left = {site.id: site for site in sites_of(net, smaller) if site.kind == "heads"}
        assert left[other].anchor == found[other].anchor
        assert left.keys() == {other}


def test_a_cut_site_keeps_its_id_and_remembers_its_size(tmp_path: Any) -> None:
    net = two_layers()
    model = net.model()
    smaller = cut(RemoveNeurons(units=("neurons.1/0/1/2",)), net, model)
    save(smaller, tmp_path / "cut.onnx")
    before = {site.id: site for site in sites_of(net, model)}
    after = {site.id: site for site in sites_of(net, load(tmp_path / "cut.onnx"))}
    assert before.keys() == after.keys()
    assert (after["neurons.1"].units, after["neurons.1"].original_units) == (29, 32)
    assert (after["neurons.0"].units, after["neurons.0"].original_units) == (32, 32)
    # 24 weights in, a bias, 24 out.
    assert (after["neurons.1"].params, after["neurons.1"].unit_size) == (29 * 49, 49)


def test_a_cut_site_keeps_its_id_when_passes_write_its_weights_anew() -> None:
    net = two_layers()
    model = cut(RemoveHeads(keep=2, score="magnitude", refit=False), net, net.model())
    renamed = model.copy()
    for tensor in constants(renamed.graph):
        tensor.name = f"{tensor.name}.int8"
    before = [(site.id, site.units, site.original_units) for site in sites_of(net, model) if site.kind == "heads"]
    after = [(site.id, site.units, site.original_units) for site in sites_of(net, renamed) if site.kind == "heads"]
    assert after == before == [("heads.0", 2, HEADS), ("heads.1", 2, HEADS)]


def test_widths_and_axes_of_the_interface_are_no_sites_but_pinned_heads_are() -> None:
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    hidden = net.op("Relu", net.linear(x, WIDTH, 32))
    net.output(hidden)
    net.output(net.linear(hidden, 32, WIDTH))
    assert not [site for site in sites_of(net) if site.dimension is not None]
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    y = heads(net, x)
    net.output(y)
    net.output(next(name for node in net.nodes if node.op_type == "Softmax" for name in node.output))
    (site,) = [site for site in sites_of(net) if site.dimension is not None]
    assert (site.id, site.units) == ("heads.0", HEADS)
    assert site.pinned.startswith("it is an axis of graph output")


def test_a_weight_with_several_readers_is_one_site() -> None:
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    names = [net.weight(WIDTH, 32), net.weight(32, WIDTH)]
    for _ in range(3):
        x = net.op("MatMul", net.op("Relu", net.op("MatMul", x, names[0])), names[1])
    net.output(x)
    shared = {site.id: site.shared_by for site in sites_of(net)}
    assert shared == {"graph": 0, "linear.0": 3, "linear.1": 3, "neurons.0": 3}


def test_without_shapes_there_are_weights_alone() -> None:
    kinds = {site.kind for site in find_sites(two_layers().model())}
    assert kinds == {"graph", "linear"}


def test_all_kinds_are_written_down_and_found_again() -> None:
    net = two_layers()
    model = net.model()
    sites = sites_of(net, model)
    noted = with_registered(model, entries(sites))
    assert registered(noted).keys() == {site.id for site in sites if site.id != "graph"}
    assert [site.id for site in sites_of(net, noted)] == [site.id for site in sites]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"heads.0": 1}', '{"heads.0": {"anchor": 1, "units": 2}}', '{"heads.0": {"units": 2}}'],
)
def test_a_registry_that_is_not_ours_is_none(text: str) -> None:
    model = graphs_model(graphs.feed_forward).with_metadata(**{REGISTRY: text})
    assert registered(model) == {}


def test_a_registry_of_another_model_takes_no_ids_but_its_own() -> None:
    """Numbers that it holds are not given out again; nothing is found by its anchors."""
    held = {"neurons.0": {"anchor": "no > such", "units": 7}}
    net = two_layers()
    model = net.model().with_metadata(**{REGISTRY: json.dumps(held)})
    assert [site.id for site in sites_of(net, model) if site.kind == "neurons"] == ["neurons.1", "neurons.2"]


def graphs_model(make: Callable[[], Any]) -> Model:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return load(graphs.saved(make(), Path(folder)))


def test_what_a_lone_head_is_made_of_takes_no_other_sites_number() -> None:
    net = two_layers()
    model = net.model()
    smaller = cut(RemoveHeads(levels=("heads.0/1",), score="magnitude"), net, model)
    before = {site.id: site.anchor for site in sites_of(net, model) if site.kind == "neurons"}
    after = {site.id: site.anchor for site in sites_of(net, smaller) if site.kind == "neurons"}
    # The width of the head that is left can be cut as neurons are: a site more, after the two that were there.
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"neurons.2"}
