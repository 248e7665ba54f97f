"""The user's sample inputs, read from files or made by the user's own function, and checked against the model.

One sample is one whole feed: every input by name, with batch 1 or the model's static batch size. Types must be the
model's own; an array of another width of the same family (int32 for int64, float64 for float32) is cast if every one of
its values survives, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from onnxprune.errors import DataError
from onnxprune.fitting import check_names, check_nan, fits, typed
from onnxprune.npz import LIMIT_BYTES, read_npz
from onnxprune.runtime import Array, Feeds, Port
from onnxprune.user_code import is_function, running

# A function may yield for ever; what it yields after this many samples is not asked for.
MAX_SAMPLES = 1024
LABELS = "labels"
# Every fourth sample judges and never calibrates.
_FOLD = 4


class LazyFeeds(Sequence[Feeds]):
    """Feeds that are read when asked for: the samples `indices` of what `read` reads."""

    def __init__(self, read: Callable[[int], Feeds], indices: Sequence[int]) -> None:
        self._read = read
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> LazyFeeds: ...
    def __getitem__(self, index: int | slice) -> Feeds | LazyFeeds:
        if isinstance(index, slice):
            return LazyFeeds(self._read, self._indices[index])
        return self._read(self._indices[index])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sample inputs of a model.

    Attributes:
        feeds: one whole feed a sample; read when asked for.
        labels: [samples, ...] what the user knows about each sample.
        source: where they came from, as the report names it.
        synthetic: whether they were made up from the model's signature.
    """

    feeds: Sequence[Feeds]
    labels: Array | None = None
    source: str
    synthetic: bool = False

    @property
    def shared(self) -> bool:
        """Whether there are too few samples to set any apart, so that all calibrate and all judge."""
        return len(self.feeds) < _FOLD

    @property
    def calibration(self) -> Sequence[Feeds]:
        """Samples that statistics may see."""
        return LazyFeeds(self.feeds.__getitem__, self._indices(judging=False))

    @property
    def held_out(self) -> Sequence[Feeds]:
        """Samples 3, 7, 11, …: they measure fidelity and never calibrate."""
        return LazyFeeds(self.feeds.__getitem__, self._indices(judging=True))

    @property
    def calibration_labels(self) -> Array | None:
        """Labels of `calibration`."""
        return None if self.labels is None else self.labels[self._indices(judging=False)]

    @property
    def held_out_labels(self) -> Array | None:
        """Labels of `held_out`."""
        return None if self.labels is None else self.labels[self._indices(judging=True)]

    def _indices(self, *, judging: bool) -> list[int]:
        every = range(len(self.feeds))
        return [index for index in every if self.shared or (index % _FOLD == _FOLD - 1) is judging]


def load_samples(spec: str, ports: Sequence[Port]) -> Samples:
    """Sample inputs for a model with the inputs `ports`.

    Args:
        spec: an .npz file, a folder of .npz files, or `module:function`.
            In a file, an array with one axis more than its input is a stack of whole feeds; an array of the input's
            own rank is cut along axis 0, by the static batch size where there is one. What holds one sample (a scalar,
            a state) serves all. `labels` is no input, unless the model has one of that name.
            In a folder, every file is one sample, in the order of the names.
            A function of the user's own (the current folder can be imported from) yields feeds.
        ports: the model's inputs that must be given; overridable initializers are not among them.

    Raises:
        DataError: there are no samples, or they do not fit the model.
    """
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path, ports)
    if path.is_file():
        return _from_archive(path, ports)
    if is_function(spec):
        return _from_function(spec, ports)
    raise DataError(
        f"{spec}: no such file or folder. Give an .npz file, a folder of .npz files, or module:function for samples."
    )


def _from_archive(path: Path, ports: Sequence[Port]) -> Samples:
    source = str(path)
    arrays, labels = _without_labels(read_npz(path), ports)
    check_names(source, arrays, ports)
    stacks = {port.name: _stack(source, port, arrays[port.name]) for port in ports}
    counts = {name: len(stack) for name, stack in sorted(stacks.items())}
    count = max(counts.values(), default=0)
    if not count or not min(counts.values()):
        raise DataError(f"{source}: at least one sample is needed, got none. Give a few dozen.")
    if any(held not in (1, count) for held in counts.values()):
        listed = ", ".join(f"{name} {held}" for name, held in counts.items())
        raise DataError(f"{source}: all inputs must hold the same number of samples, got {listed}. Make them equal.")
    if labels is not None and (labels.ndim == 0 or len(labels) != count):
        got = len(labels) if labels.ndim else "a single one"
        raise DataError(f"{source}: labels must be one for each of the {count} samples, got {got}. Make them equal.")
    for name, stack in stacks.items():
        check_nan(source, name, stack)

    def read(index: int) -> Feeds:
        return {name: stack[index if len(stack) > 1 else 0, ...] for name, stack in stacks.items()}

    return Samples(feeds=LazyFeeds(read, range(count)), labels=labels, source=source)


def _from_folder(folder: Path, ports: Sequence[Port]) -> Samples:
    paths = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise DataError(f"{folder}: at least one .npz file is needed, found none. Save each sample as one file.")

    def parts(index: int) -> tuple[Feeds, Array | None]:
        arrays, label = _without_labels(read_npz(paths[index]), ports)
        return _whole_feed(str(paths[index]), arrays, ports), label

    # Every file is checked now, so that a bad one is told before anything long begins; none is kept.
    labels = [parts(index)[1] for index in range(len(paths))]
    feeds = LazyFeeds(lambda index: parts(index)[0], range(len(paths)))
    return Samples(feeds=feeds, labels=_joined(str(folder), labels), source=str(folder))


def _from_function(spec: str, ports: Sequence[Port]) -> Samples:
    feeds: list[Feeds] = []
    labels: list[Array | None] = []
    size = 0
    for index, sample in enumerate(islice(_yielded(spec), MAX_SAMPLES)):
        source = f"{spec}, sample {index}"
        if not isinstance(sample, Mapping):
            raise DataError(
                f"{source}: must be a mapping of input names to arrays, got {type(sample).__name__}. Yield a dict."
            )
        # Copied: a generator may fill the same array again.
        arrays, label = _without_labels({str(name): np.array(value) for name, value in sample.items()}, ports)
        size += sum(array.nbytes for array in arrays.values())
        if size > LIMIT_BYTES:
            raise DataError(f"{source}: more than {LIMIT_BYTES} bytes in all. Yield fewer samples.")
        feeds.append(_whole_feed(source, arrays, ports))
        labels.append(label)
    if not feeds:
        raise DataError(f"{spec}: at least one sample is needed, it yielded none. Yield a few dozen.")
    return Samples(feeds=tuple(feeds), labels=_joined(spec, labels), source=spec)


def _yielded(spec: str) -> Iterator[Any]:
    """What the user's own code yields; its exceptions are told in one line."""
    with running(spec, DataError, "Mend it or give an .npz file.") as function:
        yield from function()


def _without_labels(arrays: dict[str, Array], ports: Sequence[Port]) -> tuple[dict[str, Array], Array | None]:
    if any(port.name == LABELS for port in ports):
        return arrays, None
    return {name: array for name, array in arrays.items() if name != LABELS}, arrays.get(LABELS)


def _joined(source: str, labels: Sequence[Array | None]) -> Array | None:
    given = [label for label in labels if label is not None]
    if not given:
        return None
    if len(given) < len(labels) or len({label.shape for label in given}) > 1:
        raise DataError(f"{source}: labels must be of one shape and in every sample or in none. Make them alike.")
    return np.stack(given)


def _whole_feed(source: str, arrays: Mapping[str, Array], ports: Sequence[Port]) -> Feeds:
    check_names(source, arrays, ports)
    feeds = {}
    for port in ports:
        array = typed(source, port, arrays[port.name])
        if not fits(array.shape, port):
            raise DataError(f"{source}: one sample must be {port}, got {list(array.shape)}. Reshape it.")
        check_nan(source, port.name, array[None])
        feeds[port.name] = array
    return feeds


def _stack(source: str, port: Port, array: Array) -> Array:
    """[samples, *one feed], a view where it can be."""
    array = typed(source, port, array)
    stack, rank = array, len(port.shape)
    if array.ndim == rank and rank:
        batch = port.shape[0] if isinstance(port.shape[0], int) else 1
        if batch and array.shape[0] % batch == 0:
            stack = array.reshape(array.shape[0] // batch, batch, *array.shape[1:])
    elif not array.ndim:
        stack = array[None]
    if not fits(stack.shape[1:], port):
        raise DataError(
            f"{source}: must be samples of {port}, stacked on a new first axis or along axis 0, "
            f"got {list(array.shape)}. Reshape it."
        )
    return stack
