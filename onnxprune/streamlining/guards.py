"""Guards against rows that a mask blanks: gone where no row can be blank, moved to the mask where one may be.

A softmax over nothing but minus infinities is NaN, and exporters write Where(IsNaN(p), 0, p) behind it: two walks over
the largest tensors of a model. Where the mask is finite, no such row exists. Where it is not, it is made finite, a
number so low that every other entry of its row still gets a share of exactly zero, and rows that were blank are zeroed
behind the product, which is smaller; whether a row is blank is asked once for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.rewrite import Rewriter, substitute
from onnxprune.streamlining.reach import Reach
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish
from onnxprune.streamlining.values import LARGEST_INPUT, Values, over_last_axis


@dataclass(frozen=True)
class _Guard:
    """Where(IsNaN(shares), 0, shares) behind a softmax of `scores`."""

    node: gs.Node
    softmax: gs.Node

    @property
    def scores(self) -> gs.Tensor:
        return self.softmax.inputs[0]

    @property
    def shares(self) -> gs.Tensor:
        return self.softmax.outputs[0]


def _carry_out(model: Model, _: Wish) -> Done:
    graph = model.graph
    found = [guard for node in graph.nodes if (guard := _guard_at(node, model.overridable)) is not None]
    if not found:
        return Done()
    values = Values(graph, model.overridable)
    moved = _Moved(Rewriter(graph), values)
    places, kept = 0, []
    for guard in found:
        name = guard.node.outputs[0].name
        if any(out is guard.node.outputs[0] for out in graph.outputs):
            kept.append((name, "a NaN guard is kept: it makes an output of the model"))
        elif values.of(guard.scores).finite:
            substitute(guard.node.outputs[0], guard.node.inputs[2])
            places += 1
        else:
            try:
                moved.move(guard)
                places += 1
            except Declined as why:
                kept.append((name, f"a NaN guard is kept: {why}"))
    moved.rewriter.finish()
    assumed = f"float inputs taken to stay within ±{LARGEST_INPUT:g}" if places and values.inputs else ""
    return Done(places, tuple(kept), assumed)


def _guard_at(node: gs.Node, overridable: frozenset[str]) -> _Guard | None:
    if node.op != "Where" or node.domain or len(node.inputs) != 3:
        return None
    condition, zero, shares = node.inputs
    asks, softmax = producer(condition), producer(shares)
    if asks is None or asks.op != "IsNaN" or asks.domain or asks.inputs[0] is not shares:
        return None
    if softmax is None or softmax.op != "Softmax" or softmax.domain:
        return None
    # One zero, which is spread over the shares and not they over it.
    if not isinstance(zero, gs.Constant) or zero.name in overridable or numbers(zero).size != 1 or numbers(zero).any():
        return None
    return _Guard(node, softmax) if numbers(zero).ndim <= 1 else None


class _Moved:
    """Guards that are moved to their masks, each mask once."""

    def __init__(self, rewriter: Rewriter, values: Values) -> None:
        self.rewriter = rewriter
        self._values = values
        self._masks: dict[int, tuple[gs.Variable, gs.Variable]] = {}

    def move(self, guard: _Guard) -> None:
        """Move one guard.

        Raises:
            Declined: that would not be the same.
        """
        add, shares = producer(guard.scores), guard.node.outputs[0]
        if not over_last_axis(guard.softmax, self.rewriter.graph.opset or 1):
            raise Declined("the shares are not of the last axis")
        if any(given is tensor for given in self.rewriter.graph.outputs for tensor in (guard.scores, guard.shares)):
            raise Declined("the model gives out what it is computed from")
        if add is None or add.op != "Add" or add.domain or len(guard.scores.outputs) != 1:
            raise Declined(f"nothing bounds {guard.scores.name!r}, and no mask is added to it")
        if len(guard.softmax.outputs[0].outputs) != 2:
            raise Declined("the shares are read beside it")
        slot, mask = self._slot(add, guard.scores.name)
        readers = list(shares.outputs)
        if any(not _weighs(reader, shares) for reader in readers):
            raise Declined("what reads the shares is no product that sums over them")
        finite, rows = self._mask(add.inputs[slot], mask)
        add.inputs[slot] = finite
        substitute(shares, guard.softmax.outputs[0])
        for reader in readers:
            self._zeroed(reader, rows)

    def _slot(self, add: gs.Node, name: str) -> tuple[int, Reach]:
        """Which operand is the mask, and what it may hold."""
        for slot in (0, 1):
            mask, scores = self._values.of(add.inputs[slot]), self._values.of(add.inputs[1 - slot])
            if mask.minus and not (mask.plus or mask.nan) and scores.finite:
                # Below every score by more than any exponential can tell from zero.
                if mask.limit / 2 < 256 + 8 * (mask.size + scores.size):
                    raise Declined(f"{name!r} may be as low as what a finite mask would be")
                return slot, mask
        raise Declined(f"nothing says that {name!r} is finite where the mask is")

    def _mask(self, mask: gs.Tensor, reach: Reach) -> tuple[gs.Variable, gs.Variable]:
        """The mask with a low number for minus infinity, and 1 for each row in which some entry is above it, else 0."""
        if id(mask) not in self._masks:
            make = self.rewriter
            dtype = _float_type(reach.limit)
            floor = make.shared("mask.floor", np.array(-reach.limit / 2, dtype))
            finite, top, seen, rows = (
                make.variable(f"{mask.name}.{part}") for part in ("finite", "top", "seen", "rows")
            )
            kind = int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
            clipped = make.node("Max", [mask, floor], [finite])
            if (make.graph.opset or 1) >= 18:
                axes = make.shared("mask.axes", np.array([-1], np.int64))
                greatest = make.node("ReduceMax", [finite, axes], [top], keepdims=1)
            else:
                greatest = make.node("ReduceMax", [finite], [top], keepdims=1, axes=[-1])
            above = make.node("Greater", [top, floor], [seen])
            make.after(mask, [clipped, greatest, above, make.node("Cast", [seen], [rows], to=kind)])
            self._masks[id(mask)] = (finite, rows)
        return self._masks[id(mask)]

    def _zeroed(self, product: gs.Node, rows: gs.Variable) -> None:
        make, out = self.rewriter, product.outputs[0]
        whole = make.variable(f"{out.name}.unguarded")
        product.outputs = [whole]
        make.after(whole, [make.node("Mul", [whole, rows], [out])])


def _float_type(limit: float) -> np.dtype[Any]:
    """The float type of which a number is the greatest."""
    return next(np.dtype(kind) for kind in ("float16", "float32", "float64") if limit <= float(np.finfo(kind).max))


def _weighs(node: gs.Node, shares: gs.Tensor) -> bool:
    """Whether a node sums over the last axis of the shares and keeps their rows apart."""
    return node.op == "MatMul" and not node.domain and node.inputs[0] is shares and node.inputs[1] is not shares


NAN_GUARDS = Rewrite(
    name="nan-guards",
    what=("NaN guard gone", "NaN guards gone"),
    carry_out=_carry_out,
)
