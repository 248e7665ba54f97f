"""What a removal asks of its context, in its own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxprune.cli import main
from tests import graphs


@pytest.mark.parametrize("keep", ["1", "0.5", "2"])
def test_a_score_of_inputs_asks_for_samples(keep: str, tmp_path: Path) -> None:
    """The count 1 too, which equals the share 1.0 for Python."""
    model = graphs.saved(graphs.attention(), tmp_path)
    result = CliRunner().invoke(main, ["optimize", str(model), "--pass", f"remove-heads:keep={keep}"])
    assert result.exit_code == 2
    assert result.stderr == (
        "onnxprune: remove-heads: score=obs needs sample inputs. Give --data, or score=magnitude, or "
        "--allow-synthetic to calibrate on made-up ones.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_a_share_of_one_asks_for_nothing(tmp_path: Path) -> None:
    model = graphs.saved(graphs.attention(), tmp_path)
    result = CliRunner().invoke(
        main, ["optimize", str(model), "--pass", "remove-heads", "-o", str(tmp_path / "o.onnx")]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "o.onnx").exists()
