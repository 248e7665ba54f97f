"""Plain data lent to workers: small things in the message, arrays in files on storage that all share.

An array that lies in the model's own file stays there and is lent as a place in it. Others go into safetensors files,
one each, however often they are lent; a file goes when nobody has it on loan any more.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import OutputError
from onnxprune.files import require_space
from onnxprune.flattening import flattened, unflattened
from onnxprune.memory import map_file, place_of
from onnxprune.tensorfile import chunks

Array = np.ndarray[Any, Any]

# Smaller ones travel with the message.
_WORTH_BYTES = 1 << 16


@dataclass(frozen=True)
class Stored:
    """An array in a file.

    Attributes:
        start: of its bytes in the file.
        turned: whether its last axis is the slowest; products of either order round differently.
    """

    path: str
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    turned: bool = False

    def read(self) -> Array:
        """The array, mapped and read-only."""
        size = math.prod(self.shape) * self.dtype.itemsize
        held = np.frombuffer(map_file(Path(self.path)), np.uint8, size, self.start).view(self.dtype)
        return held.reshape(self.shape[::-1]).T if self.turned else held.reshape(self.shape)


class _File:
    """An array in a file that goes with this object, unless it is to last."""

    def __init__(self, stored: Stored, *, lasts: bool) -> None:
        self.stored = stored
        if not lasts:
            weakref.finalize(self, Path(stored.path).unlink, missing_ok=True)


@dataclass(frozen=True)
class Lent:
    """Data on its way: a document, and its arrays in messages and in files.

    Attributes:
        classes: that the document names.
    """

    document: Any
    arrays: Mapping[str, Array | Stored]
    classes: tuple[type[Any], ...]

    def value(self) -> Any:
        """The data."""
        arrays = {name: one.read() if isinstance(one, Stored) else one for name, one in self.arrays.items()}
        return unflattened(self.document, arrays, self.classes)


class Lender:
    """Lends data.

    Args:
        folder: on storage that all share.
        known: files that all can read.
        name: that no other lender of the folder has.
        lasting: files stay when nobody has them on loan.
    """

    def __init__(self, folder: Path, name: str, *, known: Collection[Path] = (), lasting: bool = False) -> None:
        self._folder = folder
        self._known = {path.resolve() for path in known}
        self.name = name
        self._lasting = lasting
        self._count = count()
        # By the array's identity: an array that is dead cannot be found again, and may share its number with another.
        self._files: dict[int, tuple[weakref.ref[Array], weakref.ref[_File]]] = {}

    def lend(self, value: Any) -> tuple[Lent, tuple[object, ...]]:
        """What workers need of `value`, and what is to be held as long as they may need it.

        Raises:
            OutputError: the folder is full.
        """
        document, arrays = flattened(value)
        files = {name: self._file(array) for name, array in arrays.items() if array.nbytes >= _WORTH_BYTES}
        lent = {name: files[name].stored if name in files else array for name, array in arrays.items()}
        return Lent(document, lent, classes_of(value)), tuple(files.values())

    def _file(self, array: Array) -> _File:
        dead, known = weakref.ref(array), self._files.get(id(array))
        if known is not None and known[0]() is array:
            file = known[1]()
            if file is not None:
                return file
        file = self._in_the_model(array) or self._written(array)
        self._files = {
            key: pair for key, pair in self._files.items() if pair[0]() is not None and pair[1]() is not None
        }
        self._files[id(array)] = (dead, weakref.ref(file))
        return file

    def _in_the_model(self, array: Array) -> _File | None:
        place = place_of(array)
        if place is None or place[0].path not in self._known:
            return None
        return _File(Stored(str(place[0].path), place[1], array.dtype, array.shape), lasts=True)

    def _written(self, array: Array) -> _File:
        turned = array.flags.f_contiguous and not array.flags.c_contiguous
        path = self._folder / f"{self.name}-{next(self._count)}.safetensors"
        require_space(path, array.nbytes)
        try:
            with path.open("wb") as file:
                file.writelines(chunks({"array": array.T if turned else array}))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OutputError(
                f"{self._folder.parent}: what workers need cannot be written: {error.strerror or error}. "
                "Choose another place with --output."
            ) from error
        start = path.stat().st_size - array.nbytes
        return _File(Stored(str(path), start, array.dtype, array.shape, turned), lasts=self._lasting)


def classes_of(value: Any) -> tuple[type[Any], ...]:
    """The dataclasses in nested data."""
    found: set[type[Any]] = set()
    queue = [value]
    while queue:
        one = queue.pop()
        if is_dataclass(one) and not isinstance(one, type):
            found.add(type(one))
            queue += [getattr(one, field.name) for field in fields(one)]
        elif isinstance(one, Mapping):
            queue += one.values()
        elif isinstance(one, list | tuple):
            queue += one
    return tuple(sorted(found, key=lambda kind: kind.__qualname__))
