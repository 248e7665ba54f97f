"""Files beyond what one message holds, and numbers that are narrower than a float: from the command line, whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxprune import pipeline, subject
from onnxprune.cli import main
from onnxprune.graph import constants
from onnxprune.model import data_files, load, writing
from tests import graphs
from tests.test_model import call_a_local_function, read_bfloat16, read_int4


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    monkeypatch.setattr(subject, "RACE_S", 0.02)


def optimized(path: Path, *options: str) -> Path:
    out = path.with_name("out.onnx")
    done = CliRunner().invoke(main, ["optimize", str(path), "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize("make", [graphs.feed_forward, read_bfloat16, read_int4, call_a_local_function])
def test_what_is_too_large_for_a_message_gets_a_data_file(
    make: graphs.Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = graphs.saved(make(), tmp_path)
    # In place of 2 GiB: less than any of these models has, by one pass that keeps its numbers.
    monkeypatch.setattr(writing, "INLINE_LIMIT_BYTES", 1000)
    out = optimized(path, "--pass", "simplify")
    assert data_files(out) == (tmp_path / "out.onnx.data",)
    assert out.stat().st_size < data_files(out)[0].stat().st_size
    feeds = graphs.feeds_for(path)
    expected, obtained = graphs.outputs_of(path, feeds), graphs.outputs_of(out, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(obtained[name], value, rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(str(out), full_check=True)


@pytest.mark.parametrize("make", [read_bfloat16, read_int4])
def test_the_default_job_makes_narrow_numbers_no_wider(make: graphs.Maker, tmp_path: Path) -> None:
    path = graphs.saved(make(), tmp_path)
    out = optimized(path)
    assert out.stat().st_size <= path.stat().st_size + 200
    feeds = graphs.feeds_for(path)
    expected, obtained = graphs.outputs_of(path, feeds)["y"], graphs.outputs_of(out, feeds)["y"]
    # Eight bits a weight at worst: half a step in 127 is 0.4 % of the largest, and errors add up as squares.
    assert np.linalg.norm(obtained - expected) < 0.02 * np.linalg.norm(expected)


def test_a_local_function_is_inlined_and_what_it_multiplies_is_cut_and_quantized(tmp_path: Path) -> None:
    path = graphs.saved(call_a_local_function(), tmp_path)
    out = optimized(path, "--pass", "sparse-int8:activations=none")
    assert not onnx.load(out).functions
    assert any(np.dtype(tensor.dtype) == np.int8 for tensor in constants(load(out).graph))
    assert out.stat().st_size < 0.5 * path.stat().st_size
