"""The order of removal equals the greedy one found by exhaustive refitting."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.gram import centred, damped
from onnxprune.solvers.obs import Consumer, joint_removal_order, removal_order
from onnxprune.solvers.reconstruction import output_error, refit
from tests.solvers.drawing import Array, correlated

DAMPING = 1e-3


def brute_force(consumers: list[Consumer], damping: float) -> tuple[list[int], list[float]]:
    """Greedy removal, each candidate judged by the least squares solved anew."""
    problems = []
    for consumer in consumers:
        hessian, _ = damped(centred(consumer.gram, consumer.mean), damping)
        problems.append((consumer, hessian))

    def error(gone: list[int]) -> float:
        total = 0.0
        for consumer, hessian in problems:
            cut = np.asarray(consumer.groups)[gone].ravel()
            kept = np.setdiff1d(np.arange(len(hessian)), cut)
            missed = np.array(consumer.weight)
            solved = np.linalg.solve(hessian[np.ix_(kept, kept)], hessian[kept] @ consumer.weight)
            missed[kept] -= solved
            total += float(np.trace(missed.T @ hessian @ missed))
        return total

    units = len(consumers[0].groups)
    energy = sum(float(np.trace(c.weight.T @ h @ c.weight)) for c, h in problems)
    gone: list[int] = []
    losses = []
    for _ in range(units):
        options = [unit for unit in range(units) if unit not in gone]
        best = min(options, key=lambda unit: error([*gone, unit]))
        gone.append(best)
        losses.append(error(gone) / energy)
    return gone, losses


def second_moment(inputs: Array) -> Array:
    return inputs.T @ inputs / len(inputs)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    units=st.integers(1, 9),
    size=st.integers(1, 3),
    outputs=st.integers(1, 6),
    loose=st.integers(0, 2),
    biased=st.booleans(),
)
def test_the_order_and_every_loss_equal_exhaustive_greedy_removal(
    seed: int, units: int, size: int, outputs: int, loose: int, biased: bool
) -> None:
    """Groups of any size and place, inputs in no group, with and without a bias that absorbs means."""
    rng = np.random.default_rng(seed)
    width = units * size + loose
    inputs = correlated(rng, 200, width, offset=1.0)
    consumer = Consumer(
        weight=rng.standard_normal((width, outputs)),
        gram=second_moment(inputs),
        groups=rng.permutation(width)[: units * size].reshape(units, size),
        mean=inputs.mean(axis=0) if biased else None,
    )
    order = removal_order(
        consumer.weight, consumer.gram, consumer.groups, mean=consumer.mean, damping=DAMPING
    )  # fmt: skip
    expected, losses = brute_force([consumer], DAMPING)
    assert list(order.units) == expected
    np.testing.assert_allclose(order.losses, losses, rtol=1e-7, atol=1e-12)
    if not loose:
        assert order.losses[-1] == pytest.approx(1, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_errors_of_several_consumers_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    consumers = []
    for size in (1, 2):
        inputs = correlated(rng, 100, 6 * size)
        consumers.append(
            Consumer(
                weight=rng.standard_normal((6 * size, 4)),
                gram=second_moment(inputs),
                groups=np.arange(6 * size).reshape(6, size),
            )
        )
    order = joint_removal_order(consumers, damping=DAMPING)
    expected, losses = brute_force(consumers, DAMPING)
    assert list(order.units) == expected
    np.testing.assert_allclose(order.losses, losses, rtol=1e-7)


@pytest.mark.parametrize(("units", "size"), [(300, 1), (20, 16), (5, 80)])
def test_gathered_updates_and_rebuilds_end_where_the_refit_does(units: int, size: int) -> None:
    """More columns than are gathered at once, and several rebuilds: each loss is that of solving it directly."""
    rng = np.random.default_rng(units)
    width = units * size
    inputs = correlated(rng, 2 * width, width)
    weight, gram = rng.standard_normal((width, 30)), second_moment(inputs)
    groups = np.arange(width).reshape(units, size)
    order = removal_order(weight, gram, groups, damping=DAMPING)
    assert sorted(order.units) == list(range(units))
    assert (np.diff(order.losses) >= 0).all()
    hessian, _ = damped(gram, DAMPING)
    for level in (1, units // 3, units // 2, units - 1):
        kept = np.setdiff1d(np.arange(width), groups[list(order.units[:level])].ravel())
        found, _ = refit(weight, gram, kept, damping=DAMPING)
        full = np.zeros_like(weight)
        full[kept] = found
        assert order.losses[level - 1] == pytest.approx(output_error(weight, full, hessian), rel=1e-8)


def test_an_order_does_not_depend_on_the_scale_of_the_statistics() -> None:
    rng = np.random.default_rng(0)
    gram = second_moment(correlated(rng, 100, 12))
    weight = rng.standard_normal((12, 5))
    groups = np.arange(12)[:, None]
    once, scaled = (removal_order(weight, factor * gram, groups) for factor in (1.0, 4096.0))
    assert once.units == scaled.units
    np.testing.assert_allclose(once.losses, scaled.losses, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 8])
def test_copies_and_scales_eight_decades_apart_cost_no_figures(size: int) -> None:
    """Half of the inputs are copies, at damping that barely tells them apart: each loss is that of solving it."""
    rng = np.random.default_rng(size)
    inputs = np.tile(rng.standard_normal((300, 80)), 2) * 10 ** rng.uniform(-4, 4, 160)
    gram = second_moment(inputs)
    weight = rng.standard_normal((160, 5)) / np.sqrt(np.diagonal(gram))[:, None]
    groups = np.arange(160).reshape(-1, size)
    order = removal_order(weight, gram, groups, damping=1e-9)
    hessian, _ = damped(gram, 1e-9)
    for level in (len(groups) // 2, len(groups) - 2):
        kept = np.setdiff1d(np.arange(160), groups[list(order.units[:level])].ravel())
        full = np.zeros_like(weight)
        full[kept], _ = refit(weight, gram, kept, damping=1e-9)
        assert order.losses[level - 1] == pytest.approx(output_error(weight, full, hessian), rel=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_rounding_that_piles_up_is_cleared_away(size: int) -> None:
    """Copies told apart by rounding alone: without rebuilding, the last losses are off by a fifth of a percent."""
    rng = np.random.default_rng(0)
    inputs = np.tile(rng.standard_normal((500, 40)), 3) * rng.uniform(0.01, 30, 120)
    weight, gram = rng.standard_normal((120, 10)), second_moment(inputs)
    groups = np.arange(120).reshape(-1, size)
    order = removal_order(weight, gram, groups, damping=1e-13)
    kept = np.setdiff1d(np.arange(120), groups[list(order.units[:-3])].ravel())
    full = np.zeros_like(weight)
    full[kept], _ = refit(weight, gram, kept, damping=1e-13)
    assert order.losses[-4] == pytest.approx(output_error(weight, full, gram), rel=1e-4)


def test_inputs_that_are_never_on_go_first_and_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 100, 10)
    inputs[:, [2, 7]] = 0
    weight = rng.standard_normal((10, 4))
    weight[[2, 7]] *= 1000
    order = removal_order(weight, second_moment(inputs), np.arange(10)[:, None])
    assert order.units[:2] == (2, 7)
    assert order.losses[1] == 0


def test_an_input_that_never_moves_costs_nothing_where_a_bias_takes_it_over() -> None:
    rng = np.random.default_rng(0)
    inputs = correlated(rng, 100, 8)
    inputs[:, 5] = 3.0
    weight, gram = rng.standard_normal((8, 4)), second_moment(inputs)
    groups = np.arange(8)[:, None]
    assert removal_order(weight, gram, groups, mean=inputs.mean(axis=0)).units[0] == 5
    assert removal_order(weight, gram, groups, mean=inputs.mean(axis=0)).losses[0] < 1e-12
    assert removal_order(weight, gram, groups).losses[0] > 1e-6


def test_fewer_samples_than_inputs_are_enough() -> None:
    """A singular second moment without damping: some is added until it can be inverted."""
    rng = np.random.default_rng(0)
    gram = second_moment(correlated(rng, 6, 20))
    order = removal_order(rng.standard_normal((20, 4)), gram, np.arange(20)[:, None], damping=0)
    # Six samples span six directions: fourteen inputs are fully made up for by the others.
    assert order.losses[13] < 1e-6 < order.losses[14]


def test_without_any_signal_every_loss_is_zero() -> None:
    order = removal_order(np.ones((4, 2)), np.zeros((4, 4)), np.arange(4)[:, None])
    assert order.units == (0, 1, 2, 3)
    assert not order.losses.any()


def test_least_squares_removes_a_copy_before_a_weaker_unit() -> None:
    """Two equal inputs: either makes up for the other, so that magnitude and norms are of no account."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((500, 4))
    inputs[:, 3] = inputs[:, 0]
    weight = np.diag([5.0, 0.5, 0.5, 5.0])
    assert removal_order(weight, second_moment(inputs), np.arange(4)[:, None]).units[0] in {0, 3}


@pytest.mark.nightly
def test_four_thousand_neurons_are_ordered_in_a_few_matrix_products() -> None:
    """Measured at k = 4096, n = 1024: 7.7 s of one core, where one product [k, k] @ [k, k] takes 1.9 s."""
    rng = np.random.default_rng(0)
    width = 4096
    gram = second_moment(correlated(rng, 2 * width, width))
    weight = rng.standard_normal((width, 1024))
    other = rng.standard_normal((width, width))
    start = time.process_time()
    order = removal_order(weight, gram, np.arange(width)[:, None])
    ordered = time.process_time()
    for _ in range(3):
        gram @ other
    product = (time.process_time() - ordered) / 3
    assert ordered - start < 10 * product
    assert order.losses[-1] == pytest.approx(1, rel=1e-6)
