"""Activations in fixed steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration import Statistics, collect
from onnxprune.inference import refresh_shapes
from onnxprune.model import Model, raise_opset
from onnxprune.passes import SparseInt8, Streamline
from onnxprune.protocol import Context
from onnxprune.runtime import Feeds, open_session
from onnxprune.sites import find_sites
from onnxprune.streamlining import BY_NAME, Done
from onnxprune.streamlining.steps import COARSEST, FEWEST_SAMPLES, grid_of
from tests.building import Net
from tests.streamlining.sketches import bent, chance

FIXED = BY_NAME["fixed-steps"]
WIDTH = 64


def small(net: Net) -> Model:
    """The net with integer products."""
    model, one = net.model(), SparseInt8()
    return one.apply(model, one.propose(model, find_sites(model, None), Context()).edits)[0]


def samples(net: Net, count: int = 12) -> list[Feeds]:
    return [net.feeds({"b": 2, "s": 24}, seed) for seed in range(count)]


def fixed(model: Model, feeds: Sequence[Feeds]) -> tuple[Model, Done]:
    """The model with fixed steps where the samples show that they do."""
    statistics = collect(model, FIXED.needs(model), feeds)
    wish = FIXED.wish(model, Context(statistics=statistics))
    assert wish is not None
    copy = model.copy()
    refresh_shapes(copy)
    done = FIXED.carry_out(copy, wish)
    copy.graph.cleanup(remove_unused_graph_inputs=False)
    return copy, done


def bounded(net: Net, x: str) -> str:
    """Values whose ends are the same in all samples."""
    return str(net.op("Clip", x, net.constant(np.float32(-1)), net.constant(np.float32(1))))


def outputs(model: Model, feeds: Feeds, level: Any) -> list[Any]:
    return list(open_session(model, level=level).run(feeds).values())


def test_outputs_move_by_no_more_than_both_grids_round() -> None:
    """A value is rounded by half a step, and by one more where zero's place is rounded: |Δy| ≤ Σ|w| · (both steps)."""
    fired: list[bool] = []

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def hold(data: st.DataObject) -> None:
        net = Net(opset=data.draw(st.sampled_from([15, 18, 21])))
        x = bounded(net, net.input("x", ("b", "s", WIDTH)))
        x = bent(net, data, x)
        sums = []
        for _ in range(data.draw(st.integers(1, 3))):
            columns = data.draw(st.sampled_from([16, 24]))
            net.output(net.op("Identity", net.linear(x, WIDTH, columns, bias=data.draw(st.booleans()))))
            weight = next(t for t in reversed(net.initializers) if len(t.dims) == 2)
            values = np.frombuffer(weight.raw_data, np.float32).reshape(WIDTH, columns)
            # Rounded to integers of one scale a column each weight may be half a step larger.
            sums.append(np.abs(values).sum(axis=0).max() + WIDTH * np.abs(values).max() / 254)
        if chance(data, 4):
            net.output(net.op("Sign", x))
        model, feeds = small(net), samples(net)
        result, done = fixed(model, feeds)
        fired.append(done.places == 1)
        for level in ("none", "default"):
            for got, wanted, total in zip(
                outputs(result, feeds[0], level), outputs(model, feeds[0], level), sums, strict=False
            ):
                # All that entry-wise operators leave of [-1, 1] lies within a span of 2, and of the fixed grid in 2.5.
                assert np.abs(got - wanted).max() <= total * (2 + 2 * COARSEST) / 255 + 1e-5

    hold()
    assert np.mean(fired) >= 0.8


def products(model: Model) -> list[str]:
    return sorted(node.op for node in model.graph.nodes if "Quantize" in node.op or "MatMul" in node.op)


def test_all_linears_that_read_an_activation_read_it_in_fixed_steps() -> None:
    net = Net()
    x = bounded(net, net.input("x", ("b", "s", WIDTH)))
    for bias in (True, False):
        net.output(net.op("Relu", net.linear(x, WIDTH, 16, bias=bias)))
    result, done = fixed(small(net), samples(net))
    assert (done.places, products(result)) == (1, ["MatMulIntegerToFloat", "MatMulIntegerToFloat", "QuantizeLinear"])
    # From -1 to 1, a hundredth of the span further at either end.
    assert done.note == "what lies beyond saturates: clip0 -1.02 … 1.02"


def test_a_newer_opset_takes_the_runtimes_operators_along() -> None:
    """Other rewrites raise the opset: the standard has no say in other domains."""
    net = Net(opset=17)
    net.output(net.linear(bounded(net, net.input("x", ("b", "s", WIDTH))), WIDTH, 16))
    result, _ = fixed(small(net), samples(net))
    raised = raise_opset(result, 23)
    assert raised.graph.opset == 23
    (wanted,), (got,) = (outputs(each, net.feeds({"b": 2, "s": 9}), "default") for each in (result, raised))
    np.testing.assert_array_equal(got, wanted)


def test_ends_that_differ_from_sample_to_sample_stay_quantized_at_every_run() -> None:
    net = Net()
    net.output(net.op("Relu", net.linear(net.input("x", ("b", "s", WIDTH)), WIDTH, 16)))
    feeds = [{"x": one["x"] * np.float32(1 + at)} for at, one in enumerate(samples(net))]
    result, done = fixed(small(net), feeds)
    assert (done.places, products(result)) == (0, ["DynamicQuantizeLinear", "MatMulInteger"])
    ((name, why),) = done.kept
    assert name == "x"
    assert why.startswith("quantized at every run: one step for all inputs would be ")
    assert why.endswith(" x as coarse as a typical sample's own, 1.25 x is allowed")


def test_few_samples_say_too_little() -> None:
    net = Net()
    net.output(net.linear(bounded(net, net.input("x", ("b", "s", WIDTH))), WIDTH, 16))
    _, done = fixed(small(net), samples(net, FEWEST_SAMPLES - 1))
    assert [why for _, why in done.kept] == [
        "quantized at every run: 7 samples say too little of its range, 8 are needed"
    ]


def test_a_quantizer_that_anything_else_reads_stays() -> None:
    net = Net()
    net.output(net.linear(bounded(net, net.input("x", ("b", "s", WIDTH))), WIDTH, 16))
    model = small(net)
    quantizer = next(node for node in model.graph.nodes if node.op == "DynamicQuantizeLinear")
    quantizer.outputs[1].dtype, quantizer.outputs[1].shape = np.float32, ()
    model.graph.outputs.append(quantizer.outputs[1])
    _, done = fixed(model, samples(net))
    assert [why for _, why in done.kept] == [
        "quantized at every run: not all that reads it are integer products of weights"
    ]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1e3)), min_size=1, max_size=20))
def test_a_fixed_grid_holds_every_sample_with_room(spans: list[tuple[float, float]]) -> None:
    ends = np.array([(low, low + size) for low, size in spans])
    grid = grid_of(ends)
    if grid is None:
        assert not ends.any()
        return
    whole = np.maximum(ends[:, 1], 0).max() - np.minimum(ends[:, 0], 0).min()
    lowest, highest = np.minimum(ends[:, 0], 0), np.maximum(ends[:, 1], 0)
    assert grid.low <= lowest.min()
    assert grid.high >= highest.max()
    # Room for as much as the ends lie apart, where there are values beyond zero at all.
    assert lowest.min() == 0 or lowest.min() - grid.low >= np.ptp(lowest) - 1e-9
    assert highest.max() == 0 or grid.high - highest.max() >= np.ptp(highest) - 1e-9
    assert grid.coarser >= 1 or grid.high - grid.low < whole


def test_what_is_no_number_has_no_grid() -> None:
    assert grid_of(np.array([[0, 0], [0, 0]])) is None
    assert grid_of(np.array([[0, np.inf]])) is None


def test_where_it_loses_too_much_the_steadier_half_is_left() -> None:
    one = Streamline(rewrites=("fixed-steps",))
    net = Net()
    x = net.input("x", ("b", "s", WIDTH))
    for _ in range(2):
        x = bounded(net, net.linear(x, WIDTH, WIDTH))
    net.output(x)
    model = small(net)
    statistics = Statistics(spans={name: np.array([[-1, 1]] * 9) * 1.0 for name in one.needs(model, ()).spans})
    (edit,) = one.propose(model, (), Context(statistics=statistics)).edits
    assert (len(edit.args["steps"]), one.rivals(edit), one.may_lose(edit)) == (2, "fixed-steps", 1e-3)
    fewer = one.fewer(edit)
    assert fewer is not None
    assert fewer.args["steps"] == edit.args["steps"][:1]
    assert one.fewer(fewer) is None


@pytest.mark.parametrize("portable", [True, False])
def test_portable_leaves_out_a_runtimes_own_operators(*, portable: bool) -> None:
    net = Net()
    net.output(net.linear(bounded(net, net.input("x", ("b", "s", WIDTH))), WIDTH, 16))
    model = small(net)
    statistics = collect(model, FIXED.needs(model), samples(net))
    proposal = Streamline(rewrites=("fixed-steps",), portable=portable).propose(
        model, (), Context(statistics=statistics)
    )
    assert [edit.kind for edit in proposal.edits] == ([] if portable else ["fixed-steps"])
    if portable:
        assert [skip.why for skip in proposal.skips] == [
            "fixed-steps: its operators are com.microsoft's own; option portable"
        ]
