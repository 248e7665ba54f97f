"""Numbers that a tensor is multiplied with move into the weights that it comes from.

Attention divides its scores by a root, or queries and keys each by a root of that; both are one number in the weights
and bias of a projection, or in its step where it is stored in integers. A scale goes back through whatever is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.rewrite import substitute
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

Array = np.ndarray[Any, Any]
Step = Callable[[], None]

# Operators that hand on their first operand, or all of them, entry by entry.
_VIEWS = {"Dropout", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
_DEEPEST = 24
# Larger weights would be written anew for a product that costs little beside them.
_ROUNDING_SAFE = 1e-3


def _carry_out(model: Model, _: Wish) -> Done:
    places = 0
    kept: list[tuple[str, str]] = []
    for node in list(model.graph.nodes):
        found = _scale_of(node, model.overridable)
        if found is None:
            continue
        slot, factor = found
        source, out = node.inputs[slot], node.outputs[0]
        if any(given is out for given in model.graph.outputs) or len(source.outputs) != 1:
            continue
        steps = _Absorbed(model).into(source, factor)
        if steps is None:
            kept.append(
                (out.name, f"a scale of {factor:.6g} stays: what it scales does not come of weights of its own")
            )
            continue
        for step in steps:
            step()
        substitute(out, source)
        node.inputs.clear()
        node.outputs.clear()
        places += 1
    return Done(places, tuple(kept))


def _scale_of(node: gs.Node, overridable: frozenset[str]) -> tuple[int, float] | None:
    """The operand that is scaled by one number, and the number."""
    if node.op not in {"Mul", "Div"} or node.domain or len(node.inputs) != 2:
        return None
    for slot in (0, 1) if node.op == "Mul" else (0,):
        value, other = _number(node.inputs[1 - slot], overridable), node.inputs[slot]
        if value is None or isinstance(other, gs.Constant):
            continue
        if node.op == "Div":
            value = 1 / value if value else None
        # Rounded to a smaller type a factor far from one may leave its range.
        if value is not None and np.isfinite(value) and _ROUNDING_SAFE < abs(value) < 1 / _ROUNDING_SAFE:
            return slot, value
    return None


def _number(tensor: gs.Tensor, overridable: frozenset[str]) -> float | None:
    """The one number of a float constant that a product does not spread its partner over."""
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable or len(tensor.shape) > 1:
        return None
    held = numbers(tensor)
    return float(held.reshape(-1)[0]) if held.size == 1 and held.dtype.kind == "f" else None


class _Absorbed:
    """Finds the constants that a tensor is linear in; nothing is edited before all are found."""

    def __init__(self, model: Model) -> None:
        self._outputs = {id(tensor) for tensor in model.graph.outputs}
        self._overridable = model.overridable

    def into(self, tensor: gs.Tensor, factor: float, depth: int = 0) -> list[Step] | None:
        """What scales a tensor that one node reads; None where no constants of its own can."""
        if depth > _DEEPEST or len(tensor.outputs) != 1 or id(tensor) in self._outputs:
            return None
        if isinstance(tensor, gs.Constant):
            return self._constant(tensor, factor)
        node = producer(tensor)
        if node is None or node.domain or sum(bool(out.outputs) for out in node.outputs) != 1:
            return None

        wanted = self._linear_in(node)
        for choice in wanted:
            parts = [self.into(node.inputs[at], factor, depth + 1) for at in choice]
            if all(part is not None for part in parts):
                return [step for part in parts for step in part or ()]
        return [_attributes(node, factor)] if node.op == "Gemm" else None

    def _linear_in(self, node: gs.Node) -> tuple[tuple[int, ...], ...]:
        """Operands that are to be scaled together for the output to be scaled, as choices."""
        if node.op in _VIEWS or node.op == "Div":
            return ((0,),)
        if node.op in {"Add", "Sub"}:
            return ((0, 1),)
        if node.op in {"Mul", "MatMul"} and node.inputs[0] is not node.inputs[1]:
            # Weights stand on the right, as do steps of integers.
            return ((1,), (0,))
        if node.op == "Conv":
            return (tuple(at for at in range(1, len(node.inputs)) if node.inputs[at].name),)
        return ()

    def _constant(self, tensor: gs.Constant, factor: float) -> list[Step] | None:
        if tensor.name in self._overridable:
            return None
        held = numbers(tensor)
        if held.dtype.kind != "f":
            return None
        with np.errstate(over="ignore"):
            # Of a single number numpy makes a scalar, which is no array.
            scaled = np.asarray(held.astype(np.float64) * factor).astype(held.dtype)
        # No entry may leave the type's range, above or below.
        if not np.isfinite(scaled).all() or ((scaled == 0) != (held == 0)).any():
            return None
        return [lambda: _write(tensor, scaled)]


def _write(tensor: gs.Constant, values: Array) -> None:
    tensor.values = values


def _attributes(node: gs.Node, factor: float) -> Step:
    def scale() -> None:
        node.attrs["alpha"] = float(node.attrs.get("alpha", 1.0)) * factor
        if len(node.inputs) > 2 and node.inputs[2].name:
            node.attrs["beta"] = float(node.attrs.get("beta", 1.0)) * factor

    return scale


SCALES = Rewrite(
    name="scales",
    what=("scale moved into weights", "scales moved into weights"),
    carry_out=_carry_out,
)
