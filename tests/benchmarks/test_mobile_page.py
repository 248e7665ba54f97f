"""The page of mobile-class targets: figures of the kind that was measured, and no others."""

from __future__ import annotations

from typing import Any

from benchmarks.mobile_page import markdown

PLACED: dict[str, Any] = {
    "provider": "XnnpackExecutionProvider",
    "counts": {"XnnpackExecutionProvider": 2, "CPUExecutionProvider": 1},
    "partitions": 1,
    "fallen": [],
}


GIVEN_UP = ["slower here", *(f"under the floor; alone it costs {cost}" for cost in ("0.3", "0.1", "0.2"))]


def cell(**figures: Any) -> dict[str, Any]:
    return {"model": "m.onnx", "placement": PLACED, **figures}


def wall(ms: float, ratio: float) -> dict[str, Any]:
    return cell(latency_ms={"median": ms}, speedup={"ratio": ratio, "low": ratio, "high": ratio, "runs": 11})


def page() -> str:
    counted = [cell(instructions=4e6, speedup={"ratio": 1.0}), cell(instructions=2e6, speedup={"ratio": 2.0})]
    nnapi: dict[str, Any] = {"provider": "NnapiExecutionProvider", "counts": {"NnapiExecutionProvider": 3}}
    forecast = [nnapi | {"partitions": 1, "verdict": "yes", "form": "NNAPI"}]
    figures = {
        "m xnnpack": {"latency": "wall", "models": [wall(8.0, 1.0), wall(4.0, 2.0)]},
        "m arm64": {"latency": "instructions", "models": counted, "input": "1x8"},
        "m nnapi": {"latency": "none", "models": [cell(forecasts=forecast)] * 2},
    }
    made = {"m xnnpack": {"size_share": 0.25, "fidelity": 0.99, "given_up": GIVEN_UP, "notes": []}}
    apart: dict[str, Any] = {"moved": 1e-3, "xnnpack": 1e-6, "web": 2e-3, "arm64": 1e-3}
    agreement = {
        "m xnnpack": {**apart, "integers": "none", "fp32": 3e-2, "moved": 1e-6, "arm64": "opset 23"},
        "m cpu:1": {**apart, "integers": "dynamic products", "fp32": 3e-3},
        "m web": {**apart, "integers": "dynamic products", "fp32": 1e-3},
    }
    result = {"figures": figures, "made": made, "agreement": agreement, "missing": {"web": "not set up"}}
    return markdown(result, ["m"], ["xnnpack", "arm64", "nnapi"])


def test_each_figure_has_its_kind() -> None:
    assert "| m | xnnpack | ms | 8 | 4 | 2.00 [2.00, 2.00] | 2 of 3 → 2 of 3 | 0.25 | 0.9900 |" in page()
    assert "| m 1x8 | arm64 | M instructions | 4 | 2 | 2.00 | 2 of 3 → 2 of 3 |  |  |" in page()
    forecast = next(line for line in page().splitlines() if line.startswith("| m | nnapi"))
    assert "forecast | yes: 1 partition (NNAPI) | yes: 1 partition (NNAPI) |  |" in forecast


def test_a_distance_is_held_against_the_tolerance_of_its_arithmetic() -> None:
    # 2e-3 is too far for sums of floats; integers may be as far apart as they are from fp32.
    assert "| m | xnnpack | none | 1.0e-06 | 2.0e-03 | declined: opset 23 | 3.0e-02 | 1.0e-06 | **no** |" in page()
    assert "| m | cpu:1 | dynamic products | 1.0e-06 | 2.0e-03 | 1.0e-03 | 3.0e-03 | 1.0e-03 | yes |" in page()
    assert "| m | web | dynamic products | 1.0e-06 | 2.0e-03 | 1.0e-03 | 1.0e-03 | 1.0e-03 | **no** |" in page()


def test_what_is_missing_or_given_up_is_said() -> None:
    assert "Left out: `web` not set up." in page()
    assert "| m | xnnpack | slower here |" in page()
    assert "| m | xnnpack | under the floor; alone each costs 0.1 to 0.3 |" in page()
