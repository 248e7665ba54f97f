"""Results appear whole or not at all: a file without a name in the target's folder, named when it is complete.

Where the system has no files without a name, a temporary one stands beside the target instead, and is removed when the
result does not come about; only a process that is killed then leaves it behind.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from onnxprune.errors import OutputError

_PREFIX = "onnxprune-"
_LOCK = ".lock"
_ABANDONED_S = 60.0


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well and is removed when it does not.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        handle, temporary = _opened(path)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield cast("BinaryIO", file)
            file.flush()
            if temporary is None:
                temporary = _named(handle, path)
        # Temporary files are private; a result has the mode any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _opened(path: Path) -> tuple[int, Path | None]:
    """A new file in the folder of `path`, and its name if it has one yet."""
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is not None and Path("/proc/self/fd").is_dir():
        # Not every file system has them.
        with suppress(OSError):
            return os.open(path.parent, unnamed | os.O_RDWR | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR), None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    return handle, Path(name)


def _named(handle: int, path: Path) -> Path:
    """A name for a file that has none, beside `path`: a file takes another's place under a name only."""
    free = Path(tempfile.mktemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))  # noqa: S306 - link refuses
    # Naming a folder, whichever, makes Python follow the link.
    os.link(f"/proc/self/fd/{handle}", free, src_dir_fd=handle)
    return free


def require_space(path: Path, size_bytes: int) -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        OutputError: the disk of `path` has less free than `size_bytes`.
    """
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        # What is wrong with the folder is told when it is written to.
        return
    if free < size_bytes:
        raise OutputError(
            f"{path}: needs {size_bytes / 1e3:,.0f} kB, the disk has {free / 1e3:,.0f} kB free. "
            f"Make room, or {_elsewhere(path)}."
        )


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for large temporary files, gone after the block; those that killed processes left go, too."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as lock:
            _lock(lock)
            _sweep(folder.parent)
            yield folder


def _sweep(place: Path) -> None:
    """Remove folders whose owner has gone: nobody holds their lock any more."""
    for lock in place.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), lock.open("r+b") as file:
            # One that is new may be about to be locked.
            held = time.time() - lock.stat().st_mtime < _ABANDONED_S or not _lock(file)
            if not held and lock.stat().st_uid == os.getuid():
                shutil.rmtree(lock.parent, ignore_errors=True)


def _lock(file: BinaryIO) -> bool:
    """Whether a lock was got that ends with the process; never where the system has none."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _refused(path: Path, error: OSError) -> OutputError:
    advice = _elsewhere(path)
    return OutputError(f"{path}: cannot be written: {error.strerror or error}. {advice[:1].upper()}{advice[1:]}.")


def _elsewhere(path: Path) -> str:
    """What the user can do about a place."""
    if path.parent.name.startswith(_PREFIX):
        return "set TMPDIR to another folder"
    return "choose another place with --output"


def free_name(path: Path) -> Path:
    """`path`, or the first of `stem.1.suffix`, `stem.2.suffix`, … that does not exist yet."""
    candidate, number = path, 0
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    return candidate
