"""How much memory sessions may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from onnxprune.graph import storage
from onnxprune.model import Model, size_on_disk

# What sessions may take of the memory; None: as much as they want.
_memory_bytes: ContextVar[int | None] = ContextVar("memory_bytes", default=None)
# A session holds its weights once as they are stored and once as its kernels want them.
COPIES = 2


@contextmanager
def memory_limited(limit_bytes: int | None) -> Iterator[None]:
    """Sessions opened in this block whose model would take more than `limit_bytes` run it piece by piece."""
    token = _memory_bytes.set(limit_bytes)
    try:
        yield
    finally:
        _memory_bytes.reset(token)


def memory_limit() -> int | None:
    """Bytes that sessions may take here; None: as many as they want."""
    return _memory_bytes.get()


def weight_bytes(source: Path | str | Model) -> int:
    """Bytes of a model's weights; 0 where there is no such file."""
    if isinstance(source, Model):
        return storage(source.graph)[1]
    path = Path(source)
    return size_on_disk(path) if path.is_file() else 0
