"""What packing weights saves in the file, and what it costs when the file is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxprune.cost import gzip_bytes
from onnxprune.interface import interface_of
from onnxprune.memory import short_of_memory
from onnxprune.model import Model, data_files
from onnxprune.packing import unpacked
from onnxprune.runtime import Feeds, written
from onnxprune.targets.residence import measure_residence


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """One form of a model, in its files and in memory.

    Attributes:
        gzip_bytes: of the files at gzip's fastest level.
        load_ms: median of three sessions; None, like the others, where the system does not tell.
        resident_bytes: of a session that has run once.
        peak_bytes: most that was resident until then.
    """

    size_bytes: int
    gzip_bytes: int
    load_ms: float | None = None
    resident_bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Footprints:
    """The same model with its weights dense and packed."""

    dense: Footprint
    packed: Footprint

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return asdict(self)


def footprints(path: Path, model: Model, feeds: Feeds) -> Footprints | None:
    """A written model beside the same one with dense weights; None where none of its weights is packed.

    Args:
        path: where `model` was written.
        model: that may be packed.
        feeds: of the run that is made.
    """
    dense, count = unpacked(model)
    if not count:
        return None
    inputs = interface_of(model.metadata).fitted(feeds)
    with written(dense) as other:
        return Footprints(dense=_footprint(other, inputs), packed=_footprint(path, inputs))


def _footprint(path: Path, feeds: Feeds) -> Footprint:
    files = (path, *data_files(path))
    size, packed = sum(file.stat().st_size for file in files), sum(map(gzip_bytes, files))
    # A session of the whole model is what memory is short for.
    held = None if short_of_memory() else measure_residence(path, feeds)
    return Footprint(size_bytes=size, gzip_bytes=packed, **({} if held is None else asdict(held)))
