"""Results appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from onnxprune import files
from onnxprune.errors import OutputError
from onnxprune.files import atomic, free_name, require_space, scratch


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with atomic(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    def write_half() -> None:
        with atomic(tmp_path / "result") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "result"
    with pytest.raises(OutputError) as caught, atomic(path):
        pass
    assert str(caught.value) == (
        f"{path}: cannot be written: No such file or directory. Choose another place with --output."
    )


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"), atomic(tmp_path / ("x" * 300)):
        pass


def test_a_folder_in_the_way_is_one_line_and_stays(tmp_path: Path) -> None:
    (tmp_path / "result" / "kept").mkdir(parents=True)
    with pytest.raises(OutputError, match="Is a directory"), atomic(tmp_path / "result") as file:
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result" / "kept").is_dir()


def test_results_have_the_mode_of_new_files_whatever_the_mask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic(tmp_path / "result"):
            pass
    finally:
        os.umask(old)
    assert (tmp_path / "result").stat().st_mode & 0o777 == 0o640


def test_a_free_name_is_the_first_that_nobody_has(tmp_path: Path) -> None:
    assert free_name(tmp_path / "m.data") == tmp_path / "m.data"
    (tmp_path / "m.data").touch()
    assert free_name(tmp_path / "m.data") == tmp_path / "m.1.data"
    (tmp_path / "m.1.data").touch()
    assert free_name(tmp_path / "m.data") == tmp_path / "m.2.data"


def test_a_file_has_no_name_before_it_is_whole(tmp_path: Path) -> None:
    """So a process that is killed leaves nothing; where a system has no such files, a temporary name stands there."""
    with atomic(tmp_path / "result"):
        assert not list(tmp_path.iterdir())


def test_without_files_that_have_no_name_a_temporary_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    with atomic(tmp_path / "result") as file:
        file.write(b"whole")
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    assert (tmp_path / "result").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_has_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    require_space(tmp_path / "m.onnx", 1_500_000)
    with pytest.raises(OutputError) as caught:
        require_space(tmp_path / "m.onnx", 2_000_000)
    assert str(caught.value) == (
        f"{tmp_path / 'm.onnx'}: needs 2,000 kB, the disk has 1,500 kB free. "
        "Make room, or choose another place with --output."
    )
    with scratch() as folder, pytest.raises(OutputError, match=r"or set TMPDIR to another folder\.$"):
        require_space(folder / "m.onnx", 2_000_000)


def test_a_killed_process_leaves_its_folder_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(files, "_ABANDONED_S", -1.0)
    left = tmp_path / "onnxprune-left"
    left.mkdir()
    (left / "weights").write_bytes(b"many")
    (left / ".lock").touch()
    other = tmp_path / "onnxprune-none-of-ours"
    other.mkdir()
    with scratch() as mine:
        (mine / "weights").touch()
        assert not left.exists()
        with scratch() as second:
            # What is in use stays, and so does what has no lock.
            assert set(tmp_path.iterdir()) == {mine, second, other}
    assert list(tmp_path.iterdir()) == [other]
