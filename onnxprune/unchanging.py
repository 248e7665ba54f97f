"""Which entries of every tensor never change, whatever the graph is given.

Zero weights, zero gates and zero gains cut entries off from the inputs; what is computed from such entries and
constants alone is cut off too. Nothing is concluded from what merely happens in a run: values are read off a run only
for entries that have been shown not to change. Entries that depend on the sizes of the inputs count as changing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...]]
Rule = Callable[["Unchanging", gs.Node], "Array | None"]

# Softmax rows sum to one up to rounding: a weighted mean of one number is that number up to this share of it.
_UNIFORM = {2: 4e-3, 4: 1e-5, 8: 1e-5}


class Unchanging:
    """Walks a graph once.

    Attributes:
        still: variable -> which entries never change [its shape]; variables without such entries are left out.
        asked: variables whose values in a run would tell more; without them all of these are taken to be zero, so that
            one walk says whether a run is worth it.
    """

    def __init__(
        self,
        graph: gs.Graph,
        shapes: Shapes,
        values: Mapping[str, Array] | None = None,
        *,
        overridable: frozenset[str] = frozenset(),
    ) -> None:
        self.still: dict[str, Array] = {}
        self.asked: dict[str, None] = {}
        self.opset = int(graph.opset or 1)
        self._overridable = overridable
        self._shapes = shapes
        self._values = values
        # Constants and views of them: weights are looked at in place.
        self._known: dict[str, Array] = {}
        for node in graph.nodes:
            self._visit(node)

    def _visit(self, node: gs.Node) -> None:
        if any(t.name not in self._shapes for t in (*node.inputs, *node.outputs[:1]) if t.name and not _fixed(t)):
            return
        if node.op in _VIEWS and not node.domain and self.known(node.inputs[0]) is not None:
            self._view(node)
            return
        if node.op == "Split" and not node.domain:
            self._split(node)
            return
        rule = _RULES.get((node.domain or "", node.op))
        if rule is None:
            return
        held = rule(self, node)
        if held is not None and held.any():
            self.still[node.outputs[0].name] = np.broadcast_to(held, self.shape(node.outputs[0]))

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Of a tensor, in the run whose shapes were given."""
        return tuple(tensor.shape) if _fixed(tensor) else self._shapes[tensor.name]

    def known(self, tensor: gs.Tensor) -> Array | None:
        """Values of a constant, or of a view of one."""
        if tensor.name in self._overridable:
            return None
        return numbers(tensor) if _fixed(tensor) else self._known.get(tensor.name)

    def of(self, tensor: gs.Tensor) -> Array | None:
        """Which entries never change; None where none is known not to."""
        if self.known(tensor) is not None:
            return np.broadcast_to(np.True_, self.shape(tensor))
        return self.still.get(tensor.name)

    def zero(self, tensor: gs.Tensor) -> Array | None:
        """Which entries are always zero; without a run's values, which may be."""
        known = self.known(tensor)
        if known is not None:
            return np.asarray(known == 0)
        still = self.still.get(tensor.name)
        if still is None:
            return None
        self.asked[tensor.name] = None
        if self._values is None:
            return still
        return np.asarray(still & (self._values[tensor.name] == 0)) if tensor.name in self._values else None

    def alike(self, tensor: gs.Tensor, axis: int) -> Array | None:
        """Which entries never change and are one number along an axis, which stays with size 1."""
        still = self.of(tensor)
        if still is None:
            return None
        held = np.asarray(still.all(axis=axis, keepdims=True))
        values = self.known(tensor)
        if values is None:
            self.asked[tensor.name] = None
            values = self._values.get(tensor.name) if self._values is not None else None
            if values is None:
                return held if self._values is None else None
        return np.asarray(held & uniform(values, axis))

    def _view(self, node: gs.Node) -> None:
        values = self.known(node.inputs[0])
        if values is None:
            return
        out = node.outputs[0]
        if node.op == "Transpose":
            self._known[out.name] = values.transpose(node.attrs.get("perm"))
        else:
            self._known[out.name] = values.reshape(self.shape(out))

    def _split(self, node: gs.Node) -> None:
        held = self.of(node.inputs[0])
        if held is None or any(t.name not in self._shapes for t in node.outputs):
            return
        axis = int(node.attrs.get("axis", 0))
        sizes = [self.shape(out)[axis] for out in node.outputs]
        for out, part in zip(node.outputs, np.split(held, np.cumsum(sizes)[:-1], axis=axis), strict=True):
            if part.any():
                self.still[out.name] = part


def uniform(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Where `values` are one number along some axes, which stay with size 1."""
    exact = values.astype(np.float64)
    low, high = exact.min(axis=axis, keepdims=True), exact.max(axis=axis, keepdims=True)
    size = np.maximum(np.abs(low), np.abs(high))
    return np.asarray(high - low <= _UNIFORM.get(values.dtype.itemsize, 1e-5) * size + 1e-30)


def _fixed(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant)


def _moved(find: Unchanging, node: gs.Node) -> Array | None:
    held = find.of(node.inputs[0])
    if held is None or node.op not in _VIEWS:
        return held
    if node.op == "Transpose":
        return held.transpose(node.attrs.get("perm"))
    return held.reshape(find.shape(node.outputs[0]))


def _together(find: Unchanging, node: gs.Node) -> Array | None:
    """An operator that computes every entry from its operands' entries there."""
    held = [find.of(tensor) for tensor in node.inputs if tensor.name]
    known = [each for each in held if each is not None]
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*known))) if len(known) == len(held) else None


def _times(find: Unchanging, node: gs.Node) -> Array | None:
    held = _together(find, node)
    for tensor in node.inputs:
        zero = find.zero(tensor)
        if zero is not None and zero.any():
            held = zero if held is None else held | zero
    return held


def _chosen(find: Unchanging, node: gs.Node) -> Array | None:
    """Where with a constant condition."""
    condition = find.known(node.inputs[0])
    if condition is None:
        return None
    first, second = (find.of(tensor) for tensor in node.inputs[1:3])
    return np.where(condition, False if first is None else first, False if second is None else second)


def _product(find: Unchanging, node: gs.Node) -> Array | None:
    a, b = node.inputs[:2]
    if any(node.attrs.get(name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        return None
    turned = bool(node.attrs.get("transB", 0))
    if min(len(find.shape(a)), len(find.shape(b))) < 2:
        return None
    weight = find.known(b)
    weight = weight if weight is None or not turned else np.swapaxes(weight, -1, -2)
    held = find.of(a)
    if weight is not None and held is None:
        zero = ~np.any(weight, axis=-2, keepdims=True)
        held = zero if zero.any() else None
    elif node.op == "MatMul" and not node.domain and _rows_sum_to_one(find, a):
        held = _either(find.alike(b, -2), _sum_of_products(find, a, b, turned=turned))
    else:
        held = _sum_of_products(find, a, b, turned=turned)
    if held is None or node.op != "Gemm" or len(node.inputs) < 3 or not node.inputs[2].name:
        return held
    bias = find.of(node.inputs[2])
    return None if bias is None else held & bias


def _either(first: Array | None, second: Array | None) -> Array | None:
    return first if second is None else second if first is None else first | second


def _sum_of_products(find: Unchanging, a: gs.Tensor, b: gs.Tensor, *, turned: bool) -> Array | None:
    """[..., m, n]: no term a·b changes, as one factor is zero or neither changes."""
    still_a, still_b = find.of(a), find.of(b)
    if still_a is None and still_b is None:
        return None
    (live_a, moving_a), (live_b, moving_b) = (_terms(find, each) for each in (a, b))
    if turned:
        live_b, moving_b = np.swapaxes(live_b, -1, -2), np.swapaxes(moving_b, -1, -2)
    held: Array = moving_a @ live_b + live_a @ moving_b == 0
    return held


def _terms(find: Unchanging, tensor: gs.Tensor) -> tuple[Array, Array]:
    """1.0 where an entry may differ from zero, and where it may also change."""
    whole = np.ones(find.shape(tensor), bool)
    zero, still = find.zero(tensor), find.of(tensor)
    live = whole if zero is None else ~zero
    moving = live if still is None else live & ~still
    return live.astype(np.float32), moving.astype(np.float32)


def _rows_sum_to_one(find: Unchanging, tensor: gs.Tensor) -> bool:
    """Whether a tensor is a Softmax over its last axis, perhaps behind a guard against rows that a mask blanks."""
    rank = len(find.shape(tensor))
    node = tensor.inputs[0] if tensor.inputs else None
    while node is not None and not node.domain and node.op in {"Cast", "Dropout", "Identity", "Where"}:
        tensor = node.inputs[2 if node.op == "Where" else 0]
        if node.op == "Where" and not _guards(find, node):
            return False
        node = tensor.inputs[0] if tensor.inputs else None
    if node is None or node.op != "Softmax" or node.domain:
        return False
    return int(node.attrs.get("axis", -1 if find.opset >= 13 else 1)) in {-1, rank - 1}


def _guards(find: Unchanging, node: gs.Node) -> bool:
    """Whether a Where puts zeros for what is not a number."""
    test, blank = node.inputs[0].inputs, find.known(node.inputs[1])
    return bool(test and test[0].op == "IsNaN" and blank is not None and not blank.any())


def _convolved(find: Unchanging, node: gs.Node) -> Array | None:
    """Whole channels: those whose filters are zero wherever their input changes."""
    weight, groups = find.known(node.inputs[1]), int(node.attrs.get("group", 1))
    if weight is None or (len(node.inputs) > 2 and node.inputs[2].name and find.known(node.inputs[2]) is None):
        return None
    padded = any(node.attrs.get("pads") or ()) or node.attrs.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    # At a padded border a constant meets zeros: only a constant zero stays what it is.
    held = find.zero(node.inputs[0]) if padded or node.op == "ConvTranspose" else find.of(node.inputs[0])
    space = tuple(range(2, weight.ndim))
    reads = np.any(weight, axis=space)
    every = np.ones((1, find.shape(node.inputs[0])[1]), bool)
    moving = every if held is None else np.asarray(~held.all(axis=space))
    if node.op == "Conv":
        reads = reads.reshape(groups, -1, reads.shape[1])
    else:
        reads = reads.reshape(groups, -1, reads.shape[1]).swapaxes(1, 2)
    parts = moving.reshape(len(moving), groups, -1).astype(np.float32)
    changes = np.einsum("goi,bgi->bgo", reads.astype(np.float32), parts).reshape(len(moving), -1)
    return np.asarray(changes == 0).reshape(*changes.shape, *(1 for _ in space))


def _normalised(find: Unchanging, node: gs.Node) -> Array | None:
    """BatchNormalization of constants: a gain of zero leaves the bias."""
    vectors = [find.known(tensor) for tensor in node.inputs[1:]]
    rank = len(find.shape(node.inputs[0]))
    if vectors[0] is None or vectors[1] is None or len(node.outputs) > 1:
        return None
    off: Array | None = (vectors[0] == 0).reshape(1, -1, *(1 for _ in range(rank - 2)))
    held = find.of(node.inputs[0]) if all(vector is not None for vector in vectors) else None
    return _either(off, held)


def _pooled(find: Unchanging, node: gs.Node) -> Array | None:
    """Whole channels of pools that count no padding."""
    held = find.of(node.inputs[0])
    if held is None or (node.op == "AveragePool" and node.attrs.get("count_include_pad", 0)):
        return None
    return _alike_over(find, node.inputs[0], tuple(range(2, held.ndim)))


def _alike_over(find: Unchanging, tensor: gs.Tensor, axes: tuple[int, ...]) -> Array | None:
    """Entries that never change and are one number along several axes."""
    held: Array | None = None
    for axis in axes:
        alike = find.alike(tensor, axis)
        if alike is None:
            return None
        whole = np.asarray(alike.all(axis=axes, keepdims=True))
        held = whole if held is None else held & whole
    return held


def _reduced(find: Unchanging, node: gs.Node) -> Array | None:
    """Means over axes that are known: sums depend on how many there are."""
    held = find.of(node.inputs[0])
    if held is None:
        return None
    given = find.known(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
    if given is None:
        return None
    axes = tuple(int(axis) % held.ndim for axis in np.ravel(given))
    whole = _alike_over(find, node.inputs[0], axes)
    return None if whole is None else whole.reshape(find.shape(node.outputs[0]))


def _joined(find: Unchanging, node: gs.Node) -> Array | None:
    parts = [find.of(tensor) for tensor in node.inputs if tensor.name]
    if all(part is None for part in parts):
        return None
    shapes = [find.shape(tensor) for tensor in node.inputs if tensor.name]
    whole = [np.zeros(shape, bool) if part is None else part for part, shape in zip(parts, shapes, strict=True)]
    return np.concatenate(whole, axis=int(node.attrs["axis"]))


def _sliced(find: Unchanging, node: gs.Node) -> Array | None:
    held = find.of(node.inputs[0])
    if held is None or "starts" in node.attrs:
        return None
    given = [find.known(tensor) if tensor.name else None for tensor in node.inputs[1:]]
    if any(value is None for tensor, value in zip(node.inputs[1:], given, strict=True) if tensor.name):
        return None
    starts, ends, axes, steps = ([None if v is None else np.ravel(v).tolist() for v in given] + [None, None])[:4]
    where = [slice(None)] * held.ndim
    for at, axis in enumerate(axes if axes is not None else range(len(starts or ()))):
        step = 1 if steps is None else steps[at]
        if starts is None or ends is None or step < 1:
            return None
        where[axis] = slice(starts[at], ends[at], step)
    return np.asarray(held[tuple(where)])


def _picked(find: Unchanging, node: gs.Node) -> Array | None:
    held, indices = find.of(node.inputs[0]), find.known(node.inputs[1])
    if held is None or indices is None:
        return None
    return np.take(held, indices, axis=int(node.attrs.get("axis", 0)))


def _expanded(find: Unchanging, node: gs.Node) -> Array | None:
    return find.of(node.inputs[0])


def _attended(find: Unchanging, node: gs.Node) -> Array | None:
    """Fused attention of separate queries, keys and values: a constant value head gives that constant."""
    if any(tensor.name for tensor in node.inputs[4 if not node.domain else 6 : 6 if not node.domain else 8]):
        return None
    value, out = node.inputs[2], find.shape(node.outputs[0])
    shape = find.shape(value)
    if not value.name or len(shape) != len(out) or len(shape) not in {3, 4}:
        return None
    held = find.alike(value, len(shape) - 2)
    return held if held is not None and held.shape[-1] == out[-1] and held.shape[1:-2] == out[1:-2] else None


def _merged_attended(find: Unchanging, node: gs.Node) -> Array | None:
    """Fused attention with its own weight [hidden, q + k + v]: a value head of zero weights gives its bias."""
    weight = find.known(node.inputs[1])
    if weight is None or (len(node.inputs) > 4 and node.inputs[4].name) or weight.ndim != 2:
        return None
    width = find.shape(node.outputs[0])[-1]
    return np.asarray(~np.any(weight[:, -width:], axis=0))


_VIEWS = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_UNARY = {
    "Abs", "Cast", "Celu", "Ceil", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_RULES: dict[tuple[str, str], Rule] = {
    **dict.fromkeys((("", op) for op in _UNARY), lambda find, node: find.of(node.inputs[0])),
    **dict.fromkeys((("", op) for op in _VIEWS), _moved),
    **dict.fromkeys((("", op) for op in ("Add", "Div", "Max", "Mean", "Min", "PRelu", "Pow", "Sub", "Sum")), _together),
    **dict.fromkeys((("com.microsoft", op) for op in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")), _together),
    **dict.fromkeys((("", op) for op in ("MatMul", "Gemm")), _product),
    **dict.fromkeys((("", op) for op in ("Conv", "ConvTranspose")), _convolved),
    **dict.fromkeys((("", op) for op in ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool")), _pooled),
    ("", "Attention"): _attended,
    ("", "BatchNormalization"): _normalised,
    ("", "Concat"): _joined,
    ("", "Expand"): _expanded,
    ("", "Gather"): _picked,
    ("", "Mul"): _times,
    ("", "ReduceMean"): _reduced,
    ("", "Slice"): _sliced,
    ("", "Where"): _chosen,
    ("com.microsoft", "Attention"): _merged_attended,
    ("com.microsoft", "FusedMatMul"): _product,
    ("com.microsoft", "MultiHeadAttention"): _attended,
}
