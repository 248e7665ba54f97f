"""What a machine multiplies, and the page that models stand on beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.ceiling_page import markdown
from benchmarks.peak import OPERATORS, SIZES, Peak, best, product
from onnxprune.runtime import open_session


def _peak(operator: str, gmacs: float) -> Peak:
    return Peak(operator=operator, size=(8, 16, 24), gmacs=gmacs, median_gmacs=gmacs / 2, rounds=3)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_a_product_is_what_its_operator_says(operator: str, tmp_path: Path) -> None:
    model, feed = product(operator, (8, 16, 24))
    path = tmp_path / "product.onnx"
    onnx.save(model, path)
    (out,) = open_session(path).run(feed).values()
    weight = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "weight")
    x = feed["x"].astype(np.float64)
    assert out.shape == (8, 24)
    if operator == "MatMul":
        np.testing.assert_allclose(out, x @ weight, rtol=1e-4, atol=1e-4)
    elif operator == "MatMulInteger":
        np.testing.assert_array_equal(out, (x - 128) @ weight)
    elif operator == "QLinearMatMul":
        # Steps of 0.02 and 0.01 in, 0.5 out around 128.
        wanted = np.clip((x - 128) @ weight * 0.02 * 0.01 / 0.5 + 128, 0, 255)
        assert np.abs(out - wanted).max() <= 0.5 + 1e-3
    else:
        # 16 inputs, each off by half a step of (max - min) / 255 at most, times weights of 127 · 0.01 at most.
        step = (max(x.max(), 0) - min(x.min(), 0)) / 255
        assert np.abs(out - x @ weight * 0.01).max() <= 16 * step / 2 * 1.27


def test_the_best_peak_is_of_floats_or_of_integers() -> None:
    peaks = {"MatMul": _peak("MatMul", 90.0), "MatMulInteger": _peak("MatMulInteger", 900.0)}
    peaks["QLinearMatMul"] = _peak("QLinearMatMul", 800.0)
    assert best(peaks, integer=False).operator == "MatMul"
    assert best(peaks, integer=True).operator == "MatMulInteger"
    assert all(len(size) == 3 for size in SIZES)


def test_the_page_shows_each_form_beside_the_time_at_the_peak() -> None:
    form = {
        "form": "fp32", "median_ms": 4.0, "speedup": 1.0, "low": 1.0, "high": 1.0, "products_share": 0.75,
        # 180 million at 90 thousand million a second: 2 ms.
        "at_peak_ms": 2.0, "times_peak": 2.0, "operators_ms": {"MatMul": 3.0, "Add": 1.0},
    }  # fmt: skip
    result = {
        "machine": {"cpu": "a CPU", "int8_instructions": ["avx2"], "versions": {"onnx": "1"}},
        "rounds": 5,
        "peaks": {"MatMul": {"size": [8, 16, 24], "gmacs": 90.0, "median_gmacs": 45.0}},
        "models": [
            {"model": "m", "macs": 180_000_000, "forms": [form], "streamline": {"ratio": 1.2, "low": 1.1, "high": 1.3}}
        ],
    }
    page = markdown(result)
    assert "| m | fp32 | 180 | 4.00 | 1.00 (1.00 … 1.00) | 75% | 2.00 | 2.0 |" in page
    assert "| m | 1.20 (1.10 … 1.30) |" in page
    assert "| m | fp32 | MatMul 3.00, Add 1.00 |" in page
    assert "| MatMul | 8 x 16 x 24 | 90 | 45 |" in page
