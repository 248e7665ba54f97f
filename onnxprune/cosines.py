"""How far tensors point the same way, over calibration samples: a block's input and output, or two models' values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import DataError
from onnxprune.masks import kept_rows, mask_input
from onnxprune.model import Model
from onnxprune.observer import observer
from onnxprune.padding import cropped, may_crop
from onnxprune.runtime import Array, Feeds, Port
from onnxprune.solvers.importance import block_influence


@dataclass(frozen=True)
class Pair:
    """Two tensors of one shape.

    Attributes:
        first: of the first model.
        second: of the second, which may be the same.
        features: the axis along which a row lies, -1 for [batch, tokens, width]; None: a whole sample is one row.
    """

    first: str
    second: str
    features: int | None = -1


def mean_cosines(
    first: Model, second: Model, pairs: Sequence[Pair], samples: Sequence[Feeds], *, mask: str | None = None
) -> tuple[float, ...]:
    """[pairs] mean cosine over rows: over tokens, or over samples where a sample is one row; padded tokens left out.

    Args:
        first: computes the first tensor of each pair.
        second: computes the second one; may be the same object, and then runs once.
        pairs: what to compare.
        samples: run one after the other.
        mask: as for `compare_inputs`.

    Raises:
        DataError: there is no sample.
        ModelError: a model does not run.
    """
    if not samples:
        raise DataError("calibration: at least one sample is needed, got none. Give --data.")
    ports = [Port(t.name, t.dtype, tuple(t.shape or ())) for t in first.graph.inputs]
    mask = mask_input(ports, mask)
    names = {pair.first for pair in pairs}, {pair.second for pair in pairs}
    if first is second:
        here = there = observer(first, names[0] | names[1])
    else:
        here, there = observer(first, names[0]), observer(second, names[1])
    shorten = mask is not None and all(may_crop(one, samples[0], mask, ports) for one in {here, there})
    totals, counts = np.zeros(len(pairs)), np.zeros(len(pairs))
    for given in samples:
        feeds = (cropped(given, mask, ports) if mask and shorten else None) or given
        mine = here(feeds)
        theirs = mine if there is here else there(feeds)
        padding = np.asarray(feeds[mask]) if mask else None
        for at, pair in enumerate(pairs):
            cosines = 1 - block_influence(
                _rows(mine[pair.first], pair.features, padding), _rows(theirs[pair.second], pair.features, padding)
            )
            totals[at] += cosines.sum()
            counts[at] += cosines.size
    return tuple(float(mean) for mean in totals / np.maximum(counts, 1))


def _rows(value: Array, features: int | None, padding: Array | None) -> Array:
    axis = -1 if features is None else features
    kept = kept_rows(value.shape, padding) if padding is not None and axis in {-1, value.ndim - 1} else None
    rows: Array = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]) if kept is None else value[kept]
    return rows.reshape(1, -1) if features is None else rows
