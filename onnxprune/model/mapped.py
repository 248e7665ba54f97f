"""Pages of mapped files, given back to the system once they have been read."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np

# Fewer bytes are not worth a call.
_WORTH_BYTES = 1 << 20


def release(values: Any) -> None:
    """Let the pages of a mapped array go; they are read from the file again when they are touched again.

    What is not mapped from a file, or small, stays as it is.
    """
    stored = getattr(values, "stored", values)
    if not isinstance(stored, np.ndarray) or stored.nbytes < _WORTH_BYTES or not stored.flags.c_contiguous:
        return
    owner: Any = stored
    while isinstance(owner, np.ndarray):
        owner = owner.base
    held = owner.obj if isinstance(owner, memoryview) else owner
    # A private page would lose what was written to it.
    if not isinstance(held, mmap.mmap) or not memoryview(held).readonly:
        return
    start = stored.ctypes.data - np.frombuffer(held, np.uint8).ctypes.data
    first = start - start % mmap.PAGESIZE
    with contextlib.suppress(OSError, AttributeError):
        held.madvise(mmap.MADV_DONTNEED, first, start + stored.nbytes - first)
