"""The reach of every tensor of a graph, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers
from onnxprune.streamlining.reach import (
    MOST_ENTRIES,
    Reach,
    anything,
    contracted,
    either,
    limit_of,
    negative,
    of_array,
    product,
    quotient,
    total,
    weighed,
    within,
)

Rule = Callable[["Values", gs.Node, Sequence[Reach]], Reach]

# What a caller gives as floats is taken to be finite and no larger than this.
LARGEST_INPUT = 1e6
# Operators that hand on values of their first operand.
_MOVERS = {
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool",
    "GlobalMaxPool", "ReduceMax", "ReduceMin", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip
_TRUTHS = {
    "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
}  # fmt: skip
_BOUNDED = {
    "Erf": (-1, 1),
    "HardSigmoid": (0, 1),
    "Sigmoid": (0, 1),
    "Softsign": (-1, 1),
    "Tanh": (-1, 1),
    "Cos": (-1, 1),
    "Sin": (-1, 1),
}
# No more than their argument, and not below this.
_GATED = {"Gelu": 0.2, "HardSwish": 0.4, "Mish": 0.4, "Relu": 0.0, "Swish": 0.3}
_VARIANCE_SAFE = 1e15


class Values:
    """What each tensor of a graph may hold; computed once, node by node.

    Attributes:
        inputs: float inputs of the graph whose values were taken to stay within `LARGEST_INPUT`.
    """

    def __init__(self, graph: gs.Graph, overridable: frozenset[str] = frozenset()) -> None:
        self.inputs: set[str] = set()
        self.opset = int(graph.opset or 1)
        self._overridable = overridable
        self._known: dict[int, Reach] = {}
        for tensor in graph.inputs:
            self._known[id(tensor)] = self._given(tensor)
        for node in graph.nodes:
            found = self._visit(node, [self.of(tensor) for tensor in node.inputs])
            for tensor, reach in zip(node.outputs, found, strict=False):
                self._known[id(tensor)] = reach

    def of(self, tensor: gs.Tensor) -> Reach:
        """What a tensor may hold; anything where nothing is known of it."""
        if isinstance(tensor, gs.Constant) and id(tensor) not in self._known:
            if tensor.name in self._overridable:
                return anything(limit_of(tensor.dtype))
            self._known[id(tensor)] = of_array(numbers(tensor))
        return self._known.get(id(tensor), anything())

    def _given(self, tensor: gs.Tensor) -> Reach:
        limit = limit_of(tensor.dtype) if tensor.dtype is not None else limit_of(np.float32)
        if math.isinf(limit):
            return anything(limit)
        self.inputs.add(tensor.name)
        return Reach(low=-min(LARGEST_INPUT, limit), high=min(LARGEST_INPUT, limit), limit=limit)

    def _visit(self, node: gs.Node, held: Sequence[Reach]) -> Sequence[Reach]:
        """Of each output, as far as something is known of it."""
        if node.domain or not node.outputs or not held:
            return ()
        if node.op == "DynamicQuantizeLinear":
            return _quantized(held[0])
        if node.op == "Split":
            return [replace(held[0], shares=False)] * len(node.outputs)
        return (self._first(node, held),)

    def _first(self, node: gs.Node, held: Sequence[Reach]) -> Reach:
        if node.op in _TRUTHS:
            return _truth(node, held)
        if node.op in _MOVERS:
            return replace(held[0], shares=held[0].shares and node.op in {"Dropout", "Identity"})
        if node.op in _BOUNDED:
            low, high = _BOUNDED[node.op]
            return Reach(low=low, high=high, nan=held[0].nan, limit=held[0].limit)
        if node.op in _GATED:
            inner = held[0]
            return replace(
                inner, low=-_GATED[node.op], high=max(inner.high, 0.0), minus=False, nan=not inner.finite, shares=False
            )
        rule = _RULES.get(node.op)
        return rule(self, node, held) if rule is not None else anything()


def _quantized(inner: Reach) -> tuple[Reach, Reach, Reach]:
    """Bytes, their step and the place of zero."""
    byte = Reach(low=0, high=255, limit=math.inf)
    spread = max(inner.high, 0.0) - min(inner.low, 0.0)
    # Where all is zero the step may be 1.
    step = within(0, max(1.0, spread / 255), limit=inner.limit) if inner.finite else anything(inner.limit)
    return byte, step, byte


def _truth(node: gs.Node, held: Sequence[Reach]) -> Reach:
    maybe = Reach(low=0, high=1, limit=math.inf)
    if node.op == "IsNaN":
        return maybe if held[0].nan else replace(maybe, high=0)
    if node.op == "And" and any(one.settled is False for one in held):
        return replace(maybe, high=0)
    if node.op == "Or" and any(one.settled is True for one in held):
        return replace(maybe, low=1)
    return maybe


def _add(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    first, second = held[0], negative(held[1]) if node.op == "Sub" else held[1]
    return total(first, second)


def _sum(_: Values, _node: gs.Node, held: Sequence[Reach]) -> Reach:
    result = held[0]
    for one in held[1:]:
        result = total(result, one)
    return replace(result, shares=False)


def _multiplied(_: Values, _node: gs.Node, held: Sequence[Reach]) -> Reach:
    return product(held[0], held[1])


def _divided(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    found = quotient(held[0], held[1])
    if found.finite or not held[0].finite:
        return found
    return _standardised(node, held) or found


def _standardised(node: gs.Node, held: Sequence[Reach]) -> Reach | None:
    """Of x / sqrt(mean(x²) + ε), which no entry takes beyond the root of their number."""
    top, root = node.inputs[0], _made(node.inputs[1], "Sqrt")
    plus = None if root is None else _made(root.inputs[0], "Add")
    mean = None if plus is None else next((m for t in plus.inputs if (m := _made(t, "ReduceMean")) is not None), None)
    square = None if mean is None else (_made(mean.inputs[0], "Pow") or _made(mean.inputs[0], "Mul"))
    if square is None or plus is None or square.inputs[0] is not top or held[0].size > _VARIANCE_SAFE:
        return None
    floor = next((numbers(t) for t in plus.inputs if isinstance(t, gs.Constant)), None)
    if floor is None or floor.size != 1 or not float(floor.reshape(-1)[0]) > 0:
        return None
    squared = square.inputs[1] is top if square.op == "Mul" else _is_two(square.inputs[1])
    bound = math.sqrt(MOST_ENTRIES)
    return Reach(low=-bound, high=bound, limit=held[0].limit) if squared else None


def _made(tensor: gs.Tensor, op: str) -> gs.Node | None:
    node = tensor.inputs[0] if tensor.inputs else None
    return node if node is not None and node.op == op and not node.domain else None


def _is_two(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and numbers(tensor).size == 1 and float(numbers(tensor).reshape(-1)[0]) == 2


def _where(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    condition, first, second = held
    if condition.settled is not None:
        return first if condition.settled else second
    guarded = _made(node.inputs[0], "IsNaN")
    if guarded is not None and guarded.inputs[0] is node.inputs[2]:
        # What is replaced is what is no number; a row of shares is replaced by less.
        rest = replace(second, nan=False)
        return replace(either([first, rest]), shares=second.shares and first.low == first.high == 0)
    return either([first, second])


def _softmax(values: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    # A row of nothing but minus infinity is divided by a sum of zero.
    last = over_last_axis(node, values.opset)
    return Reach(low=0, high=1, nan=not held[0].finite, shares=last, limit=held[0].limit)


def over_last_axis(softmax: gs.Node, opset: int) -> bool:
    """Whether shares are of the last axis alone."""
    axis = int(softmax.attrs.get("axis", -1 if opset >= 13 else 1))
    shape = softmax.outputs[0].shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _matmul(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    first, second = held[0], held[1]
    weight = node.inputs[1]
    if isinstance(weight, gs.Constant) and second.finite and len(weight.shape) >= 2:
        array = numbers(weight)
        return weighed(first, array.reshape(-1, *array.shape[-2:]).swapaxes(0, 1).reshape(array.shape[-2], -1))
    return contracted(first, second, _terms(weight))


def _terms(tensor: gs.Tensor) -> float:
    """Over how many terms a product sums that reads a tensor on its right."""
    size = tensor.shape[-2] if tensor.shape is not None and len(tensor.shape) > 1 else None
    return float(size) if isinstance(size, int) else MOST_ENTRIES


def _integer_matmul(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    # A byte less the place of its zero.
    first = Reach(low=-255, high=255, limit=math.inf)
    second = held[1] if isinstance(node.inputs[1], gs.Constant) and len(held) < 4 else first
    return contracted(first, second, _terms(node.inputs[1]))


def _gemm(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    weight = node.inputs[1]
    if isinstance(weight, gs.Constant) and held[1].finite and not node.attrs.get("transA", 0):
        array = numbers(weight)
        found = weighed(held[0], array.T if node.attrs.get("transB", 0) else array)
    else:
        found = contracted(held[0], held[1])
    found = product(found, _number(float(node.attrs.get("alpha", 1.0)), found.limit))
    if len(held) < 3:
        return found
    return total(found, product(held[2], _number(float(node.attrs.get("beta", 1.0)), found.limit)))


def _convolved(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant) or not held[1].finite or node.op != "Conv":
        return anything(held[0].limit)
    array = numbers(weight)
    found = weighed(held[0], array.reshape(array.shape[0], -1).T)
    return found if len(held) < 3 else total(found, held[2])


def _number(value: float, limit: float) -> Reach:
    return Reach(low=value, high=value, limit=limit)


def _normalised(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    gain = node.inputs[1]
    if not held[0].finite or held[0].size > _VARIANCE_SAFE or not held[1].finite:
        return anything(held[0].limit)
    entries = float(np.prod(gain.shape)) if isinstance(gain, gs.Constant) and gain.shape else MOST_ENTRIES
    bound = math.sqrt(entries) * held[1].size * 1.01 + (held[2].size if len(held) > 2 else 0)
    if len(held) > 2 and not held[2].finite:
        return anything(held[0].limit)
    return within(-bound, bound, limit=held[0].limit)


def _clipped(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    inner = held[0]
    bounds = [held[at] if len(node.inputs) > at and node.inputs[at].name and len(held) > at else None for at in (1, 2)]
    low = bounds[0].low if bounds[0] is not None else float(node.attrs.get("min", -math.inf))
    high = bounds[1].high if bounds[1] is not None else float(node.attrs.get("max", math.inf))
    if any(bound is not None and not bound.finite for bound in bounds) or low > high:
        return anything(inner.limit)
    least, most = min(max(inner.low, low), high), max(min(inner.high, high), low)
    return replace(
        inner,
        low=least,
        high=most,
        minus=inner.minus and math.isinf(low),
        plus=inner.plus and math.isinf(high),
        shares=False,
    )


def _largest(_: Values, _node: gs.Node, held: Sequence[Reach]) -> Reach:
    result = either(held)
    if any(one.finite for one in held):
        floor = max(one.low for one in held if one.finite)
        return replace(result, low=max(result.low, floor) if not result.nan else result.low, minus=False)
    return result


def _cast(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))
    inner = held[0]
    if np.dtype(dtype).kind == "b":
        return Reach(low=0, high=1, limit=math.inf)
    limit = limit_of(dtype)
    if math.isinf(limit):
        return Reach(low=inner.low, high=inner.high, limit=limit) if inner.finite else anything(limit)
    # Integers have at most 64 bits.
    low, high = max(inner.low, -(2.0**64)), min(inner.high, 2.0**64)
    if math.isfinite(inner.limit):
        low, high = inner.low, inner.high
    return within(low, high, limit=limit, flags=inner)


def _signed(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    inner = held[0]
    if node.op == "Neg":
        return negative(inner)
    return replace(inner, low=0.0, high=inner.size, plus=inner.plus or inner.minus, minus=False, shares=False)


def _root(_: Values, _node: gs.Node, held: Sequence[Reach]) -> Reach:
    inner = held[0]
    if not inner.finite or inner.low < 0:
        return anything(inner.limit)
    return replace(inner, low=math.sqrt(inner.low), high=math.sqrt(inner.high), shares=False)


def _mean(_: Values, _node: gs.Node, held: Sequence[Reach]) -> Reach:
    # The sum is taken first, and may overflow.
    return held[0] if held[0].finite and held[0].size * MOST_ENTRIES < held[0].limit else anything(held[0].limit)


def _power(_: Values, node: gs.Node, held: Sequence[Reach]) -> Reach:
    if not _is_two(node.inputs[1]):
        return anything(held[0].limit)
    found = product(held[0], held[0])
    return replace(found, low=max(found.low, 0.0)) if found.finite else found


def _joined(_: Values, _node: gs.Node, held: Sequence[Reach]) -> Reach:
    return either(held)


def _counted(_: Values, _node: gs.Node, _held: Sequence[Reach]) -> Reach:
    return Reach(low=0, high=MOST_ENTRIES, limit=math.inf)


def _filled(_: Values, node: gs.Node, _held: Sequence[Reach]) -> Reach:
    value = node.attrs.get("value")
    array = np.asarray(
        value.values if isinstance(value, gs.Constant) else np.zeros(1, np.float32) if value is None else value
    )
    return of_array(array)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Sub"), _add),
    **dict.fromkeys(("Abs", "Neg"), _signed),
    **dict.fromkeys(("Shape", "Size"), _counted),
    "Cast": _cast,
    "Clip": _clipped,
    "Concat": _joined,
    "ConstantOfShape": _filled,
    "Conv": _convolved,
    "Div": _divided,
    "Gemm": _gemm,
    "LayerNormalization": _normalised,
    "MatMul": _matmul,
    "MatMulInteger": _integer_matmul,
    "Max": _largest,
    "Mul": _multiplied,
    "Pow": _power,
    "RMSNormalization": _normalised,
    "ReduceMean": _mean,
    "Softmax": _softmax,
    "Sqrt": _root,
    "Sum": _sum,
    "Where": _where,
}
