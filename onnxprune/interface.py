"""What a cut took out of a model's own inputs and outputs: the model remembers it, so that old feeds still fit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Where a cut model remembers its interface: [[tensor, axis, size before, [entries kept]], …], oldest first.
INTERFACE = "onnxprune.interface"


@dataclass(frozen=True)
class AxisCut:
    """One axis of a graph input or output that lost entries.

    Attributes:
        size: of the axis before.
        kept: the entries that stayed, ascending.
    """

    tensor: str
    axis: int
    size: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Interface:
    """Every such cut, oldest first."""

    cuts: tuple[AxisCut, ...] = ()

    def fitted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Feeds or outputs of the original as this model has them; what fits already stays as it is."""
        fitting = dict(values)
        for cut in self.cuts:
            held = fitting.get(cut.tensor)
            if isinstance(held, np.ndarray) and held.ndim > cut.axis and held.shape[cut.axis] == cut.size:
                fitting[cut.tensor] = np.take(held, cut.kept, axis=cut.axis)
        return fitting

    def text(self) -> str:
        """As metadata holds it."""
        return json.dumps([[cut.tensor, cut.axis, cut.size, list(cut.kept)] for cut in self.cuts])


def interface_of(metadata: Mapping[str, str]) -> Interface:
    """The cuts that a model remembers; none where its metadata is not ours."""
    try:
        entries = json.loads(metadata.get(INTERFACE, "[]"))
        return Interface(tuple(_cuts(entries)))
    except (ValueError, TypeError):
        return Interface()


def _cuts(entries: Any) -> Iterable[AxisCut]:
    for tensor, axis, size, kept in entries:
        cut = AxisCut(str(tensor), int(axis), int(size), tuple(int(entry) for entry in kept))
        if cut.axis < 0 or not all(0 <= entry < cut.size for entry in cut.kept):
            raise ValueError(cut)
        yield cut
