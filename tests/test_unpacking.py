"""A packed file as a dense one: the same bytes as before packing, and one clear line where that cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxprune import optimize, pipeline, unpack
from onnxprune.cli import main
from onnxprune.model import load
from onnxprune.packing import find_packed
from tests import graphs


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMING_S", 0.02)
    # What a file recommends is the clock's to say, and files are held against each other to the byte.
    monkeypatch.setattr(pipeline, "advise", lambda *_: None)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and all that a command says."""
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_unpacking_undoes_packing() -> None:
    graphs.saved(graphs.compressible(), Path())
    optimize("model.onnx", output="dense.onnx", passes=["simplify"])
    optimize("dense.onnx", output="packed.onnx", passes=["pack-weights"])
    assert len(find_packed(load("packed.onnx").graph)) == 2
    assert Path("packed.onnx").stat().st_size < 0.7 * Path("dense.onnx").stat().st_size
    assert run("unpack", "packed.onnx", "-o", "again.onnx") == (0, "again.onnx: written, 2 weights unpacked\n")
    assert Path("again.onnx").read_bytes() == Path("dense.onnx").read_bytes()


def test_a_packed_model_is_optimized_like_a_dense_one_and_stays_packed() -> None:
    graphs.saved(graphs.compressible(), Path())
    optimize("model.onnx", output="packed.onnx", passes=["pack-weights"])
    # No form that the clock may choose.
    specs = ["sparse-int8:linears=stored", "pack-weights"]
    first = optimize("model.onnx", output="first.onnx", passes=specs)
    second = optimize("packed.onnx", output="second.onnx", passes=specs)
    assert [report.changes for report in first.reports][1:] == [report.changes for report in second.reports][1:]
    assert Path("first.onnx").read_bytes() == Path("second.onnx").read_bytes()
    third = optimize("packed.onnx", output="third.onnx", passes=["simplify"])
    assert [report.pass_spec for report in third.reports] == ["simplify", "pack-weights"]
    assert Path("third.onnx").read_bytes() == Path("packed.onnx").read_bytes()


def test_a_plan_that_packs_gives_the_same_bytes_again() -> None:
    graphs.saved(graphs.compressible(), Path())
    optimize("model.onnx", output="packed.onnx", passes=["pack-weights"])
    assert run("apply", "model.onnx", "packed.plan.json", "-o", "replayed.onnx") == (0, "replayed.onnx: written\n")
    assert Path("replayed.onnx").read_bytes() == Path("packed.onnx").read_bytes()
    # A plan made for the packed file starts from its dense weights, too.
    optimize("packed.onnx", output="twice.onnx", passes=["sparse-int8"])
    run("apply", "packed.onnx", "twice.plan.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path("twice.onnx").read_bytes()


def test_what_is_not_packed_is_copied() -> None:
    graphs.saved(graphs.matmul(), Path())
    optimize("model.onnx", output="plain.onnx", passes=["simplify"])
    assert unpack("plain.onnx", "copy.onnx") == 0
    assert Path("copy.onnx").read_bytes() == Path("plain.onnx").read_bytes()


def test_what_cannot_be_unpacked_is_said_in_one_line() -> None:
    graphs.saved(graphs.matmul(), Path())
    assert run("unpack", "none.onnx", "-o", "out.onnx") == (
        2,
        "onnxprune: none.onnx: no such file. Name an existing .onnx file.\n",
    )
    shutil.copy("model.onnx", "same.onnx")
    assert run("unpack", "same.onnx", "-o", "same.onnx") == (
        2,
        "onnxprune: same.onnx: is the input itself. Choose another place with --output.\n",
    )
    assert run("unpack", "model.onnx", "-o", "nowhere/out.onnx") == (
        2,
        "onnxprune: nowhere: no such folder. Make it or choose another place with --output.\n",
    )


def test_a_plan_for_a_packed_file_is_blamed_on_its_dense_weights() -> None:
    graphs.saved(graphs.compressible(), Path())
    optimize("model.onnx", output="packed.onnx", passes=["pack-weights"])
    optimize("packed.onnx", output="small.onnx", passes=["sparse-int8:linears=stored"])
    code, text = run("blame", "packed.onnx", "small.onnx", "--plan", "small.plan.json", "--samples", "2")
    assert code == 0, text
    assert "sparse-int8.embedding.0" in text
