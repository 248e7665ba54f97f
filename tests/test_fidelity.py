"""Figures of a comparison, against the plain formula and against hand-made cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import DataError, ModelError
from onnxprune.fidelity import Fidelity, compare
from onnxprune.runtime import Feeds, Port

Array = np.ndarray[Any, Any]

FLOAT = np.dtype(np.float32)
TOKENS = Port("ids", np.dtype(np.int64), ("batch", "sequence"))
MASK = Port("attention_mask", np.dtype(np.int64), ("batch", "sequence"))
HIDDEN = Port("y", FLOAT, ("batch", "sequence", 4))
FIGURES = ("explained", "cosine_mean", "cosine_p05", "max_abs", "relative_l2")


def f32(values: Any) -> Array:
    return np.array(values, np.float32)


def fidelity(
    expected: Sequence[Any],
    obtained: Sequence[Any],
    port: Port = HIDDEN,
    *,
    feeds: Sequence[Feeds] | None = None,
    inputs: Sequence[Port] = (TOKENS,),
) -> Fidelity:
    return compare(
        [{port.name: value} for value in expected],
        [{port.name: value} for value in obtained],
        feeds or [{}] * len(expected),
        inputs=inputs,
        outputs=[port],
    )


def tokens(random: np.random.Generator, samples: int, offset: float = 0.0) -> list[Array]:
    """Outputs [1, 1 … 6, 4]."""
    return [f32(random.standard_normal((1, random.integers(1, 7), 4)) + offset) for _ in range(samples)]


def plain(expected: Sequence[Array], obtained: Sequence[Array]) -> dict[str, float]:
    """The formulas of the figures, on all samples at once, rows [positions, features]."""
    y = np.concatenate([value.reshape(-1, value.shape[-1]) for value in expected]).astype(np.float64)
    z = np.concatenate([value.reshape(-1, value.shape[-1]) for value in obtained]).astype(np.float64)
    cosines = (y * z).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(z, axis=1)
    error = ((y - z) ** 2).sum()
    return {
        "explained": 1 - error / ((y - y.mean(0)) ** 2).sum(),
        "cosine_mean": cosines.mean(),
        "cosine_p05": np.percentile(cosines, 5),
        "max_abs": np.abs(y - z).max(),
        "relative_l2": math.sqrt(error / (y**2).sum()),
        "top1_agreement": (y.argmax(1) == z.argmax(1)).mean(),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(0, 2), st.floats(-100, 100))
def test_streamed_figures_equal_the_plain_formulas(seed: int, samples: int, noise: float, offset: float) -> None:
    random = np.random.default_rng(seed)
    expected = tokens(random, samples, offset)
    obtained = [y + f32(noise * random.standard_normal(y.shape)) for y in expected]
    figures = fidelity(expected, obtained).outputs["y"]
    for name, value in plain(expected, obtained).items():
        # Both sum in float64: they differ by rounding only, which the offset's square magnifies in no sum of ours.
        assert getattr(figures, name) == pytest.approx(value, rel=1e-9, abs=1e-9), name


def test_a_copy_scores_one_and_differs_nowhere() -> None:
    expected = tokens(np.random.default_rng(0), 3)
    result = fidelity(expected, expected)
    assert (result.score, result.low, result.high, result.samples) == (1.0, 1.0, 1.0, 3)
    assert result.within(0).passed


def test_the_figures_of_a_small_case_are_those_worked_out_by_hand() -> None:
    # Two samples of two features, no dynamic axis but the batch: ȳ = (2, 0), Σ‖y-ȳ‖² = 1 + 1 = 2, Σ‖y‖² = 1 + 9 = 10.
    # Errors: (.5, 0) and (0, 0): Σ‖y-ŷ‖² = .25, explained 1 - .25/2 = .875, relative L2 sqrt(.025).
    port = Port("y", FLOAT, ("batch", 2))
    result = fidelity([f32([[1, 0]]), f32([[3, 0]])], [f32([[1.5, 0]]), f32([[3, 0]])], port)
    figures = result.outputs["y"]
    assert figures.explained == result.score == 0.875
    assert figures.relative_l2 == pytest.approx(math.sqrt(0.025))
    assert (figures.max_abs, figures.cosine_mean, figures.top1_agreement) == (0.5, 1.0, 1.0)


def test_a_large_common_offset_flatters_the_cosine_but_not_the_score() -> None:
    random = np.random.default_rng(1)
    expected = tokens(random, 20, offset=1000)
    # Every position answers the mean: no variance is left.
    obtained = [np.full_like(y, 1000) for y in expected]
    figures = fidelity(expected, obtained).outputs["y"]
    assert figures.cosine_mean is not None
    assert figures.cosine_mean > 0.999
    assert figures.explained is not None
    assert figures.explained < 0.1


def test_an_offset_far_above_the_spread_cancels_nothing() -> None:
    # Spread 1 on an offset of 1e8 in float64: Σy² - n·ȳ² would keep no digit of the variance.
    random = np.random.default_rng(2)
    base = [random.standard_normal((1, 5, 4)) for _ in range(6)]
    errors = [0.1 * random.standard_normal((1, 5, 4)) for _ in range(6)]
    near = fidelity(base, [y + e for y, e in zip(base, errors, strict=True)]).score
    far = fidelity([y + 1e8 for y in base], [y + 1e8 + e for y, e in zip(base, errors, strict=True)]).score
    # Adding 1e8 rounds to 1.5e-8, seven digits under the errors of .1.
    assert far == pytest.approx(near, abs=1e-6)


def test_padded_positions_are_left_out() -> None:
    random = np.random.default_rng(3)
    whole = [f32(random.standard_normal((2, 6, 4))) for _ in range(4)]
    masks = [np.repeat([[1] * 4 + [0] * 2], 2, axis=0) for _ in whole]
    broken = [y + f32(0.1 * random.standard_normal(y.shape)) for y in whole]
    for z in broken:
        z[:, 4:] = 77
    feeds = [{"attention_mask": mask} for mask in masks]
    result = fidelity(whole, broken, feeds=feeds, inputs=[TOKENS, MASK])
    cut = plain([y[:, :4] for y in whole], [z[:, :4] for z in broken])
    for name, value in cut.items():
        assert getattr(result.outputs["y"], name) == pytest.approx(value, rel=1e-9), name
    assert fidelity(whole, broken, feeds=feeds, inputs=[TOKENS]).score < 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attention_mask", [[1, 1, 1, -1]]),  # more than 0 and 1
        ("attention_mask", [[0, 0, 0, 0]]),  # marks something else than real positions
        ("head_mask", [[1, 1, 0, 0]]),
        ("key_padding_mask", [[0, 0, 1, 1]]),  # torch marks the padding, others what is real
        ("attention_mask", [[1, 1, 0]]),  # of another length
    ],
)
def test_a_doubtful_mask_excuses_nothing(name: str, values: list[list[int]]) -> None:
    y = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    z = y.copy()
    z[:, 2:] = 0
    feeds: list[Feeds] = [{name: np.array(values)}]
    inputs = [Port(name, np.dtype(np.int64), ("batch", "sequence"))]
    assert fidelity([y], [z], feeds=feeds, inputs=inputs).score == fidelity([y], [z]).score < 1


def test_an_output_without_variance_scores_by_its_relative_error() -> None:
    # ‖y-ŷ‖ / ‖y‖ = 1/4 in both samples.
    result = fidelity([f32([[4.0]])] * 2, [f32([[5.0]])] * 2, Port("y", FLOAT, ("batch", 1)))
    assert result.score == 0.75


def test_rounding_is_no_variance_to_be_explained() -> None:
    one = np.float32(1)
    expected = [f32([[value]]) for value in (one, np.nextafter(one, np.float32(2)), one)]
    result = fidelity(expected, [f32([[1.0]])] * 3, Port("y", FLOAT, ("batch", 1)))
    assert result.score > 1 - 1e-6


def test_nan_in_the_candidate_fails_whatever_the_rest() -> None:
    y = np.ones((1, 2, 4), np.float32)
    z = y.copy()
    z[0, 1, 2] = np.nan
    result = fidelity([y, y], [y, z])
    assert result.score == -math.inf
    assert result.why == "y, sample 2: NaN or infinite at 1 of 8 elements where the reference differs"
    assert result.to_json()["score"] is None
    assert not result.at_least(-1e9).passed
    assert result.within(1e9).would_pass is None


def test_infinities_that_both_models_give_are_left_out() -> None:
    random = np.random.default_rng(4)
    expected = [f32(random.standard_normal((1, 3, 4))) for _ in range(5)]
    obtained = [y + f32(0.1 * random.standard_normal(y.shape)) for y in expected]
    for y, z in zip(expected, obtained, strict=True):
        y[0, 0, 0] = z[0, 0, 0] = -np.inf
        y[0, 1, 1] = z[0, 1, 1] = np.nan
    result = fidelity(expected, obtained)
    y = np.ma.masked_invalid(np.concatenate([value.reshape(-1, 4) for value in expected]).astype(np.float64))
    z = np.ma.masked_invalid(np.concatenate([value.reshape(-1, 4) for value in obtained]).astype(np.float64))
    assert result.score == pytest.approx(1 - ((y - z) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())


def test_integers_are_compared_by_agreement() -> None:
    # 1 of 8 differs.
    labels = Port("label", np.dtype(np.int64), ("batch",))
    result = fidelity([np.arange(4)] * 2, [np.arange(4), np.array([0, 1, 2, 9])], labels)
    assert result.score == 0.875
    assert result.outputs["label"].kind == "integer"


def test_strings_and_booleans_are_compared_by_agreement() -> None:
    names = Port("name", np.dtype(object), ("batch",))
    result = fidelity([np.array(["a", "b"], object)], [np.array(["a", "c"], object)], names)
    assert result.score == 0.5
    flags = Port("flag", np.dtype(np.bool_), ("batch",))
    assert fidelity([np.array([True, False])], [np.array([True, False])], flags).score == 1


def test_integers_do_not_score_beside_floats() -> None:
    outputs = [Port("y", FLOAT, ("batch", 1)), Port("label", np.dtype(np.int64), ("batch",))]
    expected = [{"y": f32([[n]]), "label": np.array([n])} for n in range(3)]
    obtained = [{"y": f32([[n]]), "label": np.array([n + 1])} for n in range(3)]
    result = compare(expected, obtained, [{}] * 3, inputs=[], outputs=outputs)
    assert result.score == 1
    assert result.outputs["label"].top1_agreement == 0
    assert not result.within(1e-5).passed


STATES = [
    ("state", "stateN"),
    ("hidden", "hidden_out"),
    ("h0", "hn"),
    ("c_0", "cn"),
    ("h", "hn"),
    ("state_in", "state_out"),
    ("past_key_values.0.key", "present.0.key"),
    ("past_key_0", "present_key_0"),
    ("past", "present"),
    ("cached_conv_1", "new_cached_conv_1"),
    ("input_states", "output_states"),
]


@pytest.mark.parametrize(("given_name", "output"), STATES)
def test_a_state_is_reported_but_not_scored(given_name: str, output: str) -> None:
    inputs = [Port(given_name, FLOAT, (2, "batch", 3))]
    outputs = [Port("y", FLOAT, ("batch", 1)), Port(output, FLOAT, (None, "batch", None))]
    state = np.ones((2, 1, 3), np.float32)
    expected = [{"y": f32([[n]]), output: n * state} for n in range(3)]
    obtained = [{"y": f32([[n]]), output: 0 * state} for n in range(3)]
    result = compare(expected, obtained, [{given_name: state}] * 3, inputs=inputs, outputs=outputs)
    assert result.outputs[output].kind == "state"
    assert result.score == 1
    assert result.outputs[output].score < 1


@pytest.mark.parametrize(
    ("given_name", "output"),
    [
        ("input", "output"),
        ("input_image", "output_image"),
        ("past_key_values.0.key", "present.1.key"),
        ("encoder_hidden_states", "last_hidden_state"),
        ("hidden_states", "last_hidden_state"),
        ("src_mask", "src_mask_out"),
    ],
)
def test_an_output_is_no_state_for_a_name_that_is_merely_alike(given_name: str, output: str) -> None:
    inputs = [Port(given_name, FLOAT, ("batch", 3))]
    outputs = [Port("y", FLOAT, ("batch", 1)), Port(output, FLOAT, ("batch", 3))]
    expected = [{"y": f32([[n]]), output: np.full((1, 3), n, np.float32)} for n in range(3)]
    result = compare(expected, expected, [{}] * 3, inputs=inputs, outputs=outputs)
    assert result.outputs[output].kind == "scored"


def test_the_worst_output_is_the_score_and_decides() -> None:
    outputs = [Port("a", FLOAT, ("batch", 1)), Port("b", FLOAT, ("batch", 1))]
    expected = [{"a": f32([[n]]), "b": f32([[n]])} for n in range(3)]
    # Σ(y-ȳ)² = 2; one error of .5 in a, of 1 in b.
    obtained = [{"a": f32([[max(n, 0.5)]]), "b": f32([[max(n, 1)]])} for n in range(3)]
    result = compare(expected, obtained, [{}] * 3, inputs=[], outputs=outputs)
    assert (result.outputs["a"].explained, result.score) == (0.875, 0.5)
    assert result.at_least(0.9).output == result.within(0).output == "b"


def test_the_first_axis_holds_observations_even_where_its_size_is_fixed() -> None:
    # One sample of a batch of 2 in one feature: ȳ = 2, Σ(y-ȳ)² = 8, one error of 1.
    assert fidelity([f32([[0], [4]])], [f32([[1], [4]])], Port("y", FLOAT, (2, 1))).score == 0.875


def test_states_are_scored_where_there_is_nothing_else() -> None:
    port = Port("hn", FLOAT, ("batch", 3))
    expected = [np.full((1, 3), n, np.float32) for n in range(3)]
    # Σ‖y-ȳ‖² = 2 a feature, errors 0 + .25 + 1 = 1.25 of half the value: 1 - 1.25/2.
    result = fidelity(expected, [y / 2 for y in expected], port, inputs=[Port("h0", FLOAT, ("batch", 3))])
    assert result.outputs["hn"].kind == "scored"
    assert result.score == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("obtained", "why"),
    [
        (np.ones((1, 2, 3), np.float32), "y, sample 1: shape [1, 2, 4] became [1, 2, 3]"),
        (np.ones((1, 2, 4), np.int64), "y, sample 1: float32 became int64"),
        (None, "y, sample 1: the candidate has no such output"),
    ],
)
def test_an_output_of_another_form_fails_with_the_reason(obtained: Array | None, why: str) -> None:
    result = fidelity([np.ones((1, 2, 4), np.float32)], [obtained])
    assert (result.score, result.why) == (-math.inf, why)
    assert result.at_least(0.5).why == why
    assert result.outputs["y"].to_json()["why"] == why


def test_a_candidate_that_cannot_run_fails_with_the_reason() -> None:
    def refuse(_: Feeds) -> dict[str, Array]:
        raise ModelError("small.onnx: onnxruntime failed while running it: no memory")

    result = compare([{"y": np.ones(1)}], refuse, [{}], inputs=[], outputs=[Port("y", FLOAT, (None,))])
    assert result.score == -math.inf
    assert result.why == "small.onnx: onnxruntime failed while running it: no memory"


def test_maps_of_class_scores_are_compared_label_by_label() -> None:
    port = Port("probabilities", None, ())
    first, second = [{"a": 0.25, "b": 0.75}], [{"a": 0.75, "b": 0.25}]
    # ȳ = (.5, .5), Σ‖y-ȳ‖² = 4 · .0625 = .25, errors (.25, .25) once: .125.
    result = fidelity([first, second], [first, [{"b": 0.5, "a": 0.5}]], port)
    assert result.score == 0.5
    assert fidelity([first], [[{"a": 0.25, "c": 0.75}]], port).why == "probabilities, sample 1: the labels differ"


def test_what_cannot_be_compared_is_said() -> None:
    result = fidelity([[np.ones(2)]], [[np.ones(2)]], Port("boxes", None, ()))
    assert math.isnan(result.score)
    assert result.outputs["boxes"].kind == "uncompared"
    assert not result.at_least(0).passed
    assert result.at_least(0).why == "no output could be compared"


def test_an_output_without_elements_neither_scores_nor_fails() -> None:
    outputs = [Port("y", FLOAT, ("batch", 1)), Port("boxes", FLOAT, ("found", 4))]
    expected = [{"y": f32([[n]]), "boxes": np.zeros((0, 4), np.float32)} for n in range(2)]
    result = compare(expected, expected, [{}] * 2, inputs=[], outputs=outputs)
    assert result.score == 1
    assert result.outputs["boxes"].why == "there is nothing in it to compare"


def test_a_size_that_varies_against_the_file_is_pooled() -> None:
    port = Port("y", FLOAT, ("batch", 4))
    random = np.random.default_rng(5)
    expected = [f32(random.standard_normal((2, size))) for size in (4, 5, 4, 6)]
    obtained = [y + np.float32(0.1) for y in expected]
    y = np.concatenate([value.ravel() for value in expected]).astype(np.float64)
    # 38 errors of .1.
    assert fidelity(expected, obtained, port).score == pytest.approx(1 - 0.01 * 38 / ((y - y.mean()) ** 2).sum())


def test_a_scalar_and_a_vector_have_figures() -> None:
    scalars = [np.float32(n) for n in range(4)]
    assert fidelity(scalars, scalars, Port("y", FLOAT, ())).score == 1
    vectors = [np.arange(n, n + 3, dtype=np.float32) for n in range(4)]
    figures = fidelity(vectors, [2 * y for y in vectors], Port("y", FLOAT, ("batch",))).outputs["y"]
    assert figures.cosine_mean == pytest.approx(1)


def test_values_without_a_square_are_said_instead_of_warned_of() -> None:
    y = np.array([[1e200, -1e200]])
    result = fidelity([y, -y], [0 * y, -y], Port("y", np.dtype(np.float64), ("batch", 2)))
    assert result.why == "y: the values are too large to be squared"


def test_a_reference_of_zeros_is_failed_by_anything_else() -> None:
    zeros, ones = np.zeros((1, 1, 4), np.float32), np.ones((1, 1, 4), np.float32)
    same = fidelity([zeros], [zeros])
    assert same.score == 1
    assert same.within(0).passed
    # Two vectors of zeros point the same way.
    assert same.outputs["y"].cosine_mean == 1
    assert fidelity([zeros], [ones]).why == "y: the reference is zero everywhere, the candidate is not"


def test_the_interval_holds_the_score_and_narrows_with_samples() -> None:
    random = np.random.default_rng(6)
    widths = []
    for samples in (8, 200):
        expected = tokens(random, samples)
        obtained = [y + f32(0.3 * random.standard_normal(y.shape)) for y in expected]
        result = fidelity(expected, obtained)
        assert result.low < result.score < result.high
        assert fidelity(expected, obtained) == result
        widths.append(result.high - result.low)
    # The spread falls with the root of the number of samples: by 5 here.
    assert widths[1] < widths[0] / 2


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # y of variance 1 and an error of variance .25: the truth is .75. 300 trials of 60 samples.
    random = np.random.default_rng(7)
    port = Port("y", FLOAT, ("batch", 8))
    covered = 0
    for _ in range(300):
        expected = [random.standard_normal((1, 8)) for _ in range(60)]
        obtained = [y + 0.5 * random.standard_normal((1, 8)) for y in expected]
        result = fidelity(expected, obtained, port)
        covered += result.low <= 0.75 <= result.high
    # 95 % of 300 is 285; a percentile bootstrap of 60 samples falls a little short; 4 standard errors are 15.
    assert covered >= 265


def test_the_size_of_a_block_changes_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(9)
    port = Port("y", FLOAT, ("batch", None, None))
    expected = [f32(random.standard_normal((2, 3, 7))) for _ in range(4)]
    obtained = [y + f32(0.2 * random.standard_normal(y.shape)) for y in expected]
    whole = {
        kind: fidelity(expected, obtained, kind).outputs["y"] for kind in (port, Port("y", FLOAT, ("batch", None, 7)))
    }
    # 5 elements: blocks end within batch entries.
    monkeypatch.setattr("onnxprune.moments._BLOCK_ELEMENTS", 5)
    for kind, before in whole.items():
        after = fidelity(expected, obtained, kind).outputs["y"]
        for name in FIGURES:
            assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-12), name


def test_cosines_of_images_of_free_size_run_over_the_whole_image() -> None:
    port = Port("y", FLOAT, ("batch", 1, "height", "width"))
    random = np.random.default_rng(10)
    expected = [f32(random.standard_normal((2, 1, size, size + 1))) for size in (3, 5)]
    obtained = [y + f32(0.2 * random.standard_normal(y.shape)) for y in expected]
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for y, z in zip(expected, obtained, strict=True)
        for a, b in zip(y.reshape(2, -1).astype(np.float64), z.reshape(2, -1).astype(np.float64), strict=True)
    ]
    figures = fidelity(expected, obtained, port).outputs["y"]
    assert figures.cosine_mean == pytest.approx(np.mean(cosines))
    assert figures.cosine_p05 == pytest.approx(np.percentile(cosines, 5))
    assert figures.top1_agreement is None


def test_either_of_two_largest_elements_is_right() -> None:
    port = Port("y", FLOAT, ("batch", 3))
    expected = [f32([[1, 1, 0]]), f32([[2, 0, 0]])]
    assert fidelity(expected, [f32([[0, 1, 0]]), f32([[2, 0, 0]])], port).outputs["y"].top1_agreement == 1
    assert fidelity(expected, [f32([[0, 0, 1]]), f32([[2, 0, 0]])], port).outputs["y"].top1_agreement == 0.5


def test_the_interval_of_many_features_rests_on_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(11)
    port = Port("y", FLOAT, ("batch", 400))
    expected = [f32(random.standard_normal((1, 400))) for _ in range(30)]
    obtained = [y + f32(random.choice([0.1, 0.8]) * random.standard_normal(y.shape)) for y in expected]
    exact = fidelity(expected, obtained, port)
    monkeypatch.setattr("onnxprune.moments._KEPT_FEATURES", 100)
    near = fidelity(expected, obtained, port)
    assert near.score == exact.score
    assert near != exact
    # A sample's share of the variance, from 100 features, is off by about sqrt(2/100) = 14 % of itself, and that
    # averages out over 30 samples; errors, which differ 64-fold, make the width.
    assert near.high - near.low == pytest.approx(exact.high - exact.low, rel=0.15)


def test_one_sample_has_no_interval() -> None:
    expected = tokens(np.random.default_rng(8), 1)
    result = fidelity(expected, expected)
    assert math.isnan(result.low)
    assert result.to_json()["low"] is None


def test_the_verdict_names_the_floor_that_would_have_passed() -> None:
    expected = [f32([[1, 0]]), f32([[3, 0]])]
    obtained = [f32([[1.5, 0]]), f32([[3, 0]])]
    result = fidelity(expected, obtained, Port("y", FLOAT, ("batch", 2)))
    verdict = result.at_least(0.9)
    assert (verdict.passed, verdict.would_pass, verdict.output) == (False, 0.875, "y")
    assert verdict.why == "fidelity 0.8750 is under the floor 0.9; 0.875 would pass"
    assert result.at_least(0.875).passed
    # .5 / 3 = .1667, rounded up to two digits.
    exact = result.within(1e-5)
    assert (exact.passed, exact.would_pass) == (False, 0.17)
    assert exact.why == "y: largest relative error 1.7e-01 exceeds 1e-05; 0.17 would pass"
    assert result.within(0.17).passed


@given(st.floats(1e-12, 1e6))
def test_the_tolerance_that_would_pass_passes(error: float) -> None:
    port = Port("y", np.dtype(np.float64), ("batch", 1))
    result = fidelity([np.array([[1.0]])], [np.array([[1.0 + error]])], port)
    would = result.within(0).would_pass
    assert would is not None
    assert result.within(would).passed


def test_a_comparison_needs_a_sample() -> None:
    with pytest.raises(DataError) as caught:
        fidelity([], [])
    assert str(caught.value) == "A comparison needs at least one sample, got none. Give --data with samples in it."


def test_outputs_computed_before_must_reach_for_all_samples() -> None:
    with pytest.raises(DataError, match="more samples than outputs"):
        compare([{"y": np.ones(1)}], lambda _: {"y": np.ones(1)}, [{}] * 2)
