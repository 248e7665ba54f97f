"""Arrays out of .npz archives that nobody vouches for: no pickles, no surprises in size."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxprune.errors import DataError

Array = np.ndarray[Any, Any]

# What one archive may unpack to. The directory of the archive states it, so nothing is unpacked to find out.
LIMIT_BYTES = 2 << 30


def read_npz(path: Path) -> dict[str, Array]:
    """Arrays of an archive by name.

    Raises:
        DataError: not an archive of arrays, damaged, pickled, or larger than `LIMIT_BYTES` unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            return {name: _read(path, name, archive, member) for name, member in members.items()}
    except DataError:
        raise
    except Exception as error:  # zipfile, its decompressors and numpy raise whatever a damaged file leads them to
        raise DataError(f"{path}: not an .npz archive, or damaged. Write it with numpy.savez.") from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise DataError(f"{path}: holds {name!r}, which is no array. Write it with numpy.savez.")
        if name in members:
            raise DataError(f"{path}: holds two arrays named {name!r}. Write it with numpy.savez.")
        members[name] = member
    size = sum(member.file_size for member in members.values())
    if size > LIMIT_BYTES:
        raise DataError(f"{path}: unpacks to {size} bytes, at most {LIMIT_BYTES} are read. Give fewer samples.")
    return members


def _read(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        shape, dtype = _header(file)
        # numpy allocates what the header of the array claims, whatever the archive holds.
        claimed = int(np.prod([dtype.itemsize, *shape], dtype=object))
        if dtype.hasobject:
            raise DataError(f"{path}: {name!r} holds pickled objects, which may run code. Save plain arrays.")
        if claimed > member.file_size:
            raise ValueError(name)
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype
