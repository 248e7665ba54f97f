"""One sweep chooses zeros and integers: exactly as printed, better than rounding, zeros exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solvers.gram import damped
from onnxprune.solvers.quantize import round_to_grid, symmetric_scale
from onnxprune.solvers.reconstruction import output_error
from onnxprune.solvers.sparsegpt import solve
from onnxprune.solvers.wanda import Blocks, share_mask
from tests.solvers.drawing import Array, correlated


def problem(seed: int, k: int = 48, n: int = 24) -> tuple[Array, Array]:
    """A weight and the second moment of correlated inputs."""
    rng = np.random.default_rng(seed)
    inputs = correlated(rng, 4 * k, k)
    return rng.standard_normal((k, n)), inputs.T @ inputs


def rounded(weight: Array, scale: Array, largest: int) -> Array:
    return np.asarray(round_to_grid(weight, scale, largest=largest) * scale.astype(np.float64))


def by_row_elimination(weight: Array, hessian: Array, kept: Array, scale: Array | None, largest: int) -> Array:
    """Optimal brain surgeon in plain form: fix one input at a time, H⁻¹ of what follows computed anew."""
    held = weight.copy()
    for row in range(len(held)):
        inverse = np.linalg.inv(hessian[row:, row:])
        fixed = held[row] if scale is None else np.clip(np.rint(held[row] / scale), -largest, largest) * scale
        fixed = np.where(kept[row], fixed, 0)
        error = (held[row] - fixed) / inverse[0, 0]
        held[row + 1 :] -= np.outer(inverse[1:, 0], error)
        held[row] = fixed
    return held


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 20),
    n=st.integers(1, 6),
    swept=st.sampled_from([1, 3, 128]),
    whole=st.booleans(),
)
def test_a_sweep_equals_elimination_one_input_at_a_time(seed: int, k: int, n: int, swept: int, whole: bool) -> None:
    """Whatever the number of inputs per sweep; the loss is that of the outputs."""
    weight, gram = problem(seed, k, n)
    kept = np.random.default_rng(seed).random((k, n)) < 0.6
    scale = symmetric_scale(weight, [1], largest=7)[0].astype(np.float64) if whole else None
    hessian, _ = damped(gram, 0.01)
    found = solve(weight, gram, kept=kept, scale=scale, largest=7, swept=swept)
    expected = by_row_elimination(weight, hessian, kept, scale, 7)
    np.testing.assert_allclose(found.values, expected, atol=1e-9 * max(1.0, float(np.abs(expected).max())))
    assert found.loss == pytest.approx(output_error(weight, found.values, hessian), rel=1e-7, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 40),
    n=st.integers(1, 6),
    sparsity=st.floats(0, 1),
    swept=st.sampled_from([4, 16, 128]),
)
def test_zeros_are_exact_and_as_many_as_asked(seed: int, k: int, n: int, sparsity: float, swept: int) -> None:
    weight, gram = problem(seed, k, n)
    found = solve(weight, gram, sparsity=sparsity, swept=swept)
    assert (found.values == 0).sum() == int(np.floor(k * n * sparsity + 1e-9))
    assert found.integers is None


def test_a_share_is_not_lost_to_rounding() -> None:
    """0.29 · 100 is 28.999… in floating point."""
    assert (solve(*problem(0, 100, 1), sparsity=0.29).values == 0).sum() == 29


@pytest.mark.parametrize("blocks", [Blocks(2, 4), Blocks(4, 8)])
@pytest.mark.parametrize("k", [64, 61, 3])
def test_every_block_has_its_zeros(blocks: Blocks, k: int) -> None:
    """With 62 inputs a sweep, which is no whole number of blocks, and a rest at the end."""
    weight, gram = problem(1, k)
    found = solve(weight, gram, sparsity=blocks, swept=62)
    for start in range(0, k - blocks.of + 1, blocks.of):
        assert ((found.values[start : start + blocks.of] == 0).sum(axis=0) == blocks.zeros).all()
    rest = found.values[k - k % blocks.of :]
    assert ((rest != 0).sum(axis=0) == min(len(rest), blocks.of - blocks.zeros)).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, Blocks(2, 4)])
@pytest.mark.parametrize("largest", [127, 7, 3])
def test_integers_times_the_scale_are_the_values(sparsity: float | Blocks, largest: int) -> None:
    weight, gram = problem(2)
    scale = symmetric_scale(weight, [1], largest=largest)
    found = solve(weight, gram, sparsity=sparsity, scale=scale, largest=largest)
    assert found.integers is not None
    assert found.integers.dtype == np.int8
    assert np.abs(found.integers.astype(int)).max() <= largest
    np.testing.assert_allclose(found.values, found.integers * scale.astype(np.float64), rtol=1e-15)
    if sparsity != 0.0:
        assert (found.integers == 0).mean() >= 0.5


def test_a_scale_for_each_block_of_inputs_is_obeyed() -> None:
    weight, gram = problem(3)
    scale = np.repeat(symmetric_scale(weight.reshape(3, 16, 24), [0, 2], largest=7)[:, 0], 16, axis=0)
    found = solve(weight, gram, scale=scale, largest=7)
    np.testing.assert_allclose(found.values / scale, np.rint(found.values / scale), atol=1e-9)
    assert found.loss < output_error(weight, rounded(weight, scale, 7), gram)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("largest", [7, 3])
def test_compensated_rounding_beats_rounding_to_the_nearest(seed: int, largest: int) -> None:
    """GPTQ, at 4 and 3 bits."""
    weight, gram = problem(seed)
    scale = symmetric_scale(weight, [1], largest=largest)
    nearest = output_error(weight, rounded(weight, scale, largest), gram)
    found = solve(weight, gram, scale=scale, largest=largest)
    assert output_error(weight, found.values, gram) < 0.8 * nearest


@pytest.mark.parametrize("largest", [7, 3])
def test_joint_solving_beats_pruning_then_rounding(largest: int) -> None:
    """Over ten problems, and both beat magnitude pruning that is rounded."""
    totals = np.zeros(3)
    for seed in range(10):
        weight, gram = problem(seed)
        scale = symmetric_scale(weight, [1], largest=largest)
        joint = solve(weight, gram, sparsity=0.5, scale=scale, largest=largest).values
        pruned = solve(weight, gram, sparsity=0.5).values
        plain = weight * share_mask(np.abs(weight), 0.5, group="layer")
        ways = (joint, rounded(pruned, scale, largest), rounded(plain, scale, largest))
        totals += [output_error(weight, way, gram) for way in ways]
    assert totals[0] < 0.95 * totals[1]
    assert totals[1] < 0.75 * totals[2]


def test_at_eight_bits_joint_solving_is_no_worse() -> None:
    totals = np.zeros(2)
    for seed in range(10):
        weight, gram = problem(seed)
        scale = symmetric_scale(weight, [1])
        pruned = solve(weight, gram, sparsity=0.5).values
        joint = solve(weight, gram, sparsity=0.5, scale=scale).values
        totals += [output_error(weight, way, gram) for way in (joint, rounded(pruned, scale, 127))]
    assert totals[0] <= 1.002 * totals[1]


def test_large_inputs_first_lose_less() -> None:
    """Ten problems at 3 bits, inputs of unlike scales."""
    losses = np.zeros(2)
    for seed in range(10):
        weight, gram = problem(seed)
        scale = symmetric_scale(weight, [1], largest=3)
        for way, descending in enumerate((False, True)):
            losses[way] += solve(weight, gram, scale=scale, largest=3, descending=descending).loss
    assert losses[1] < losses[0]


def test_an_input_that_is_never_on_is_rounded_to_the_nearest() -> None:
    """It costs nothing and must not turn the others: samples may have missed it."""
    weight, gram = problem(4)
    gram[7], gram[:, 7] = 0, 0
    scale = symmetric_scale(weight, [1], largest=7)
    found = solve(weight, gram, scale=scale, largest=7)
    np.testing.assert_allclose(found.values[7], rounded(weight, scale, 7)[7], atol=1e-12)
    pruned = solve(weight, gram, sparsity=0.5)
    assert not pruned.values[7].any()


def test_with_nothing_to_do_nothing_changes() -> None:
    weight, gram = problem(5)
    found = solve(weight, gram)
    np.testing.assert_array_equal(found.values, weight)
    assert found.loss == 0
    without_signal = solve(weight, np.zeros_like(gram), sparsity=0.5)
    assert (without_signal.values == 0).mean() == 0.5
