"""The fixtures are the files that their cards describe, and score what their cards say."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/make.py"))
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
SIGNATURES = {
    "fashion-convnet": {"input": (FLOAT, ["batch", 1, 28, 28]), "logits": (FLOAT, ["batch", 10])},
    "gloss-classifier": {
        "input_ids": (INT64, ["batch", "sequence"]),
        "attention_mask": (INT64, ["batch", "sequence"]),
        "logits": (FLOAT, ["batch", 25]),
    },
    "gloss-gpt": {"input_ids": (INT64, ["batch", "sequence"]), "logits": (FLOAT, ["batch", "sequence", 1024])},
}


def card_of(name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((FIXTURES / name / "card.json").read_text(encoding="utf-8"))
    return card


def arrays_of(name: str, file: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(FIXTURES / name / file) as stored:
        return dict(stored)


def test_every_maker_has_a_signature_here() -> None:
    assert list(SIGNATURES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_the_card_and_a_model_is_under_6_mb(name: str) -> None:
    for file, listed in card_of(name)["files"].items():
        content = (FIXTURES / name / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == listed["sha256"]
        assert len(content) == listed["size_bytes"] < 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_the_stated_signature(name: str) -> None:
    graph = onnx.load(FIXTURES / name / "model.onnx").graph
    assert {
        value.name: (
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    } == SIGNATURES[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_scores_what_its_card_says(name: str) -> None:
    """Another machine's kernels round logits by about 1e-6.

    A perplexity moves as much as they do, with a margin of ten; a share of samples moves by whole samples, of which one
    may stand on a tie.
    """
    card = card_of(name)
    score = runpy.run_path(str(FIXTURES / "score.py"))["score"]
    tolerance = 1e-5 * card["value"] if card["score"] == "perplexity" else 1 / card["n"]
    assert score(name, FIXTURES / name / "model.onnx") == pytest.approx(card["value"], abs=tolerance, rel=0)


@pytest.mark.parametrize("name", NAMES)
def test_stored_arrays_fit_the_model_and_calibration_has_no_labels(name: str) -> None:
    session = ort.InferenceSession(FIXTURES / name / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = {value.name for value in session.get_inputs()}
    samples, calibration = arrays_of(name, "samples.npz"), arrays_of(name, "calibration.npz")
    assert set(samples) - {"labels"} == set(calibration) == inputs
    assert {len(value) for value in samples.values()} == {card_of(name)["n"]}
    # Two samples at once and one alone: the batch is dynamic.
    pair = session.run(["logits"], {key: value[:2] for key, value in calibration.items()})[0]
    alone = session.run(["logits"], {key: value[:1] for key, value in calibration.items()})[0]
    np.testing.assert_allclose(pair[:1], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_no_calibration_sample_is_a_held_out_one(name: str) -> None:
    samples, calibration = (
        {
            # Pads differ with the longest of a file: what was read counts.
            row[row != 0].tobytes()
            for row in (arrays["input"] if "input" in arrays else arrays["input_ids"])
        }
        for arrays in (arrays_of(name, "samples.npz"), arrays_of(name, "calibration.npz"))
    )
    assert not samples & calibration


@pytest.mark.parametrize("name", NAMES)
def test_a_model_names_no_folder_of_the_machine_that_made_it(name: str) -> None:
    content = (FIXTURES / name / "model.onnx").read_bytes()
    assert not any(mark in content for mark in (b"/home/", b"/root/", b"/usr/", b"/tmp/", b"/site-packages"))


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_states_the_hash_of_the_model(name: str) -> None:
    readme = (FIXTURES / "README.md").read_text(encoding="utf-8")
    assert f"{card_of(name)['files']['model.onnx']['sha256']}  {name}/model.onnx" in readme


def test_perplexity_of_a_known_distribution() -> None:
    """Half the mass on each of two next tokens is perplexity 2, whatever is said of the first token."""
    perplexity = runpy.run_path(str(FIXTURES / "score.py"))["perplexity"]
    logits = np.full((1, 4, 3), 5.0, np.float32)
    logits[..., 2] = -np.inf
    assert perplexity(logits, np.array([[2, 0, 1, 1]])) == pytest.approx(2)
