"""What a removal asks of its context, in its own words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxprune.cli import main
from onnxprune.errors import OptionError
from onnxprune.passes import RemoveHeads
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


def test_levels_cut_each_site_to_its_own_count_and_no_other(tmp_path: Path) -> None:
    model = graphs.saved(graphs.attention(), tmp_path)
    options = ["--pass", "remove-heads:score=magnitude,levels=heads.0/1", "-o", str(tmp_path / "o.onnx"), "--json"]
    result = CliRunner().invoke(main, ["optimize", str(model), *options])
    assert result.exit_code == 0, result.output
    (heads,) = (one for one in json.loads(result.stdout)["passes"] if one["pass"].startswith("remove-heads"))
    assert heads["changes"][0]["what"].startswith("3 of 4 heads removed")


@pytest.mark.parametrize("item", ["heads.0", "heads.0/0", "heads.0/x", "/2", "heads.0/1+heads.0/2"])
def test_levels_that_read_otherwise_are_refused(item: str) -> None:
    bad = item.rpartition("+")[2]
    with pytest.raises(OptionError) as caught:
        RemoveHeads(levels=tuple(item.split("+")))
    assert str(caught.value) == (f"remove-heads: levels read SITE/COUNT, COUNT from 1 once a site, got {bad!r}.")
