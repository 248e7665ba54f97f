"""What is kept for the next run: whole or not at all, checked when read, bounded, never in the way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxprune import store as store_module
from onnxprune.cli import main
from onnxprune.errors import OptionError
from onnxprune.store import LIMIT_BYTES, Store, Tables, digest_of, key_of, open_store

KEY = key_of("a")
DOCUMENT = {"edits": [{"id": "ü", "share": 0.1}], "none": None}
ARRAYS: dict[str, Any] = {
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(0.5, np.float16),
    "empty": np.zeros((0, 3)),
    "flags": np.array([True, False]),
}


def only_file(store: Store) -> Path:
    (entry,) = store.entries()
    return entry.path


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    store.put("step", KEY, DOCUMENT, ARRAYS)
    held = Store(tmp_path / "new" / "folder").get("step", KEY)
    assert held is not None
    assert held.document == DOCUMENT
    assert held.tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(held.tensors[name], array, strict=True)
    assert store.get("step", key_of("b")) is None
    assert store.get("table", KEY) is None
    assert store.notes == []


def test_only_the_user_may_read_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "folder")
    store.put("step", KEY, DOCUMENT)
    assert (tmp_path / "folder").stat().st_mode & 0o077 == 0
    assert only_file(store).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", ["", "..", "a/b", "a-b", "A"])
def test_a_kind_never_leads_out_of_the_folder(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="no kind and digest"):
        Store(tmp_path).get(kind, KEY)
    with pytest.raises(ValueError, match="no kind and digest"):
        Store(tmp_path).put("step", f"{KEY[:-3]}/..", DOCUMENT)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def forged(path: Path) -> None:
    """Another document under the old digest."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    safetensors.numpy.save_file({}, path, metadata={**metadata, "document": '{"edits": []}'})


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a bit flipped": flipped,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("import os"),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04\x95\x00."),
    "an endless header": lambda path: path.write_bytes(b"\xff" * 64),
    "no metadata": lambda path: safetensors.numpy.save_file({"a": np.zeros(3)}, path),
    "another document": forged,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_removed_with_a_note(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    store.put("step", KEY, DOCUMENT, ARRAYS)
    DAMAGE[damage](only_file(store))
    assert store.get("step", KEY) is None
    assert store.entries() == []
    (note,) = store.notes
    assert note.startswith("cache: step: an entry was damaged (")
    assert note.endswith(") and is computed anew")
    assert "\n" not in note
    store.put("step", KEY, DOCUMENT, ARRAYS)
    assert store.get("step", KEY) is not None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), byte=st.integers(0, 255))
def test_no_byte_can_be_changed_unseen(tmp_path: Path, place: int, byte: int) -> None:
    store = Store(tmp_path)
    store.put("step", KEY, DOCUMENT, ARRAYS)
    path = only_file(store)
    content = bytearray(path.read_bytes())
    place %= len(content)
    same = content[place] == byte
    content[place] = byte
    path.write_bytes(content)
    held = store.get("step", KEY)
    if held is not None and not same:
        # Blanks of the header say nothing; what is read is what was written.
        assert held.document == DOCUMENT
        assert digest_of("", held.tensors) == digest_of("", ARRAYS)


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=40_000)
    keys = [key_of(at) for at in range(4)]
    for at, key in enumerate(keys[:3]):
        store.put("step", key, at, {"a": np.zeros(1250)})
        # Clocks of file systems are coarse.
        os.utime(tmp_path / f"step-{key}.safetensors", (at, at))
    assert store.get("step", keys[0]) is not None
    store.put("step", keys[3], 3, {"a": np.zeros(1250)})
    # Three of 10 kB and a header each fit: the one used last stays, though it is the oldest.
    assert [store.get("step", key) is not None for key in keys] == [True, False, True, True]
    assert sum(entry.size_bytes for entry in store.entries()) <= 40_000


def test_what_would_fill_the_cache_alone_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=1000)
    store.put("statistics", KEY, 0, {"a": np.zeros(100)})
    assert store.entries() == []
    assert store.notes == ["cache: statistics: too large to keep; a killed run computes it anew"]


def test_what_a_killed_run_left_is_swept_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = tmp_path / ".step.1.part", tmp_path / ".step.2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    store.put("step", KEY, DOCUMENT)
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "folder")
    store.put("step", KEY, DOCUMENT)
    assert store.get("step", KEY) is None
    assert store.notes == ["cache: step: cannot be kept (Not a directory); a killed run computes it anew"]


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store_module.FOLDER_VARIABLE, "off")
    store = open_store()
    store.put("step", KEY, DOCUMENT)
    assert (store.get("step", KEY), store.entries(), store.notes) == (None, [], [])


def test_runs_at_the_same_time_do_not_clash(tmp_path: Path) -> None:
    def work(at: int) -> bool:
        store = Store(tmp_path, limit_bytes=30_000)
        for turn in range(20):
            key = key_of((at + turn) % 3)
            store.put("step", key, (at + turn) % 3, {"a": np.full(1000, (at + turn) % 3)})
            held = store.get("step", key)
            if held is not None and held.tensors["a"][0] != held.document:
                return False
        return store.notes == []

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert not list(tmp_path.glob("*.part"))


def test_tables_keep_values_by_any_key(tmp_path: Path) -> None:
    tables = Tables(Store(tmp_path), "table", key_of("base"))
    tables.save("a/b, c=1", [1, 2.5])
    assert tables.load("a/b, c=1") == [1, 2.5]
    assert Tables(Store(tmp_path), "table", key_of("base")).load("a/b, c=1") == [1, 2.5]
    assert Tables(Store(tmp_path), "table", key_of("other")).load("a/b, c=1") is None
    fresh = Tables(Store(tmp_path), "table", key_of("base"), fresh=True)
    assert fresh.load("a/b, c=1") is None
    fresh.save("a/b, c=1", 3)
    assert fresh.load("a/b, c=1") == 3


@pytest.mark.parametrize(
    ("text", "limit"), [("", LIMIT_BYTES), ("1000", 1000), ("1.5kB", 1500), ("2GiB", 2 * 2**30), ("20 MB", 2 * 10**7)]
)
def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch, text: str, limit: int) -> None:
    monkeypatch.setenv(store_module.LIMIT_VARIABLE, text)
    assert open_store().limit_bytes == limit


@pytest.mark.parametrize("text", ["much", "-1", "3 apples"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(store_module.LIMIT_VARIABLE, text)
    with pytest.raises(OptionError) as caught:
        open_store()
    assert str(caught.value) == (
        f"ONNXPRUNE_CACHE_LIMIT must be a size such as 2GB, got {text!r}. Set it anew or unset it."
    )


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(store_module.FOLDER_VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_store().folder == tmp_path / "onnxprune"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert open_store().folder == Path.home() / ".cache" / "onnxprune"
    monkeypatch.setattr("sys.platform", "darwin")
    assert open_store().folder == Path.home() / "Library" / "Caches" / "onnxprune"


# The command


def answer(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["cache", *arguments])
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def test_the_command_shows_and_clears(cache: str) -> None:
    store = open_store()
    store.put("step", KEY, DOCUMENT, ARRAYS)
    store.put("timing", KEY, 1.5)
    shown = answer("--json")
    assert list(shown) == ["folder", "limit_bytes", "size_bytes", "kinds", "cleared"]
    assert (shown["folder"], shown["limit_bytes"], shown["cleared"]) == (cache, LIMIT_BYTES, None)
    assert {kind: held["entries"] for kind, held in shown["kinds"].items()} == {"step": 1, "timing": 1}
    assert shown["size_bytes"] == sum(path.stat().st_size for path in Path(cache).iterdir())
    lines = answer().splitlines()
    assert lines[0] == f"{cache}: {shown['size_bytes']} B of at most 4294.97 MB"
    assert lines[1].split() == ["kind", "entries", "size", "last", "used"]
    assert [line.split()[0] for line in lines[2:]] == ["step", "timing"]
    assert answer("--clear") == f"{cache}: 2 entries removed, {shown['size_bytes']} B\n"
    assert answer("--json")["kinds"] == {}
    assert answer("--clear", "--json")["cleared"] == {"entries": 0, "size_bytes": 0}


def test_the_command_says_that_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store_module.FOLDER_VARIABLE, "off")
    assert answer() == "nothing is kept: ONNXPRUNE_CACHE is off\n"
    assert answer("--json")["folder"] is None
