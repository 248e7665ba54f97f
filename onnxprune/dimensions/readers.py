"""Readers that keep other entries of a shared tensor than the tensor itself: each gets its own slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, find, leaves
from onnxprune.dimensions.keeping import Keeping
from onnxprune.dimensions.wiring import Wiring
from onnxprune.errors import Declined

Array = np.ndarray[Any, Any]
Action = Callable[[], None]


@dataclass(frozen=True, eq=False)
class _Pick:
    """What one reader takes of one axis: of a whole static axis, or of a factor inside [outer, units, inner]."""

    node: gs.Node
    index: int
    axis: int
    kept: Array
    split: tuple[int, int, int] | None = None


def separable(axis: Factor, leaf: Factor) -> bool:
    """Whether a reader may take its own entries of a leaf: on a static axis, or a plain product with one unknown."""
    root = find(axis)
    if root.static:
        return True
    parts = [find(part) for part in leaves(root)]
    if root.op != "product" or any(find(part).op for part in root.parts) or parts.count(find(leaf)) != 1:
        return False
    at = parts.index(find(leaf))
    sides = (parts[:at], parts[at + 1 :])
    return parts[at].static and any(all(part.static for part in side) for side in sides)


def plan_readers(keeping: Keeping, nodes: dict[str, gs.Node], wiring: Wiring) -> list[Action]:
    """One action for every slice that a reader needs.

    Raises:
        Declined: a reader needs units that are cut from the tensor itself.
    """
    picks = [
        pick
        for tie in keeping.layout.ties
        if tie.tensor not in keeping.layout.constants
        for axis, (made, read) in enumerate(zip(tie.made, tie.read, strict=True))
        if keeping.touches(made) or keeping.touches(read)
        for pick in _picks(keeping, nodes[tie.slot[0]], tie.slot[1], axis, made, read)
    ]
    return [lambda pick=pick: _carry_out(wiring, pick) for pick in picks]  # type: ignore[misc]  # binds the pick


def _kept(there: Array, here: Array, tensor: str) -> Array:
    if (here & ~there).any():
        raise Declined(f"a reader of {tensor!r} needs units that are cut from it")
    return np.flatnonzero(here[there])


def _picks(keeping: Keeping, node: gs.Node, index: int, axis: int, made: Factor, read: Factor) -> Iterator[_Pick]:
    name = node.inputs[index].name
    if find(made).static:
        there, here = keeping.entries(made), keeping.entries(read)
        if not np.array_equal(there, here):
            yield _Pick(node, index, axis, _kept(there, here, name))
        return
    parts, others = leaves(made), leaves(read)
    for at, (part, other) in enumerate(zip(parts, others, strict=True)):
        if part is other or not part.static:
            continue
        there, here = keeping.entries(part), keeping.entries(other)
        if np.array_equal(there, here):
            continue
        outer = _known([keeping.size(each) for each in others[:at]])
        inner = _known([keeping.size(each) for each in parts[at + 1 :]])
        if outer == inner == -1:
            raise Declined(f"units of {name!r} lie between two parts of varying length")
        yield _Pick(node, index, axis, _kept(there, here, name), (outer, int(there.sum()), inner))


def _known(sizes: list[tuple[int, ...]]) -> int:
    """The product of sizes, -1 where it varies."""
    total = 1
    for size in sizes:
        if min(size) != max(size):
            return -1
        total *= size[0]
    return total


def _carry_out(wiring: Wiring, pick: _Pick) -> None:
    source = pick.node.inputs[pick.index]
    name = source.name
    if pick.split is None:
        out = _gather(wiring, pick.node, source, pick.axis, pick.kept)
    else:
        lead, tail = _sizes_around(wiring, pick.node, source, pick.axis)
        outer, units, inner = pick.split
        apart = _reshape(
            wiring, pick.node, source, [*lead, wiring.integers(f"{name}.apart", [outer, units, inner]), *tail]
        )
        taken = _gather(wiring, pick.node, apart, pick.axis + 1, pick.kept)
        merged = -1 if -1 in pick.split else outer * len(pick.kept) * inner
        out = _reshape(wiring, pick.node, taken, [*lead, wiring.integers(f"{name}.whole", [merged]), *tail])
    wiring.connect(pick.node, pick.index, out)


def _gather(wiring: Wiring, node: gs.Node, source: gs.Tensor, axis: int, kept: Array) -> gs.Variable:
    indices = wiring.integers(f"{source.name}.units", kept.tolist())
    gather, out = wiring.compute("Gather", [source, indices], f"{source.name}.kept", axis=axis)
    out.dtype = source.dtype
    wiring.before(node, gather)
    return out


def _sizes_around(
    wiring: Wiring, node: gs.Node, source: gs.Tensor, axis: int
) -> tuple[list[gs.Tensor], list[gs.Tensor]]:
    """The sizes of the axes before and behind one axis, as the tensor has them at run time."""
    name = source.name
    shape, sizes = wiring.compute("Shape", [source], f"{name}.shape")
    sizes.dtype = np.dtype(np.int64)
    bounds = [([0], [axis])] if axis else []
    bounds.append(([axis + 1], [2**31]))
    parts = []
    wiring.before(node, shape)
    for start, end in bounds:
        cut, part = wiring.compute(
            "Slice",
            [sizes, wiring.integers(f"{name}.start", start), wiring.integers(f"{name}.end", end)],
            f"{name}.sizes",
        )
        wiring.before(node, cut)
        parts.append(part)
    return parts[:-1], parts[-1:]


def _reshape(wiring: Wiring, node: gs.Node, source: gs.Tensor, pieces: list[gs.Tensor]) -> gs.Variable:
    join, shape = wiring.compute("Concat", pieces, f"{source.name}.target", axis=0)
    shape.dtype = np.dtype(np.int64)
    reshape, out = wiring.compute("Reshape", [source, shape], f"{source.name}.laid")
    out.dtype = source.dtype
    wiring.before(node, join, reshape)
    return out
