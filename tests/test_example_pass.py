"""The example of a pass of one's own: installed as a stranger would, and held to the laws that ours are held to."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxprune import apply, optimize, passes, pipeline
from onnxprune.errors import OptionError, PlanError
from tests import graphs

PACKAGE = Path(__file__).parents[1] / "examples" / "onnxprune-shorten-mantissas"


@pytest.fixture(name="example")
def _example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The pass, found by the entry point that its package declares."""
    site = tmp_path / "site"
    information = site / "onnxprune_shorten_mantissas-0.1.0.dist-info"
    information.mkdir(parents=True)
    information.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxprune-shorten-mantissas\nVersion: 0.1.0\n"
    )
    declared = (PACKAGE / "pyproject.toml").read_text().partition('[project.entry-points."onnxprune.passes"]\n')[2]
    line = declared.partition("\n")[0].replace('"', "")
    information.joinpath("entry_points.txt").write_text(f"[onnxprune.passes]\n{line}\n")
    monkeypatch.setattr(sys, "path", [str(site), str(PACKAGE), *sys.path])
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    passes.known.cache_clear()
    yield passes.known()["shorten-mantissas"]
    passes.known.cache_clear()
    sys.modules.pop("shorten_mantissas", None)


def test_a_pass_of_ones_own_does_what_ours_do(tmp_path: Path, example: Any) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    before = path.read_bytes()
    result = optimize(path, output=tmp_path / "short.onnx", passes=["shorten-mantissas:bits=4"], fidelity="off")
    assert path.read_bytes() == before
    (report,) = [one for one in result.reports if one.pass_spec.startswith(example.name)]
    assert report.pass_spec.endswith(":bits=4")
    assert {change.what for change in report.changes} == {"4 bits of mantissa"}
    assert result.after.gzip_bytes < result.before.gzip_bytes
    # 4 bits of mantissa are off by 1/32 of each number at most: close, and not the same.
    assert 0.99 < result.fidelity.score < 1
    apply(path, result.plan, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "short.onnx").read_bytes()
    second = optimize(tmp_path / "short.onnx", passes=["shorten-mantissas:bits=4"], fidelity="off")
    (report,) = [one for one in second.reports if one.pass_spec.startswith(example.name)]
    assert not report.changes
    assert {skip.why for skip in report.skips} == {"its mantissas are short already"}


def test_a_damaged_plan_of_it_is_refused_in_one_line(tmp_path: Path, example: Any) -> None:
    path = graphs.saved(graphs.feed_forward(), tmp_path)
    result = optimize(path, output=tmp_path / "short.onnx", passes=[example.name], fidelity="off")
    document = json.loads(result.plan.read_text())
    edit = next(one for one in document["edits"] if one["pass"] == example.name)
    edit["args"]["bits"] = 99
    result.plan.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="The plan does not fit the model"):
        apply(path, result.plan, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_an_option_that_cannot_be_is_refused(example: Any) -> None:
    with pytest.raises(OptionError) as caught:
        example(bits=24)
    assert str(caught.value) == "shorten-mantissas: bits must be from 1 to 23, got 24."


def _shortened(weight: Any, bits: int) -> Any:
    spec = importlib.util.spec_from_file_location("shorten_mantissas_alone", PACKAGE / "shorten_mantissas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.shortened(weight, bits)


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, st.integers(1, 8), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)),
    st.integers(1, 23),
)
def test_each_number_is_off_by_no_more_than_its_docstring_says(weight: Any, bits: int) -> None:
    found = _shortened(weight, bits)
    assert np.all(np.abs(found - weight) <= np.abs(weight) * 2.0 ** -(bits + 1))
    assert np.array_equal(_shortened(found, bits), found)


@pytest.mark.timeout(180)
def test_it_installs_as_its_page_says(tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "shorten_mantissas.py", "README.md"):
        (source / name).write_bytes((PACKAGE / name).read_bytes())
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "onnxprune", "passes", "shorten-mantissas"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "shorten-mantissas: Keep few bits of each float weight's mantissa." in done.stdout
    assert "bits=7" in done.stdout
