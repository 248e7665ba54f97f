"""The fixtures' trained models: everything is found in them, and cut exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data import load_samples
from onnxprune.inspection import inspect
from onnxprune.model import load
from onnxprune.runtime import open_session
from onnxprune.synthetic import probes
from tests.equality import BOUND, compare, traced
from tests.matrix.cells import removals

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Sites that can be cut: a classifier of 4 layers with a dense head, a decoder of 6, residual convolutions.
SITES = {
    "gloss-classifier": {"heads": 4, "neurons": 5, "block": 8},
    "gloss-gpt": {"heads": 6, "neurons": 6, "block": 12},
    "fashion-convnet": {"channels": 7, "block": 3},
}


@pytest.mark.parametrize("name", SITES)
def test_every_site_of_a_trained_model_is_found_and_nothing_is_dead(name: str) -> None:
    found = inspect(FIXTURES / name / "model.onnx")
    held = Counter(site.kind for site in found.sites if not site.pinned)
    assert {kind: count for kind, count in held.items() if kind not in {"linear", "embedding"}} == SITES[name]
    # Training zeroed nothing, though a unit may well be silent on some input.
    assert not any(found.dead_units.values())


@pytest.mark.parametrize("name", SITES)
def test_cut_units_of_a_trained_model_equal_masked_ones(name: str) -> None:
    """All sites at once, at sizes that were not traced."""
    path = FIXTURES / name / "model.onnx"
    session, model = open_session(path), load(path)
    samples = load_samples(str(FIXTURES / name / "calibration.npz"), session.inputs).feeds
    held = traced(model, probes(model, session, samples[0]))
    chosen, heads, neurons = removals(held.dimensions)
    assert (heads, neurons) == (SITES[name].get("heads", 0), len(chosen) - heads)
    checks = [samples[0], {key: np.repeat(value, 3, axis=0) for key, value in samples[1].items()}]
    error, moved = compare(held, chosen, checks)
    assert error <= BOUND
    assert moved > 0.01
