"""Jobs that are short of memory: sessions in pieces, arrays in files, and the same results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxprune import memory, optimize, validate
from onnxprune.cli import main
from onnxprune.errors import OptionError, OutputError
from onnxprune.inspection import inspect
from onnxprune.memory import (
    job_memory,
    kept,
    map_file,
    memory_limit,
    place_of,
    read_limit,
    release_all,
    short_of_memory,
)
from onnxprune.model import load, save, to_references
from tests import graphs


@pytest.fixture(name="small")
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that fit graphs of a few kilobytes."""
    monkeypatch.setattr(memory, "LEAST_BYTES", 1)
    monkeypatch.setattr(memory, "WORTH_BYTES", 64)


def test_memory_is_short_where_a_job_takes_more_than_it_may() -> None:
    # Six times the weights: 6 · 100 = 600.
    with job_memory(600, 100) as short:
        assert not short
        assert memory_limit() is None
    with job_memory(599, 100) as short:
        assert short
        assert short_of_memory()
        # Sessions may take a third.
        assert memory_limit() == 199
    assert not short_of_memory()


def test_without_a_limit_the_system_says_what_it_can_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "spare_bytes", lambda: 599)
    with job_memory(None, 100) as short:
        assert short
    monkeypatch.setattr(memory, "spare_bytes", lambda: None)
    with job_memory(None, 1 << 60) as short:
        assert not short


def test_large_arrays_lie_in_files_while_memory_is_short() -> None:
    array = np.arange(1 << 19, dtype=np.float32).reshape(512, 1024)[:, ::2]
    assert kept(array) is array
    with job_memory(1, 100):
        stored = kept(array)
        place = place_of(stored)
        assert place is not None
        assert place[0].path.is_file()
        assert not stored.flags.writeable
        assert kept(stored) is stored
        release_all()
        np.testing.assert_array_equal(stored, array)
        assert stored.dtype == array.dtype
        # Less than a page is not worth a file.
        assert place_of(kept(np.ones(10))) is None
    assert not place[0].path.exists()
    # What is still mapped can be read.
    np.testing.assert_array_equal(stored, array)


def test_a_file_of_arrays_goes_with_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHUNK_BYTES", 1)
    with job_memory(1, 100):
        first, second = kept(np.zeros(1 << 20)), kept(np.ones(1 << 20))
        paths = [place[0].path for array in (first, second) if (place := place_of(array)) is not None]
        assert len(set(paths)) == 2
        del first
        assert [path.exists() for path in paths] == [False, True]
        assert second[-1] == 1


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with job_memory(1, 100):
        monkeypatch.setattr(memory.Arena, "_file", full)
        with pytest.raises(OutputError) as caught:
            kept(np.zeros(1 << 20))
    assert str(caught.value) == (
        f"{tmp_path}: large arrays cannot be written: No space left on device. "
        "Set TMPDIR to another folder, or allow more memory with --max-memory."
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("much", "--max-memory must be a size such as 2GB, got 'much'."),
        ("1MB", "--max-memory must be 64MiB or more, got '1MB'."),
        (5, "--max-memory must be 64MiB or more, got 5."),
    ],
)
def test_a_limit_that_nothing_runs_in_is_refused(size: str | int, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_limit(size)
    assert str(caught.value) == message


def test_limits_are_read_as_sizes() -> None:
    assert read_limit(None) is None
    assert read_limit("2GB") == 2_000_000_000
    assert read_limit(1 << 30) == 1 << 30


def test_a_model_refers_to_the_files_that_its_weights_lie_in(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(load(graphs.saved(graphs.feed_forward(), tmp_path, "first.onnx")), path, external=True)
    message, root = to_references(load(path))
    assert root == Path("/")
    assert len(message) < path.with_name("m.onnx.data").stat().st_size
    assert str(tmp_path.resolve()).removeprefix("/").encode() in message


def test_a_mapped_file_says_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(64)))
    held = map_file(tmp_path / "file")
    array = np.frombuffer(held, np.uint8, 8, 16)
    assert place_of(array) == (held, 16)
    assert place_of(array[::2]) is None
    assert place_of(array.copy()) is None


def unsettled(path: Path) -> bytes:
    """A file without what the clock recommends to the session: where memory is short no clock runs."""
    held = path.read_bytes()
    if path.suffix == ".onnx":
        model = onnx.load_from_string(held)
        kept = [entry for entry in model.metadata_props if entry.key != "onnxprune.session"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        return bytes(model.SerializeToString())
    if path.name.endswith(".plan.json"):
        document = json.loads(held)
        # The plan states options, the memory is none of them.
        document["options"].pop("session", None)
        return json.dumps(document).encode()
    return held


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("external", [False, True])
def test_a_result_is_the_same_however_little_memory_there_is(tmp_path: Path, *, external: bool) -> None:
    path = tmp_path / "m.onnx"
    save(load(graphs.saved(graphs.attention(), tmp_path, "first.onnx")), path, external=external)
    passes = ["remove-neurons:keep=0.5,score=magnitude,refit=no", "sparse-int8:activations=none"]
    # The name of a data file stands in the model.
    little, much = (tmp_path / folder / "result.onnx" for folder in ("little", "much"))
    little.parent.mkdir()
    much.parent.mkdir()
    short = optimize(path, output=little, passes=passes, max_memory=1, fresh=True)
    whole = optimize(path, output=much, passes=passes, fresh=True)
    names = sorted(each.name for each in much.parent.iterdir())
    assert names == sorted(each.name for each in little.parent.iterdir())
    for name in names:
        assert unsettled(little.parent / name) == unsettled(much.parent / name)
    assert short.fidelity.score == pytest.approx(whole.fidelity.score, abs=1e-5)
    assert short.timed is None
    assert whole.timed is not None
    document = short.to_json()
    assert document["speedup"] is None
    assert document["after"]["latency_ms"] is None
    assert document["targets"][0]["notes"] == [
        "cpu:1: not timed: a session of the whole model does not fit in the memory that it may take (--max-memory)"
    ]
    assert document.keys() == whole.to_json().keys()


@pytest.mark.usefixtures("small")
def test_looking_and_comparing_say_the_same_however_little_memory_there_is(tmp_path: Path) -> None:
    path = graphs.saved(graphs.attention(), tmp_path)
    assert inspect(path, max_memory=1).to_json() == inspect(path).to_json()
    pair = validate(path, path, max_memory=1), validate(path, path)
    assert pair[0].fidelity.score == pair[1].fidelity.score == 1


@pytest.mark.usefixtures("small")
def test_a_goal_needs_a_clock_and_says_so(tmp_path: Path) -> None:
    path = graphs.saved(graphs.attention(), tmp_path)
    done = CliRunner().invoke(main, ["optimize", str(path), "--speedup", "2", "--max-memory", "100"])
    assert done.exit_code == 2
    assert done.stderr == (
        f"onnxprune: {path}: a goal is reached by timing whole models, and this one is too large for the memory it may "
        "take. Allow more with --max-memory, or say with --pass what is to be done.\n"
    )
    assert not list(tmp_path.glob("*.optimized*"))


@pytest.mark.usefixtures("small")
def test_a_plan_replays_to_the_same_bytes_with_little_memory(tmp_path: Path) -> None:
    path = graphs.saved(graphs.attention(), tmp_path)
    made = optimize(path, output=tmp_path / "made.onnx", passes=["sparse-int8"], fresh=True)
    again = tmp_path / "again.onnx"
    done = CliRunner().invoke(
        main, ["apply", str(path), str(made.plan), "-o", str(again), "--max-memory", "1", "--json"]
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["size_bytes"] == again.stat().st_size
    assert again.read_bytes() == made.output.read_bytes()
