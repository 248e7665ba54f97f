"""Operators that state sizes or positions, restated for the axes as they are after a cut.

Shape and Size are made to answer with the *old* sizes, so that whatever is computed from them stays what it was: a
scale, a mean's divisor, a batch size divided out of a merged axis. Only the operators that lay out a cut axis are told
the new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, find, is_one, leaves
from onnxprune.dimensions.keeping import Keeping
from onnxprune.dimensions.tracer import Axes, key_of
from onnxprune.dimensions.wiring import Wiring
from onnxprune.errors import Declined

Action = Callable[[], None]
Array = np.ndarray[Any, Any]
# A size that only the operator's own shape input knows.
COMPUTED = -7


class Restater:
    """Plans, and then makes, the restatements of one cut. Planning raises Declined; the actions do not."""

    def __init__(self, keeping: Keeping, wiring: Wiring) -> None:
        self.keeping = keeping
        self.layout = keeping.layout
        self.wiring = wiring
        self._kinds: dict[str, Callable[[gs.Node], Action | None]] = {
            "measure": self._measure,
            "reshape": self._reshape,
            "expand": self._expand,
            "fill": self._fill,
            "tile": self._tile,
            "split": self._split,
            "slice": self._slice,
            "gather": self._gather,
            "resize": self._resize,
            "concat": self._concat,
        }

    def plan(self, node: gs.Node) -> Action | None:
        """What to do about this node; None where nothing changes."""
        sink = self.layout.sinks.get(key_of(node))
        return None if sink is None else self._kinds[sink.kind](node)

    def _read(self, node: gs.Node, index: int = 0) -> Axes:
        return self.layout.read.get((key_of(node), index), [])

    def _made(self, node: gs.Node, index: int = 0) -> Axes:
        return self.layout.made.get(node.outputs[index].name, [])

    def _cut(self, axes: Axes) -> bool:
        return any(self.keeping.touches(factor) for factor in axes)

    def _literal(self, factor: Factor) -> int | None:
        size = self.keeping.size(factor)
        return size[0] if min(size) == max(size) else None

    # -- sizes that are read ------------------------------------------------------------------------------------------

    def _measure(self, node: gs.Node) -> Action | None:
        axes = self.layout.made.get(node.inputs[0].name, [])
        if node.op == "Shape":
            start, end = int(node.attrs.get("start", 0)), node.attrs.get("end")
            axes = axes[start : None if end is None else int(end)]
        if not self._cut(axes):
            return None
        ratios = np.asarray([self.keeping.ratio(factor) for factor in axes], dtype=np.int64)  # [axes, 2]
        if node.op == "Size":
            ratios = np.prod(ratios, axis=0)
        old, new = ratios[..., 0], ratios[..., 1]
        return lambda: self._scale_back(node, old, new)

    def _scale_back(self, node: gs.Node, old: Array, new: Array) -> None:
        measured = node.outputs[0]
        readers = [(reader, at) for reader in measured.outputs for at, t in enumerate(reader.inputs) if t is measured]
        times, product = self.wiring.compute(
            "Mul", [measured, self.wiring.constant(f"{measured.name}.old", old)], f"{measured.name}.times"
        )
        divide, result = self.wiring.compute(
            "Div", [product, self.wiring.constant(f"{measured.name}.new", new)], f"{measured.name}.before"
        )
        seen: set[tuple[int, int]] = set()
        for reader, at in readers:
            if (id(reader), at) not in seen:
                seen.add((id(reader), at))
                self.wiring.connect(reader, at, result)
        self.wiring.after(node, times, divide)

    # -- sizes that are stated ----------------------------------------------------------------------------------------

    def _reshape(self, node: gs.Node) -> Action | None:
        axes, output = self._read(node), self._made(node)
        if not self._cut(output):
            return None
        literals = [self._literal(factor) for factor in output]
        stated = [COMPUTED if literal is None else literal for literal in literals]
        for axis, factor in enumerate(output):
            same = axis < len(axes) and leaves(factor) == leaves(axes[axis])
            if stated[axis] == COMPUTED and same and not node.attrs.get("allowzero", 0):
                stated[axis] = 0
        if stated.count(COMPUTED) == 1:
            stated[stated.index(COMPUTED)] = -1
        return self._state(node, 1, output, stated)

    def _expand(self, node: gs.Node) -> Action | None:
        axes, output = self._read(node), self._made(node)
        if not self._cut(output):
            return None
        stated = []
        for at, factor in enumerate(output):
            axis = at - len(output) + len(axes)
            kept = axis >= 0 and not is_one(axes[axis].size)
            literal = 1 if kept else self._literal(factor)
            stated.append(COMPUTED if literal is None else literal)
        return self._state(node, 1, output, stated)

    def _fill(self, node: gs.Node) -> Action | None:
        output = self._made(node)
        if not self._cut(output):
            return None
        literals = [self._literal(factor) for factor in output]
        return self._state(node, 0, output, [COMPUTED if literal is None else literal for literal in literals])

    def _tile(self, node: gs.Node) -> Action | None:
        axes, output = self._read(node), self._made(node)
        stated = []
        for axis, out in zip(axes, output, strict=True):
            before = [b // a for a, b in zip(axis.size, out.size, strict=True)]
            after = [b // a for a, b in zip(self.keeping.size(axis), self.keeping.size(out), strict=True)]
            stated.append(COMPUTED if before == after else after[0])
            if before != after and len(set(after)) > 1:
                raise Declined(f"{node.op} {key_of(node)!r} repeats units a number of times that varies")
        if stated.count(COMPUTED) == len(stated):
            return None
        return self._state(node, 1, [], stated)

    def _resize(self, node: gs.Node) -> Action | None:
        output = self._made(node)
        if len(node.inputs) < 4 or not node.inputs[3].name or not self._cut(output) or "axes" in node.attrs:
            return None
        return self._state(
            node, 3, [], [self._literal(f) or 0 if self.keeping.touches(f) else COMPUTED for f in output]
        )

    def _state(self, node: gs.Node, slot: int, output: Axes, stated: list[int]) -> Action:
        """Give the node a shape of its own: literals where sizes are constant, its old shape's entries elsewhere."""
        ratios = [self.keeping.ratio(factor) for factor in output] or [(1, 1)] * len(stated)
        return lambda: self._give_shape(node, slot, stated, ratios)

    def _give_shape(self, node: gs.Node, slot: int, stated: list[int], ratios: list[tuple[int, int]]) -> None:
        wiring, old = self.wiring, node.inputs[slot]
        name = old.name or f"{node.outputs[0].name}.shape"
        if COMPUTED not in stated:
            wiring.connect(node, slot, wiring.integers(f"{name}.kept", stated))
            return
        entries: gs.Tensor = old
        computed = np.asarray([entry == COMPUTED for entry in stated])
        if any(ratio != (1, 1) for ratio, held in zip(ratios, computed, strict=True) if held):
            # -1 and 0 keep their meaning: both survive the product, -1 only where nothing divides it.
            times, product = wiring.compute(
                "Mul", [old, wiring.integers(f"{name}.new", [b for _, b in ratios])], f"{name}.times"
            )
            divide, scaled = wiring.compute(
                "Div", [product, wiring.integers(f"{name}.old", [a for a, _ in ratios])], f"{name}.scaled"
            )
            less, negative = wiring.compute("Less", [old, wiring.integers(f"{name}.zero", [0])], f"{name}.negative")
            negative.dtype = np.bool_
            where, entries = wiring.compute("Where", [negative, old, scaled], f"{name}.entries")
            wiring.before(node, times, divide, less, where)
        choose, shape = wiring.compute(
            "Where",
            [wiring.constant(f"{name}.computed", computed), entries, wiring.integers(f"{name}.literal", stated)],
            f"{name}.kept",
        )
        wiring.before(node, choose)
        wiring.connect(node, slot, shape)

    # -- positions ----------------------------------------------------------------------------------------------------

    def _split(self, node: gs.Node) -> Action | None:
        axes = self._read(node)
        axis = int(node.attrs.get("axis", 0)) % len(axes)
        if not self.keeping.touches(axes[axis]):
            return None
        sizes = [self._literal(self._made(node, index)[axis]) for index in range(len(node.outputs))]
        if any(size is None or size == 0 for size in sizes):
            raise Declined(f"{node.op} {key_of(node)!r} divides units from a part of varying length")
        known = [size for size in sizes if size is not None]

        def act() -> None:
            if "split" in node.attrs:
                node.attrs["split"] = known
                return
            node.attrs.pop("num_outputs", None)
            self.wiring.connect(node, 1, self.wiring.integers(f"{node.outputs[0].name}.sizes", known))

        return act

    def _concat(self, node: gs.Node) -> Action | None:
        axes = self._made(node)
        mask = self.keeping.mask(axes[int(node.attrs["axis"]) % len(axes)])
        if mask is None:
            return None
        stay = np.asarray(mask.reshape(len(node.inputs), -1).any(axis=1))
        return lambda: self._leave_out(node, stay)

    def _leave_out(self, node: gs.Node, stay: Array) -> None:
        node.inputs = [tensor for tensor, stays in zip(node.inputs, stay, strict=True) if stays]

    def _remapped(self, factor: Factor, out: Factor | None, picks: Array) -> Array | None:
        """Where the picked entries lie after the cut, those that went left out; None where nothing moved."""
        keep = self.keeping.mask(factor)
        keep_out = None if out is None else self.keeping.mask(out)
        if keep is None and keep_out is None:
            return None
        if keep is None:
            keep = np.ones(find(factor).size[0], dtype=np.bool_)
        left = picks if keep_out is None else picks[keep_out]
        if not keep[left].all():
            raise Declined("an operator picks single units of it by position")
        return np.asarray((np.cumsum(keep) - 1)[left])

    def _slice(self, node: gs.Node) -> Action | None:
        axes, output = self._read(node), self._made(node)
        bounds: dict[int, tuple[int, int, int]] = {}
        for axis, picks in self.layout.sinks[key_of(node)].picks.items():
            where = self._remapped(axes[axis], output[axis], picks)
            if where is None:
                continue
            steps = set(np.diff(where).tolist()) or {1}
            if len(steps) > 1:
                raise Declined(f"{node.op} {key_of(node)!r} would need uneven steps")
            step = steps.pop()
            end = int(where[-1]) + step
            bounds[axis] = (int(where[0]), end if end >= 0 else -(find(axes[axis]).size[0] + 1), step)
        return (lambda: self._give_bounds(node, bounds)) if bounds else None

    def _give_bounds(self, node: gs.Node, bounds: dict[int, tuple[int, int, int]]) -> None:
        order = self.layout.sinks[key_of(node)].order
        if "starts" in node.attrs:
            for at, key in enumerate(("starts", "ends")):
                pairs = zip(order, node.attrs[key], strict=True)
                node.attrs[key] = [bounds[axis][at] if axis in bounds else old for axis, old in pairs]
            return
        slots = (1, 2, 4) if len(node.inputs) > 4 and node.inputs[4].name else (1, 2)
        for slot in slots:
            at = {1: 0, 2: 1, 4: 2}[slot]
            old = node.inputs[slot]
            mine = np.asarray([axis in bounds for axis in order])
            literal = np.asarray([bounds[axis][at] if axis in bounds else 0 for axis in order])
            if isinstance(old, gs.Constant):
                new = np.where(mine, literal, old.values).astype(old.values.dtype)
                self.wiring.connect(node, slot, self.wiring.constant(f"{old.name}.kept", new))
            elif mine.all():
                self.wiring.connect(node, slot, self.wiring.integers(f"{old.name}.kept", literal.tolist()))
            else:
                choose, result = self.wiring.compute(
                    "Where",
                    [
                        self.wiring.constant(f"{old.name}.cut", mine),
                        self.wiring.integers(f"{old.name}.literal", literal.tolist()),
                        old,
                    ],
                    f"{old.name}.kept",
                )
                self.wiring.before(node, choose)
                self.wiring.connect(node, slot, result)

    def _gather(self, node: gs.Node) -> Action | None:
        axes, output = self._read(node), self._made(node)
        ((axis, picks),) = self.layout.sinks[key_of(node)].picks.items()
        scalar = len(output) < len(axes)
        where = self._remapped(axes[axis], None if scalar else output[axis], picks)
        if where is None:
            return None
        indices = np.asarray(where[0] if scalar else where, dtype=np.int64)
        if node.op == "GatherND":
            indices = indices.reshape(-1, 1)
        name = f"{node.outputs[0].name}.indices"
        return lambda: self.wiring.connect(node, 1, self.wiring.constant(name, indices))
