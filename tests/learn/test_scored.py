"""Masks by learned scores: movement, and masks alone over weights that stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner

from onnxprune import mask, train
from onnxprune.bitmasks import masked, read_masks, to_bytes, weights_digest
from onnxprune.cli import main
from onnxprune.errors import DataError, OptionError
from onnxprune.graph import constants, numbers
from onnxprune.learn.matrices import Matrix
from onnxprune.learn.scored import over, shares_by_type
from onnxprune.model import load
from onnxprune.training import Trained, settings_of
from tests import graphs

Array = np.ndarray[Any, Any]


@pytest.fixture(name="place", autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    graphs.saved(graphs.residual_blocks(), tmp_path, "base.onnx")
    x = np.random.default_rng(0).standard_normal((64, 1, 6, graphs.WIDTH)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def trained(place: Path, method: str, *options: str, name: str = "out.onnx", seed: int = 0) -> Trained:
    return train(
        place / "base.onnx", method, data=str(place / "data.npz"), output=place / name, seed=seed,
        options=["steps=20", "batch=16", "check=10", "every=2", *options],
    )  # fmt: skip


def stored(path: Path) -> dict[str, Array]:
    return {tensor.name: np.array(numbers(tensor)) for tensor in constants(load(path).graph)}


def test_a_mask_is_learned_and_no_weight_changes(place: Path) -> None:
    before = (place / "base.onnx").read_bytes()
    digest = weights_digest(load(place / "base.onnx"))
    result = trained(place, "mask-only", "sparsity=0.5")
    assert (place / "base.onnx").read_bytes() == before
    assert weights_digest(load(place / "base.onnx")) == digest
    base, after = stored(place / "base.onnx"), stored(place / "out.onnx")
    assert set(result.details["matrices"]) == {"up0", "down0", "up1", "down1"}
    for name, values in after.items():
        kept = values != 0
        # Bit for bit: what stays is what the base has.
        assert np.array_equal(values[kept], base[name][kept])
        assert np.mean(kept) == (0.5 if name in result.details["matrices"] else 1)


def test_many_masks_share_one_base_and_each_gives_its_model_again(place: Path) -> None:
    for seed in (0, 1):
        result = trained(place, "mask-only", "sparsity=0.5", name=f"task{seed}.onnx", seed=seed)
        (masks,) = result.files
        assert masks == place / f"task{seed}.masks"
        # Four matrices of 6144 numbers: a bit each, and a header of names.
        size = 4 * 6144 // 8
        assert size < masks.stat().st_size < size + 1024
        assert mask(place / "base.onnx", masks, place / "again.onnx") == 4
        again, once = stored(place / "again.onnx"), stored(place / f"task{seed}.onnx")
        assert all(np.array_equal(again[name], values) for name, values in once.items())
    assert (place / "task0.masks").read_bytes() != (place / "task1.masks").read_bytes()


def test_the_command_applies_masks(place: Path) -> None:
    trained(place, "mask-only")
    told = CliRunner().invoke(
        main, ["mask", str(place / "base.onnx"), str(place / "out.masks"), "-o", str(place / "again.onnx")]
    )
    assert told.output == f"{place / 'again.onnx'}: 4 weights masked\n"


def test_masks_of_another_base_are_refused(place: Path) -> None:
    trained(place, "mask-only")
    other = load(graphs.saved(graphs.matmul(), place, "other.onnx"))
    learned = weights_digest(load(place / "base.onnx"))[:12]
    with pytest.raises(DataError) as told:
        read_masks(place / "out.masks", other)
    assert str(told.value) == (
        f"{place / 'out.masks'}: learned on weights with sha256 {learned}…, the base has "
        f"{weights_digest(other)[:12]}…. Give the base that they were learned on."
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda _: b"",
        lambda content: content.replace(b'\\"schema\\": 1', b'\\"schema\\": 2'),
        lambda content: content.replace(b"[64, 96]", b"[64, 97]"),
        lambda _: safetensors.numpy.save({"w": np.zeros(3, np.uint8)}),
        lambda _: safetensors.numpy.save({"w": np.zeros(3, np.uint8)}, metadata={"document": "[[[["}),
    ],
)
def test_damaged_masks_are_told_in_one_line(place: Path, damage: Any) -> None:
    model = load(place / "base.onnx")
    content = to_bytes(model, {"up0": np.ones((64, 96), np.bool_)})
    (place / "bad.masks").write_bytes(damage(content))
    with pytest.raises(DataError, match=r"bad\.masks: not a file of masks, or damaged \(.*\)\. Give the masks that "):
        mask(place / "base.onnx", place / "bad.masks", place / "again.onnx")
    assert not (place / "again.onnx").exists()


def test_masking_leaves_the_base_model_alone(place: Path) -> None:
    model = load(place / "base.onnx")
    digest = weights_digest(model)
    result = masked(model, {"up0": np.zeros((64, 96), np.bool_)})
    assert weights_digest(model) == digest
    assert not next(numbers(one) for one in constants(result.graph) if one.name == "up0").any()


def test_movement_keeps_what_moves_away_from_zero(place: Path) -> None:
    result = trained(place, "movement", "sparsity=0.75", "lr=0.002")
    after = stored(place / "out.onnx")
    base = stored(place / "base.onnx")
    for name, one in result.details["matrices"].items():
        assert one["zeros"] == int(one["numbers"] * 0.75) == np.count_nonzero(after[name] == 0)
        kept = after[name] != 0
        assert not np.array_equal(after[name][kept], base[name][kept])
        # Not the largest: magnitude would have kept others.
        largest = np.abs(base[name]) >= np.sort(np.abs(base[name]).ravel())[-kept.sum()]
        assert np.mean(largest[kept]) < 0.9


def test_soft_movement_zeroes_what_falls_under_the_threshold(place: Path) -> None:
    # A score falls by 1 a step along the penalty: sigmoid(-3) is under a tenth.
    result = trained(place, "movement", "soft=yes", "penalty=1000", "score_rate=1.0", "lr=0.002")
    assert 0.5 < result.details["sparsity"] <= 0.995


def test_a_threshold_leaves_half_a_per_cent() -> None:
    scores = torch.linspace(-9, -5, 1000)
    assert int(over(scores, 0.1).sum()) == 5
    assert bool(over(scores, 0.1)[-5:].all())
    assert int(over(scores + 10, 0.1).sum()) == 1000


def test_types_share_out_by_their_scores() -> None:
    layers = [Matrix(f"w{at}", (8, 8), (0,), "linear", ()) for at in range(2)]
    layers.append(Matrix("other", (8, 4), (0,), "linear", ()))
    shares = shares_by_type(layers, {"w0": 0.3, "w1": 0.1, "other": 0.2}, 0.5)
    # Two matrices of a type: 0.5 · 2 · 0.3 / 0.4 and 0.5 · 2 · 0.1 / 0.4; alone in its type: 0.5 · 1 · 1.
    assert shares == {"w0": pytest.approx(0.75), "w1": pytest.approx(0.25), "other": pytest.approx(0.5)}
    assert shares_by_type(layers, {"w0": 0.3, "w1": 0.1, "other": 0.2}, 0.9)["w0"] == 1


@pytest.mark.parametrize(
    ("method", "options", "line"),
    [
        ("movement", ["sparsity=1.0"], "movement: sparsity must be a share in [0, 1), got 1.0."),
        (
            "movement",
            ["begin=0.8", "end=0.2"],
            "movement: begin and end must be shares with 0 <= begin <= end <= 1, got 0.8 and 0.2.",
        ),
        (
            "movement",
            ["soft=yes"],
            "movement: soft needs a penalty above 0, got 0. Give --option penalty=10 or so.",
        ),
        ("mask-only", ["every=0"], "mask-only: every must be at least 1 step, got 0."),
        ("mask-only", ["shares=all"], "mask-only: shares must be one of matrix, type, got 'all'."),
    ],
)
def test_a_wrong_option_is_told_in_one_line(method: str, options: list[str], line: str) -> None:
    with pytest.raises(OptionError) as told:
        settings_of(method, options)
    assert str(told.value) == line
