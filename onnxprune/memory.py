"""How much memory a job may take; and, where a model is too large for it, large arrays in files instead of memory.

A job that is short of memory keeps three promises as far as they go: sessions hold no more weights than they may at a
time, arrays that it makes lie in a temporary file and are mapped, and pages of mapped files that nobody has looked at
lately are given back. Mapped pages count as resident, but the system may drop them whenever it wants to.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import OptionError, OutputError
from onnxprune.files import require_space, scratch
from onnxprune.sizes import parse_size

Array = np.ndarray[Any, Any]

# Fewer bytes are not worth a place in a file, nor a call.
WORTH_BYTES = 1 << 20
# Activations and single weights need some, whatever is done.
LEAST_BYTES = 64 << 20
# What a whole job holds of a model at most, in multiples of its weights: two sessions with two copies each, the edited
# model and what an edit makes.
JOB_COPIES = 6
# Of memory that is free now; others want some, too.
_SHARE = 0.75
# Sessions may take this part of a job's memory; arrays and mapped pages the others.
_PART = 3
_CHUNK_BYTES = 256 << 20
_PAGE = mmap.PAGESIZE
_LOOKED_AT_S = 0.05
_TRIMMED_EVERY = 10

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _Job:
    """What holds for everything in a block.

    Attributes:
        limit_bytes: what one session's weights may take; None: as much as they want.
        files: where large arrays go; None: they stay in memory.
    """

    limit_bytes: int | None = None
    files: Arena | None = None


_AT_EASE = _Job()
_job: ContextVar[_Job] = ContextVar("job", default=_AT_EASE)


class MappedFile(mmap.mmap):
    """A file mapped for reading, whose pages can be given back; `path` says where it lies."""

    path: Path


_mapped: weakref.WeakSet[MappedFile] = weakref.WeakSet()


def map_file(path: Path) -> MappedFile:
    """A file's bytes, mapped for reading; it must not be empty.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        held = MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
    held.path = path.resolve()
    _mapped.add(held)
    return held


def place_of(array: Array) -> tuple[MappedFile, int] | None:
    """The mapped file that holds an array's bytes in their order, and at which byte; None where they lie elsewhere."""
    if not array.flags.c_contiguous or not array.nbytes:
        return None
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    held = owner.obj if isinstance(owner, memoryview) else owner
    if not isinstance(held, MappedFile):
        return None
    return held, array.ctypes.data - np.frombuffer(held, np.uint8).ctypes.data


def release(values: Any) -> None:
    """Let the pages of a mapped array go; they are read from the file again when they are touched again.

    What is not mapped from a file, or small, stays as it is.
    """
    stored = getattr(values, "stored", values)
    if not isinstance(stored, np.ndarray) or stored.nbytes < WORTH_BYTES:
        return
    place = place_of(stored)
    if place is None:
        return
    held, start = place
    first = start - start % _PAGE
    with suppress(OSError, AttributeError, ValueError):
        held.madvise(mmap.MADV_DONTNEED, first, start + stored.nbytes - first)


def release_all() -> None:
    """Let the pages of all mapped files go."""
    for held in list(_mapped):
        with suppress(OSError, AttributeError, ValueError):
            held.madvise(mmap.MADV_DONTNEED)


def memory_limit() -> int | None:
    """Bytes that the weights of one session may take here; None: as many as they want."""
    return _job.get().limit_bytes


def short_of_memory() -> bool:
    """Whether the job's model is too large for what it may take."""
    return _job.get().files is not None


@contextmanager
def memory_limited(limit_bytes: int | None) -> Iterator[None]:
    """Sessions opened in this block whose model would take more than `limit_bytes` run it piece by piece."""
    token = _job.set(_Job(limit_bytes, _job.get().files))
    try:
        yield
    finally:
        _job.reset(token)


@contextmanager
def job_memory(limit_bytes: int | None, weight_bytes: int) -> Iterator[bool]:
    """A block that works on a model with so many bytes of weights; its value is whether memory is short.

    Args:
        limit_bytes: that the job may take beside the program itself; None: what the system can spare now.
        weight_bytes: of the models that it opens.
    """
    limit = spare_bytes() if limit_bytes is None else limit_bytes
    if limit is None or JOB_COPIES * weight_bytes <= limit:
        yield False
        return
    with ExitStack() as stack:
        files = stack.enter_context(Arena.opened())
        token = _job.set(_Job(limit // _PART, files))
        stack.callback(_job.reset, token)
        stack.enter_context(_janitor(limit // _PART))
        yield True


def kept(array: Array) -> Array:
    """The same numbers, in a file where memory is short and they are many; read-only there.

    Raises:
        OutputError: the temporary folder is full.
    """
    files = _job.get().files
    if files is None or array.nbytes < WORTH_BYTES or array.dtype.hasobject or place_of(array) is not None:
        return array
    return files.put(array)


class Arena:
    """Arrays in a folder of temporary files, mapped for reading; a file goes when none of its arrays is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._used = _CHUNK_BYTES
        self._chunk: MappedFile | None = None

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Arena]:
        """An arena that is gone after the block."""
        with scratch() as folder:
            yield cls(folder)

    def put(self, array: Array) -> Array:
        """A read-only copy that lies in a file."""
        try:
            if self._chunk is None or self._used + array.nbytes > len(self._chunk):
                self._chunk = self._file(max(_CHUNK_BYTES, array.nbytes))
                self._used = 0
            start = self._used
            with self._chunk.path.open("r+b") as file:
                file.seek(start)
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise OutputError(
                f"{self._folder.parent}: large arrays cannot be written: {error.strerror or error}. "
                "Set TMPDIR to another folder, or allow more memory with --max-memory."
            ) from error
        self._used += array.nbytes + -array.nbytes % _PAGE
        stored = np.frombuffer(self._chunk, np.uint8, array.nbytes, start)
        return stored.view(array.dtype).reshape(array.shape)

    def _file(self, size: int) -> MappedFile:
        path = self._folder / str(self._count)
        self._count += 1
        require_space(path, size)
        with path.open("wb") as file:
            file.truncate(size)
        held = map_file(path)
        weakref.finalize(held, path.unlink, missing_ok=True)
        return held


def read_limit(size: str | int | None) -> int | None:
    """Bytes of what `--max-memory` says.

    Raises:
        OptionError: not a size, or less than anything runs in.
    """
    if size is None:
        return None
    limit = parse_size("--max-memory", size, wanted="a size such as 2GB") if isinstance(size, str) else size
    if limit < LEAST_BYTES:
        raise OptionError(f"--max-memory must be {LEAST_BYTES // 2**20}MiB or more, got {size!r}.")
    return limit


def spare_bytes() -> int | None:
    """What this process may take without any harm: of free memory, and of what a container allows; None: unknown."""
    free = [one for one in (_available(), _container_spare()) if one is not None]
    return int(_SHARE * min(free)) if free else None


def _available() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container_spare() -> int | None:
    """What the control group leaves, its page cache not counted: that makes room by itself."""
    with suppress(OSError, ValueError, StopIteration, IndexError):
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1].split(":")[2].strip("/")
        folder = next(one for one in (_CGROUP / group, _CGROUP) if (one / "memory.max").is_file())
        most = int((folder / "memory.max").read_text(encoding="ascii"))
        held = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = sum(int(line.split()[1]) for line in lines if line.split()[0] in {"active_file", "inactive_file"})
        return max(most - held + cache, 0)
    return None


@contextmanager
def _janitor(most_bytes: int) -> Iterator[None]:
    """A thread that lets mapped pages go when they are more than `most_bytes` above what the program itself takes."""
    if not _STATUS.exists():
        yield
        return
    done = threading.Event()
    base = _resident()

    def watch() -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        looks = 0
        while not done.wait(_LOOKED_AT_S):
            looks += 1
            anonymous, mapped = _resident()
            if mapped - base[1] > most_bytes:
                release_all()
            if anonymous - base[0] > most_bytes and trim is not None and looks % _TRIMMED_EVERY == 0:
                # What the allocator keeps for reuse.
                trim(0)

    thread = threading.Thread(target=watch, name="onnxprune-memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _resident() -> tuple[int, int]:
    """Resident bytes of this process: anonymous, and mapped from files."""
    held = {"RssAnon:": 0, "RssFile:": 0}
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition("\t")
            if name in held:
                held[name] = int(rest.split()[0]) * 1024
    return held["RssAnon:"], held["RssFile:"]
