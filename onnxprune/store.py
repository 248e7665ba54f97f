"""What earlier runs found out, kept on disk: bounded, checked when read, never in the way.

An entry is one safetensors file: arrays, and a JSON document among its metadata. It appears whole or not at all, and
its digest is checked before it is believed; what is damaged is removed and computed anew. Nothing in it is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from onnxprune.errors import OutputError
from onnxprune.sizes import parse_size
from onnxprune.tensorfile import chunks, read_tensors

Tensors = Mapping[str, np.ndarray[Any, Any]]

# Where entries lie, or `off`; and how many bytes they may take.
FOLDER_VARIABLE = "ONNXPRUNE_CACHE"
LIMIT_VARIABLE = "ONNXPRUNE_CACHE_LIMIT"
LIMIT_BYTES = 4 * 2**30
_SUFFIX = ".safetensors"
# A document is small text; a file that claims more is not one of ours.
_LARGEST_DOCUMENT = 2**26
# An entry takes so many bytes beside its arrays, about; others write to the folder too, so all is counted now and then.
_OVERHEAD = 4096
_TRIMMED_EVERY = 256
# What a killed run left half-written is swept up after so many seconds.
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Held:
    """An entry that was read and checked."""

    document: Any
    tensors: Tensors


@dataclass(frozen=True)
class Entry:
    """An entry as `onnxprune cache` lists it.

    Attributes:
        used: seconds since the epoch.
    """

    kind: str
    path: Path
    size_bytes: int
    used: float


@dataclass(eq=False)
class Store:
    """Entries by kind and key, the least recently used of which make room for new ones.

    Attributes:
        folder: where they lie; None: nothing is kept and nothing is found.
        limit_bytes: of all entries together.
        notes: what went wrong, for the report; a store never fails a run.
    """

    folder: Path | None
    limit_bytes: int = LIMIT_BYTES
    notes: list[str] = field(default_factory=list)
    _room: int = -1
    _puts: int = 0

    def get(self, kind: str, key: str) -> Held | None:
        """The entry of a key; None where there is none, or it is damaged and therefore removed."""
        path = self._path(kind, key)
        if path is None or not path.is_file():
            return None
        try:
            held = _read(path, self.limit_bytes)
            # Used now: others go first.
            os.utime(path)
        except FileNotFoundError:
            # Another run has made room.
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
            self._note(f"cache: {kind}: an entry was damaged ({_line(error)}) and is computed anew")
            path.unlink(missing_ok=True)
            return None
        return held

    def put(self, kind: str, key: str, document: Any, tensors: Tensors | None = None) -> None:
        """Keep an entry; where that is impossible, a note says so."""
        path = self._path(kind, key)
        if path is None:
            return
        arrays = {name: np.asarray(array, order="C") for name, array in (tensors or {}).items()}
        if 2 * sum(array.nbytes for array in arrays.values()) > self.limit_bytes:
            self._note(f"cache: {kind}: too large to keep; a killed run computes it anew")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(path, document, arrays)
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
            self._note(f"cache: {kind}: cannot be kept ({_line(error)}); a killed run computes it anew")
            return
        # Looking at every entry takes a while where a search has left thousands of small ones.
        self._room -= sum(array.nbytes for array in arrays.values()) + _OVERHEAD
        self._puts += 1
        if self._room < 0 or self._puts % _TRIMMED_EVERY == 0:
            self.trim()

    def entries(self) -> list[Entry]:
        """All entries, the least recently used first."""
        found = []
        for path in self._files(f"*{_SUFFIX}"):
            try:
                stat = path.stat()
            except OSError:
                continue
            found.append(Entry(path.name.partition("-")[0], path, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: (entry.used, entry.path.name))

    def trim(self) -> None:
        """Remove the least recently used entries until the rest keeps to the limit, and what killed runs left."""
        entries = self.entries()
        size = sum(entry.size_bytes for entry in entries)
        for entry in entries:
            if size <= self.limit_bytes:
                break
            entry.path.unlink(missing_ok=True)
            size -= entry.size_bytes
        self._room = self.limit_bytes - size
        for path in self._files("*.part"):
            try:
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()
            except OSError:
                continue

    def clear(self) -> tuple[int, int]:
        """Remove every entry; how many there were, and their bytes.

        Raises:
            OutputError: one cannot be removed.
        """
        entries = self.entries()
        try:
            for path in [*(entry.path for entry in entries), *self._files("*.part")]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be cleared: {error.strerror or error}. Remove it by hand."
            ) from error
        return len(entries), sum(entry.size_bytes for entry in entries)

    def _path(self, kind: str, key: str) -> Path | None:
        if not re.fullmatch(r"[a-z]+", kind) or not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"no kind and digest: {kind!r}, {key!r}")
        return None if self.folder is None else self.folder / f"{kind}-{key}{_SUFFIX}"

    def _files(self, pattern: str) -> Iterator[Path]:
        if self.folder is not None and self.folder.is_dir():
            yield from self.folder.glob(pattern)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True, eq=False)
class Tables:
    """JSON values by a key that may be any text: what a search and a clock keep.

    Attributes:
        kind: under which the store lists them.
        base: what every key depends on besides itself.
        fresh: find nothing from before this run.
    """

    store: Store
    kind: str
    base: str = ""
    fresh: bool = False
    _held: dict[str, Any] = field(default_factory=dict)

    def load(self, key: str) -> Any | None:
        """What was saved under a key; None where nothing was."""
        if key not in self._held and not self.fresh:
            held = self.store.get(self.kind, key_of(self.base, key))
            if held is not None:
                self._held[key] = held.document
        return self._held.get(key)

    def save(self, key: str, value: Any) -> None:
        """Keep a JSON value."""
        self._held[key] = value
        self.store.put(self.kind, key_of(self.base, key), value)


@dataclass(frozen=True, eq=False)
class Kept:
    """Where one computation keeps what it has done so far.

    Attributes:
        key: everything that it depends on, besides what it adds itself.
        fresh: keep, but find nothing from before this run.
    """

    store: Store
    key: str
    fresh: bool = False


def open_store() -> Store:
    """The user's store, as the environment wants it.

    Raises:
        OptionError: the limit is no size.
    """
    wanted = os.environ.get(FOLDER_VARIABLE, "")
    folder = None if wanted == "off" else Path(wanted) if wanted else _user_folder() / "onnxprune"
    return Store(folder, _limit(os.environ.get(LIMIT_VARIABLE, "")))


def key_of(*parts: Any) -> str:
    """SHA-256 of JSON values, told apart from one another."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of(text: str, tensors: Tensors) -> str:
    """SHA-256 of a text and of arrays by name, whatever their layout in memory."""
    state = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        state.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        state.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return state.hexdigest()


def _user_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    stated = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says to ignore what is not absolute.
    return Path(stated) if Path(stated).is_absolute() else Path.home() / ".cache"


def _limit(text: str) -> int:
    if not text:
        return LIMIT_BYTES
    return parse_size(LIMIT_VARIABLE, text, wanted="a size such as 2GB", advice="Set it anew or unset it.")


def _write(path: Path, document: Any, arrays: Tensors) -> None:
    text = json.dumps(document)
    if len(text) > _LARGEST_DOCUMENT:
        raise ValueError(f"its document takes {len(text)} bytes")
    metadata = {"document": text, "sha256": digest_of(text, arrays)}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:24]}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(chunks(arrays, metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, most: int) -> Held:
    if path.stat().st_size > most + _LARGEST_DOCUMENT:
        raise ValueError("larger than the whole cache may be")
    tensors, metadata = read_tensors(path)
    text = metadata["document"]
    if digest_of(text, tensors) != metadata["sha256"]:
        raise ValueError("its digest is another")
    return Held(json.loads(text), tensors)


def _line(error: Exception) -> str:
    """An error in one line, without paths of the user's."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:120]
