"""`check package.module:factory`: what the passes will find in both exports, and what is left of pruned units."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import Result

from onnxprune import pipeline
from tests import commands

NETWORKS = "tests.exporting.networks"


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)


def run(*arguments: str) -> Result:
    return commands.run("check", *arguments)


def answer(*arguments: str, code: int) -> Any:
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    return json.loads(result.stdout)


def test_masks_are_found_and_their_units_disappear_from_both_exports() -> None:
    document = answer(f"{NETWORKS}:masked", code=0)
    assert [(one["rule"], one["where"], one["what"]) for one in document["findings"]] == [
        ("masks-left", "weight '0.weight'", "pruning mask")
    ]
    module, *exports = document["models"]
    assert (module["model"], module["export"]) == (f"{NETWORKS}:masked", None)
    assert [one["model"] for one in exports] == [f"{NETWORKS}:masked (torchscript)", f"{NETWORKS}:masked (dynamo)"]
    for one in exports:
        export = one["export"]
        assert export.keys() == {
            "exporter", "dynamic", "failure", "sites", "pinned", "notes", "pruned", "predicted",
        }  # fmt: skip
        assert export["dynamic"]
        # A quarter of 128 outputs.
        assert export["pruned"] == [
            {"parameter": "0.weight", "side": "outputs", "zero": 32, "units": 128, "disappear": 32, "why": None}
        ]
        assert [(site["id"], site["units"], site["dead_units"]) for site in export["sites"]][-2:] == [
            ("neurons.0", 128, 32),
            ("neurons.1", 64, 0),
        ]
        after = export["predicted"]
        # 64·128 + 128·64 + 64·10, then 96 in place of 128; the bias is in neither.
        assert after["macs"] == {"before": 17024, "after": 12928}
        assert after["size_bytes"]["after"] < 0.3 * after["size_bytes"]["before"]
        assert after["latency_ms"]["before"] > 0
        wanted = f"measured on cpu:1 by optimizing the {export['exporter']} export with the default passes"
        assert after["label"] == wanted


def test_pruned_units_that_must_stay_are_named_with_the_reason() -> None:
    document = answer(f"{NETWORKS}:pruned", code=1)
    stay = [one for one in document["findings"] if one["rule"] == "pruned-units-stay"]
    assert [one["where"] for one in stay] == ["weight 'o.weight'"] * 2
    assert all(
        one["what"].startswith("5 of 64 outputs are zero, 0 of them will disappear: LayerNormalization") for one in stay
    )
    for one in document["models"][1:]:
        fates = {each["parameter"]: (each["zero"], each["disappear"]) for each in one["export"]["pruned"]}
        # Sixteen rows of the first head's values; the gated head has zeros in no weight.
        assert fates == {"v.weight": (16, 16), "o.weight": (5, 0), "up.weight": (32, 32)}
        kinds = {site["id"]: (site["units"], site["dead_units"]) for site in one["export"]["sites"]}
        assert kinds["heads.0"] == (4, 2)
        assert kinds["neurons.0"] == (256, 32)
        assert {"block.0", "block.1", "linear.0"} <= set(kinds)


def test_a_sound_module_passes_and_is_previewed() -> None:
    result = run(f"{NETWORKS}:sound")
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines.count("heads: 1, 4 units") == 2
    assert lines.count("neurons: 1, 256 units") == 2
    assert lines.count("block: 2") == 2
    assert sum(line.startswith("after: ") for line in lines) == 2
    assert sum(line.startswith("pinned: ") for line in lines) >= 2
    assert lines[-1] == "passed (fails on: warning)"


def test_a_norm_that_the_exporter_folds_hides_no_pruned_channel() -> None:
    for one in answer(f"{NETWORKS}:normalised", code=0)["models"][1:]:
        (pruned,) = one["export"]["pruned"]
        assert pruned == {
            "parameter": "0.weight", "side": "outputs", "zero": 4, "units": 16, "disappear": 4, "why": None,
        }  # fmt: skip


def test_the_row_of_the_padding_is_no_pruned_unit() -> None:
    for one in answer(f"{NETWORKS}:padded", code=0)["models"][1:]:
        assert one["export"]["pruned"] == []


def test_an_export_that_fails_is_a_finding(capfd: pytest.CaptureFixture[str]) -> None:
    document = answer(f"{NETWORKS}:restless", code=1)
    # Nothing that the exporters print from C++ gets through.
    assert capfd.readouterr() == ("", "")
    failed = [one for one in document["findings"] if one["rule"] == "exporter-failed"]
    assert [one["where"] for one in failed] == ["exporter torchscript", "exporter dynamo"]
    assert {one["severity"] for one in failed} == {"error"}
    assert all(one["export"]["failure"] for one in document["models"][1:])
    assert "does-not-load" in document["models"][1]["not_checked"]


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        ("nothing", "must return a torch.nn.Module or (module, example inputs), got int. Return one."),
        ("failing", "it raised ValueError: no weights at all. Mend the factory."),
        (
            "misfed",
            (
                "the module fails on its example inputs: mat1 and mat2 shapes cannot be multiplied (2x5 and 4x4). "
                "Give inputs of its types and shapes."
            ),
        ),
        ("unguessable", "no made-up inputs run. Return (module, example inputs) from the factory."),
    ],
)
def test_a_factory_at_fault_is_one_line(factory: str, line: str) -> None:
    result = run(f"{NETWORKS}:{factory}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnxprune: {NETWORKS}:{factory}: {line}\n"


def test_without_torch_a_factory_is_one_line() -> None:
    lines = [
        "import sys",
        "sys.modules['torch'] = None",
        "from onnxprune.cli import main",
        "main(['check', 'package.module:make'])",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "onnxprune: check package.module:make needs torch. Install it: pip install 'onnxprune[torch]'.\n"
    )
