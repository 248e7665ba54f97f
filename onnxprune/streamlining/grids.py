"""Integers that are counted out of sizes: numbers of which each is a sum over its coordinates.

A grid's entry at coordinates i is start + sum over axes of step[axis] · i[axis]. Start and steps are numbers or sizes,
held as they were in each of a few runs with co-prime sizes; nothing but Range, sizes and sums makes them, so that what
is the same in all runs is the same at all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnxprune.graph import elements, numbers, producer
from onnxprune.streamlining.observed import Runs

# A number in each run.
Size = tuple[int, ...]
VIEWS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_SUMS = {"Add", "Mul", "Sub"}
_INTEGERS = {TensorProto.INT32, TensorProto.INT64}
_DEEPEST = 24


@dataclass(frozen=True)
class Grid:
    """Entries at coordinates i: start + sum of steps[axis] · i[axis]."""

    start: Size
    steps: tuple[Size, ...]

    @property
    def is_number(self) -> bool:
        """Whether all entries are the same."""
        return not any(any(step) for step in self.steps)

    @property
    def least(self) -> int | None:
        """The least entry at any sizes; None where that is not known."""
        rising = all(least >= 0 for step in self.steps for least in step)
        return self.start[0] if rising and len(set(self.start)) == 1 else None

    def plus(self, other: Grid) -> Grid:
        """The sum of two grids over the same axes."""
        mine, its = (self.start, *self.steps), (other.start, *other.steps)
        start, *steps = (tuple(map(sum, zip(*pair, strict=True))) for pair in zip(mine, its, strict=True))
        return Grid(start, tuple(steps))

    def times(self, number: Size) -> Grid:
        """Each entry multiplied."""
        return Grid(product(self.start, number), tuple(product(step, number) for step in self.steps))

    def is_flat_index(self, sizes: Sequence[Size]) -> bool:
        """Whether entries over axes of these sizes count 0, 1, 2 and on, row by row."""
        stride = (1,) * len(self.start)
        for size, step in zip(reversed(sizes), reversed(self.steps), strict=True):
            if step != stride and set(size) != {1}:
                return False
            stride = product(stride, size)
        return not any(self.start)


class Grids:
    """Reads grids off a graph."""

    def __init__(self, shapes: Mapping[str, Runs], overridable: frozenset[str]) -> None:
        """Read a graph of which shapes were seen.

        Args:
            shapes: of tensors whose sizes depend on those of the inputs alone, one a run.
            overridable: constants that a caller may replace.
        """
        self._shapes = shapes
        self.overridable = overridable
        self._runs = len(next(iter(shapes.values()), ()))

    def of(self, tensor: gs.Tensor, depth: int = 0) -> Grid | None:
        """What a tensor of integers counts; None where it is no grid, or not known to be one."""
        if isinstance(tensor, gs.Constant):
            return self._constant(tensor)
        node, sizes = producer(tensor), self.sizes(tensor)
        if node is None or node.domain or sizes is None or depth > _DEEPEST:
            return None
        asked = self.asked(node)
        of_asked = self.sizes(asked[0]) if asked is not None else None
        if asked is not None and of_asked is not None:
            return Grid(of_asked[asked[1]], ((0,) * self._runs,) * len(sizes))
        return self._counted(node, sizes, depth)

    def _counted(self, node: gs.Node, sizes: tuple[Size, ...], depth: int) -> Grid | None:
        """What a node makes of other grids."""
        if node.op == "Range":
            start, step = (self.of(node.inputs[at], depth + 1) for at in (0, 2))
            return Grid(start.start, (step.start,)) if start and step else None
        if node.op in _SUMS:
            one, other = (self._spread(given, sizes, depth) for given in node.inputs)
            return _combined(node.op, one, other) if one and other else None
        if node.op == "Expand":
            return self._spread(node.inputs[0], sizes, depth)
        if node.op == "Identity" or (node.op == "Cast" and node.attrs.get("to") in _INTEGERS):
            return self.of(node.inputs[0], depth + 1)
        return self._viewed(node.inputs[0], sizes, depth) if node.op in VIEWS else None

    def _constant(self, tensor: gs.Constant) -> Grid | None:
        number = self._number(tensor)
        return None if number is None else Grid((number,) * self._runs, ((0,) * self._runs,) * len(tensor.shape))

    def asked(self, node: gs.Node) -> tuple[gs.Tensor, int] | None:
        """The tensor and its axis of which a node gives the size, alone; None where it gives something else."""
        source = producer(node.inputs[0]) if node.inputs and not node.domain else None
        picked = self._picked(node)
        if source is None or source.op != "Shape" or source.domain or picked is None:
            return None
        runs = self._shapes.get(source.inputs[0].name)
        if runs is None:
            return None
        rank = len(runs[0])
        axes = range(rank)[source.attrs.get("start", 0) : source.attrs.get("end", rank)]
        return (source.inputs[0], axes[picked]) if -len(axes) <= picked < len(axes) else None

    def _picked(self, node: gs.Node) -> int | None:
        """Which entry of a list a node gives alone."""
        if node.op == "Gather" and node.attrs.get("axis", 0) == 0:
            return self._number(node.inputs[1])
        runs = self._shapes.get(node.inputs[0].name if node.op == "Squeeze" else node.outputs[0].name)
        if runs is None or set(runs) != {(1,)}:
            return None
        if node.op == "Slice":
            return self._number(node.inputs[1])
        return 0 if node.op == "Squeeze" else None

    def _number(self, tensor: gs.Tensor) -> int | None:
        if not isinstance(tensor, gs.Constant) or tensor.name in self.overridable or elements(tensor) != 1:
            return None
        held = numbers(tensor)
        return int(held.reshape(-1)[0]) if held.dtype.kind in "iu" else None

    def sizes(self, tensor: gs.Tensor) -> tuple[Size, ...] | None:
        """How long each axis of a tensor is; None where that depends on more than the sizes of the inputs."""
        if isinstance(tensor, gs.Constant):
            return tuple((int(size),) * self._runs for size in tensor.shape)
        runs = self._shapes.get(tensor.name)
        return tuple(zip(*runs, strict=True)) if runs is not None else None

    def _viewed(self, tensor: gs.Tensor, after: tuple[Size, ...], depth: int) -> Grid | None:
        """The same entries with more or fewer axes of one."""
        grid, before = self.of(tensor, depth + 1), self.sizes(tensor)
        one, none = (1,) * self._runs, (0,) * self._runs
        if grid is None or before is None or [n for n in before if n != one] != [n for n in after if n != one]:
            return None
        steps = iter([step for size, step in zip(before, grid.steps, strict=True) if size != one])
        return Grid(grid.start, tuple(none if size == one else next(steps) for size in after))

    def _spread(self, tensor: gs.Tensor, sizes: tuple[Size, ...], depth: int) -> Grid | None:
        """An operand's grid over the sizes of what is made of it: axes of one entry are repeated."""
        grid = self.of(tensor, depth + 1)
        before = self.sizes(tensor)
        if grid is None or before is None or len(before) > len(sizes):
            return None
        one, none = (1,) * self._runs, (0,) * self._runs
        steps = []
        for size, step, whole in zip(before, grid.steps, sizes[len(sizes) - len(before) :], strict=True):
            if size not in {one, whole}:
                return None
            steps.append(none if size == one else step)
        return Grid(grid.start, ((none,) * (len(sizes) - len(before)) + tuple(steps)))


def product(*sizes: Size) -> Size:
    """Numbers multiplied run by run."""
    return tuple(math.prod(one) for one in zip(*sizes, strict=True))


def _combined(kind: str, one: Grid, other: Grid) -> Grid | None:
    """The sum, difference or product of two grids over the same axes."""
    if kind != "Mul":
        return one.plus(other if kind == "Add" else other.times((-1,) * len(other.start)))
    number, grid = (one, other) if one.is_number else (other, one)
    return grid.times(number.start) if number.is_number else None
