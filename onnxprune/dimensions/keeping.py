"""Which units stay: removals checked against the dimensions, and what they mean for any axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.dimensions.factors import Factor, Size, find, resize
from onnxprune.dimensions.result import Dimensions
from onnxprune.errors import Declined

Mask = npt.NDArray[np.bool_]


class Keeping:
    """The units that stay of each dimension.

    Args:
        dimensions: found on the graph that will be cut.
        removals: dimension index -> units to remove.

    Raises:
        Declined: a dimension is unknown or pinned, a unit does not exist, or none would be left.
    """

    def __init__(self, dimensions: Dimensions, removals: Mapping[int, Sequence[int]]) -> None:
        self.layout = dimensions.layout
        self.removed: dict[int, tuple[int, ...]] = {}
        for index, units in removals.items():
            _check(dimensions, index, units)
            if units:
                self.removed[index] = tuple(sorted({int(unit) for unit in units}))
        self._counts = {index: dimensions.all[index].units - len(units) for index, units in self.removed.items()}
        self._masks: dict[Factor, Mask | None] = {}

    def touches(self, factor: Factor) -> bool:
        """Whether units inside this axis go."""
        return bool(self.removed) and not self.layout.inside(factor).isdisjoint(self.removed)

    def size(self, factor: Factor) -> Size:
        """The axis's size in every run after the cut."""

        def measure(leaf: Factor) -> Size:
            count = self._counts.get(self.layout.index.get(leaf, -1))
            return leaf.size if count is None else (count,) * len(leaf.size)

        return resize(factor, measure)

    def mask(self, factor: Factor) -> Mask | None:
        """[size] which entries of a static axis stay; None where all do."""
        root = find(factor)
        if root not in self._masks:
            self._masks[root] = self._mask(root)
        return self._masks[root]

    def entries(self, factor: Factor) -> Mask:
        """[size] which entries of a static axis stay."""
        mask = self.mask(factor)
        return np.ones(find(factor).size[0], dtype=np.bool_) if mask is None else mask

    def _mask(self, root: Factor) -> Mask | None:
        if not root.static:
            return None
        keep: npt.NDArray[np.bool_] = np.ones(root.size[0], dtype=np.bool_)
        for index, elements in self.layout.places(root):
            if index in self.removed:
                keep[elements[list(self.removed[index])].ravel()] = False
        return None if keep.all() else keep

    def ratio(self, factor: Factor) -> tuple[int, int]:
        """Old and new size in lowest terms of an axis that may be dynamic.

        Raises:
            Declined: the ratio differs from run to run.
        """
        ratios = {_lowest(old, new) for old, new in zip(find(factor).size, self.size(factor), strict=True)}
        if len(ratios) != 1:
            raise Declined("units lie beside a part of varying length on one axis, so that no new size can be stated")
        return ratios.pop()


def _lowest(old: int, new: int) -> tuple[int, int]:
    common = int(np.gcd(old, new)) or 1
    return old // common, new // common


def _check(dimensions: Dimensions, index: int, units: Sequence[Any]) -> None:
    if not 0 <= index < len(dimensions.all):
        raise Declined(f"there is no dimension {index}; there are {len(dimensions.all)}")
    dimension = dimensions.all[index]
    if dimension.pinned and len(units):
        raise Declined(dimension.pinned[0])
    strange = sorted({int(unit) for unit in units if not 0 <= unit < dimension.units})
    if strange:
        raise Declined(f"dimension {index} has units 0 to {dimension.units - 1}, not {strange[0]}")
    if len({int(unit) for unit in units}) >= dimension.units:
        raise Declined(f"dimension {index} would lose all of its {dimension.units} units")
