"""Options of the passes that cut units, one after another, and their messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from onnxprune.cut import count_parameters
from onnxprune.errors import OptionError
from onnxprune.model import Model, load, save, to_bytes
from onnxprune.passes import RemoveBlocks, RemoveChannels, RemoveHeads, RemoveNeurons
from onnxprune.plan import Edit
from onnxprune.protocol import Context, Proposal
from onnxprune.removal import Removal
from onnxprune.runtime import Feeds, Level, observe_shapes, open_session
from onnxprune.sites import Site, find_sites
from onnxprune.structure import Structure, read_structure
from tests.building import PROBES, Net
from tests.equality import BOUND, Traced, masked, relative_error

WIDTH = 24


def feed_forwards(*hidden: int) -> Net:
    """One feed-forward with a residual for each hidden size; later ones have larger weights."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    for number, size in enumerate(hidden):
        down = net.constant(net.numbers.standard_normal((size, WIDTH)).astype(np.float32) * (number + 1))
        x = net.op("Add", net.op("MatMul", net.op("Relu", net.linear(x, WIDTH, size)), down), x)
    net.output(x)
    return net


def probes_of(net: Net) -> list[Feeds]:
    return [net.feeds(sizes) for sizes in PROBES]


def look(model: Model, probes: Sequence[Feeds]) -> tuple[Structure, tuple[Site, ...]]:
    structure = read_structure(model, observe_shapes(model, probes))
    return structure, find_sites(model, structure)


def propose(one: Removal | RemoveBlocks, model: Model, probes: Sequence[Feeds], seed: int = 0) -> Proposal:
    structure, sites = look(model, probes)
    return one.propose(model, sites, Context(structure=structure, seed=seed))


def run(one: Removal, model: Model, probes: Sequence[Feeds], seed: int = 0) -> tuple[Model, dict[str, list[int]]]:
    """The cut model and the units that went, by site."""
    edits = propose(one, model, probes, seed).edits
    return one.apply(model, edits)[0], {e.site: e.args["units"] for e in edits if e.kind == "remove-units"}


def neurons(**options: Any) -> RemoveNeurons:
    return RemoveNeurons(**({"score": "magnitude"} | options))


def left(model: Model, probes: Sequence[Feeds]) -> dict[str, int]:
    return {site.id: site.units for site in look(model, probes)[1] if site.dimension is not None}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        # 10 and 33 units: 5.0 and 16.5, rounded up.
        ({"keep": 0.5}, {"neurons.0": 5, "neurons.1": 17}),
        # 0.25 · 10 = 2.5 -> 3, 0.25 · 33 = 8.25 -> 8
        ({"keep": 0.25}, {"neurons.0": 3, "neurons.1": 8}),
        ({"keep": 12}, {"neurons.0": 10, "neurons.1": 12}),
        # At least one unit stays.
        ({"keep": 0.001}, {"neurons.0": 1, "neurons.1": 1}),
        # 5 -> 8 and 17 -> 24.
        ({"keep": 0.5, "multiple": 8}, {"neurons.0": 8, "neurons.1": 24}),
        # A multiple never adds units.
        ({"keep": 0.5, "multiple": 64}, {"neurons.0": 10, "neurons.1": 33}),
        ({"keep": 0.5, "sites": ("neurons.1",)}, {"neurons.0": 10, "neurons.1": 17}),
        ({"units": ("neurons.0/0/9", "neurons.1/4")}, {"neurons.0": 8, "neurons.1": 32}),
        ({"units": ("neurons.0/0", "neurons.0/9")}, {"neurons.0": 8, "neurons.1": 33}),
        ({"keep": 1.0}, {"neurons.0": 10, "neurons.1": 33}),
    ],
)
def test_what_stays(options: dict[str, Any], kept: dict[str, int]) -> None:
    net = feed_forwards(10, 33)
    probes = probes_of(net)
    one = neurons(**options)
    smaller, _ = run(one, net.model(), probes)
    # A single unit is an axis of size one: there is nothing left to choose, so that it is no site.
    assert left(smaller, probes) == {name: count for name, count in kept.items() if count > 1}
    again, gone = run(one, smaller, probes) if "units" not in options else (smaller, {})
    assert not gone
    assert to_bytes(again) == to_bytes(smaller)


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_a_global_share_takes_the_least_wherever_they_are(multiple: int) -> None:
    """Half of 32 + 32 in all, in sites of very different spread; and a second run finds nothing more to take."""
    net = Net()
    x = net.input("x", ["b", "s", WIDTH])
    for spread in (0.1, 0.7):
        down = net.numbers.standard_normal((32, WIDTH)).astype(np.float32)
        down *= np.exp(spread * net.numbers.standard_normal((32, 1))).astype(np.float32)
        x = net.op("Add", net.op("MatMul", net.op("Relu", net.linear(x, WIDTH, 32)), net.constant(down)), x)
    net.output(x)
    probes = probes_of(net)
    one = neurons(keep=0.5, scope="global", multiple=multiple)
    smaller, _ = run(one, net.model(), probes)
    kept = left(smaller, probes)
    assert sum(kept.values()) == 32
    assert kept["neurons.1"] < kept["neurons.0"]
    assert all(count % multiple == 0 for count in kept.values())
    assert not run(one, smaller, probes)[1]


def test_a_share_is_one_of_the_original_units_though_the_file_was_cut_before(tmp_path: Any) -> None:
    net = feed_forwards(40)
    probes = probes_of(net)
    half, _ = run(neurons(keep=0.5), net.model(), probes)
    path = tmp_path / "half.onnx"
    save(half, path)
    again = load(path)
    assert not run(neurons(keep=0.5), again, probes)[1]
    assert not run(neurons(keep=0.75), again, probes)[1]
    # A quarter of the original 40, not of the 20 that are left.
    quarter, _ = run(neurons(keep=0.25), again, probes)
    assert left(quarter, probes) == {"neurons.0": 10}


def test_the_weakest_units_go_first() -> None:
    net = feed_forwards(16)
    up = next(tensor for tensor in net.initializers if list(tensor.dims) == [WIDTH, 16])
    values = np.frombuffer(up.raw_data, np.float32).reshape(WIDTH, 16).copy()
    values[:, [2, 11]] *= 0.01
    up.raw_data = values.tobytes()
    down = next(tensor for tensor in net.initializers if list(tensor.dims) == [16, WIDTH])
    values = np.frombuffer(down.raw_data, np.float32).reshape(16, WIDTH).copy()
    values[[2, 11]] *= 0.01
    down.raw_data = values.tobytes()
    assert run(neurons(keep=14), net.model(), probes_of(net))[1] == {"neurons.0": [2, 11]}


def test_random_units_follow_the_seed_and_the_site() -> None:
    net = feed_forwards(32, 32)
    model, probes = net.model(), probes_of(net)
    chosen = [run(neurons(keep=0.5, score="random"), model, probes, seed)[1] for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0]["neurons.0"] != chosen[0]["neurons.1"]


def test_every_site_is_cut_or_listed() -> None:
    """One whose width is given out, one that the options leave out, one that is small enough already."""
    net = feed_forwards(8, 40, 40)
    x = net.inputs[0][0]
    wide = net.weight(WIDTH, 12)
    given = net.op("Relu", net.op("MatMul", x, wide))
    net.output(net.linear(given, 12, WIDTH))
    net.output(given)
    proposal = propose(neurons(keep=10, sites=("neurons.0", "neurons.1")), net.model(), probes_of(net))
    assert [edit.site for edit in proposal.edits] == ["graph", "neurons.1"]
    assert {skip.site: skip.why for skip in proposal.skips} == {
        "neurons.2": "not among option sites",
        "neurons.0": "all 8 units stay",
        "graph": f"12 neurons stay: it is an axis of graph output {given!r}; made by {wide}",
    }


@pytest.mark.parametrize(("one", "name"), [(RemoveHeads, "heads"), (RemoveChannels, "channels")])
def test_a_model_without_such_units_says_so(one: type[Removal], name: str) -> None:
    net = feed_forwards(16)
    proposal = propose(one(keep=0.5, score="magnitude"), net.model(), probes_of(net))
    assert not proposal.edits
    assert [(skip.site, skip.why) for skip in proposal.skips] == [("graph", f"no {name} were found")]


def test_reported_parameters_are_those_that_went() -> None:
    net = feed_forwards(20, 30)
    model, probes = net.model(), probes_of(net)
    one = neurons(units=("neurons.0/1/2/3", "neurons.1/7"))
    smaller, changes = one.apply(model, propose(one, model, probes).edits)
    # A neuron has 24 weights in, a bias and 24 weights out.
    assert [c.params_before - c.params_after for c in changes] == [3 * 49, 49]
    assert [c.bytes_before - c.bytes_after for c in changes] == [3 * 49 * 4, 49 * 4]
    assert count_parameters(model.graph) - count_parameters(smaller.graph) == 4 * 49
    assert [c.what for c in changes] == ["3 of 20 neurons removed: 1-3", "1 of 30 neurons removed: 7"]


def assert_equals_masking(net: Net, model: Model, smaller: Model, edits: Sequence[Edit]) -> None:
    """What was cut gives what the original gives with those units zeroed, at other shapes and both levels."""
    structure, sites = look(model, probes_of(net))
    places = {site.id: site.dimension for site in sites if site.dimension is not None}
    removals = {places[edit.site]: edit.args["units"] for edit in edits if edit.kind == "remove-units"}
    reference = masked(Traced(model, dict(structure.shapes), structure.dimensions), removals)
    levels: tuple[Level, ...] = ("none", "default")
    for level in levels:
        for feeds in net.checks():
            got, wanted = (open_session(each, level=level).run(feeds) for each in (smaller, reference))
            assert relative_error(got, wanted) <= BOUND


def test_the_cut_equals_the_masked_original() -> None:
    net = feed_forwards(20, 30)
    model, probes = net.model(), probes_of(net)
    one = neurons(keep=0.4)
    edits = propose(one, model, probes).edits
    assert_equals_masking(net, model, one.apply(model, edits)[0], edits)


def test_edits_applied_again_give_the_same_bytes() -> None:
    """Whatever the options of the pass that applies them."""
    net = feed_forwards(20)
    model, probes = net.model(), probes_of(net)
    edits = propose(neurons(keep=0.5), model, probes).edits
    assert to_bytes(neurons(keep=0.5).apply(model, edits)[0]) == to_bytes(RemoveNeurons().apply(model, edits)[0])


def test_edits_that_are_reverted_take_nothing_along() -> None:
    net = feed_forwards(20, 30)
    model, probes = net.model(), probes_of(net)
    first, *cuts = propose(neurons(keep=0.5), model, probes).edits
    smaller, _ = RemoveNeurons().apply(model, [first, cuts[1]])
    assert left(smaller, probes) == {"neurons.0": 20, "neurons.1": 15}
    assert RemoveNeurons().apply(model, [first]) == (model, ())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "remove-neurons: keep must be a share in (0, 1] or a count from 1, got 0."),
        ({"keep": 0.0}, "remove-neurons: keep must be a share in (0, 1] or a count from 1, got 0.0."),
        ({"keep": 1.2}, "remove-neurons: keep must be a share in (0, 1] or a count from 1, got 1.2."),
        ({"keep": float("nan")}, "remove-neurons: keep must be a share in (0, 1] or a count from 1, got nan."),
        ({"multiple": 0}, "remove-neurons: multiple must be at least 1, got 0."),
        ({"units": ("neurons.0",)}, "remove-neurons: units read SITE/UNIT/UNIT…, got 'neurons.0'."),
        ({"units": ("neurons.0/x",)}, "remove-neurons: units read SITE/UNIT/UNIT…, got 'neurons.0/x'."),
        ({"units": ("neurons.0/-1",)}, "remove-neurons: units read SITE/UNIT/UNIT…, got 'neurons.0/-1'."),
        ({"units": ("neurons.7/1",)}, "remove-neurons: no site 'neurons.7'. Known: neurons.0."),
        ({"sites": ("heads.0",)}, "remove-neurons: no site 'heads.0'. Known: neurons.0."),
        ({"units": ("neurons.0/20",)}, "remove-neurons: neurons.0 has units 0 to 19, got 20."),
        (
            {"units": ("neurons.0/" + "/".join(map(str, range(20))),)},
            "remove-neurons: one unit of neurons.0 must stay. Use remove-blocks for all.",
        ),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    net = feed_forwards(20)
    with pytest.raises(OptionError) as told:
        propose(neurons(**options), net.model(), probes_of(net))
    assert str(told.value) == message
