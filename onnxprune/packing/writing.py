"""Forms as operators that a runtime folds into a dense constant when it makes a session.

The operators are those that folded in onnxruntime 1.21 to 1.31 and in onnxruntime-web 1.30: Cast, Gather, CumSum,
Where, Add, Expand, Concat, Slice, Reshape. NonZero with ScatterND does not fold, and int8 has no Where
there. A bitmap's bytes are looked up in tables of 256 rows: how many bits are set, and for each bit how many are set
before it. What has no bit set looks behind the values, where the most frequent number stands as often as any place may
reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.packing.forms import Coded, Dense, Filled, Form
from onnxprune.packing.symbols import NARROW, Array, digits
from onnxprune.rewrite import Rewriter, onnx_type, substitute

# The first opsets that have Slice with inputs, and CumSum.
CODED_OPSET = 10
MASKED_OPSET = 11
_INT32 = onnx.TensorProto.INT32
_BOOL = onnx.TensorProto.BOOL
# Names of what is computed in between: short, since each stands in the file three times.
_PREFIX = "pack"


class PackWriter:
    """Puts packed weights into one graph; tables are shared by all of them."""

    def __init__(self, graph: gs.Graph) -> None:
        self.rewriter = Rewriter(graph)
        self._nodes: list[gs.Node] = []
        self._shared: dict[Any, gs.Tensor] = {}
        self._number = 0

    @property
    def added_bytes(self) -> int:
        """Of all new constants."""
        return self.rewriter.added_bytes

    def finish(self) -> None:
        """Put the nodes before all others."""
        graph = self.rewriter.graph
        self.rewriter.finish()
        graph.nodes = [*self._nodes, *graph.nodes]

    def replace(self, constant: gs.Constant, form: Form) -> gs.Variable:
        """Let all readers of a constant read what a form decodes to, under the constant's name.

        Args:
            constant: of the top graph.
            form: of its numbers in the order in which they are stored.
        """
        out = gs.Variable(constant.name)
        self.decode(form, tuple(int(size) for size in constant.shape), np.dtype(constant.dtype), out)
        substitute(constant, out)
        return out

    def decode(self, form: Form, shape: tuple[int, ...], dtype: np.dtype[Any], out: gs.Variable) -> None:
        """Write `out`, an array of `shape` and `dtype`, as what a form decodes to."""
        narrow = dtype in NARROW
        result = self._variable() if narrow else out
        sizes = self._constant(np.array(shape, np.int64))
        tensor, length, flat = self._stream(form)
        if length != form.count:
            bounds = [self._shared_constant(np.array([0])), self._constant(np.array([form.count]))]
            tensor = self._node("Slice", [self._flat(tensor, flat), *bounds, self._shared_constant(np.array([0]))])
        self._node("Reshape", [tensor, sizes], result)
        if narrow:
            self._node("Cast", [result], out, to=onnx_type(dtype))

    def table(self, coded: Coded) -> gs.Tensor:
        """[256, symbols] the numbers of each byte; [up to 256] where a byte is one symbol."""
        codebook = self._constant(coded.codebook)
        if coded.symbols == 1:
            return codebook
        return self._node("Gather", [codebook, self._digits(coded.symbols)])

    def _stream(self, form: Form) -> tuple[gs.Tensor, int, bool]:
        """Numbers in their order, how many (some behind the last may mean nothing), and whether they are in a row."""
        if isinstance(form, Dense):
            return self._constant(form.values), form.count, True
        if isinstance(form, Filled):
            return (
                self._node("Expand", [self._constant(form.value), self._constant(np.array([form.count]))]),
                form.count,
                True,
            )
        if isinstance(form, Coded):
            places = self._node("Cast", [self._constant(form.codes)], to=_INT32)
            numbers = self._node("Gather", [self.table(form), places])
            return numbers, len(form.codes) * form.symbols, form.symbols == 1
        bits, held, flat = self._stream(form.bits)
        values, count, in_a_row = self._stream(form.values)
        at = self._node("Cast", [self._flat(bits, flat)], to=_INT32)
        set_before = self._node("Gather", [self._set_bits(), at])
        start = self._node("CumSum", [set_before, self._shared_constant(np.array(0, np.int32))], exclusive=1)
        inner = self._node("Where", [self._is_set(), self._before(), self._constant(np.array(count, np.int32))])
        place = self._node("Add", [self._node("Gather", [inner, at]), start])
        behind = self._node("Expand", [self._constant(form.background), self._constant(np.array([count + 1]))])
        numbers = self._node("Concat", [self._flat(values, in_a_row), behind], axis=0)
        return self._node("Gather", [numbers, place]), held * 8, False

    def _flat(self, tensor: gs.Tensor, flat: bool) -> gs.Tensor:
        return tensor if flat else self._node("Reshape", [tensor, self._shared_constant(np.array([-1]))])

    def _digits(self, symbols: int) -> gs.Tensor:
        """[256, symbols] int32."""
        key = ("digits", symbols)
        if key not in self._shared:
            self._shared[key] = self._node("Cast", [self._shared_constant(digits(symbols))], to=_INT32)
        return self._shared[key]

    def _is_set(self) -> gs.Tensor:
        """[256, 8] whether a byte's bit is set."""
        if "set" not in self._shared:
            self._shared["set"] = self._node("Cast", [self._shared_constant(digits(8))], to=_BOOL)
        return self._shared["set"]

    def _through(self) -> gs.Tensor:
        """[256, 8] how many bits are set up to each one."""
        if "through" not in self._shared:
            last = self._shared_constant(np.array(1, np.int32))
            self._shared["through"] = self._node("CumSum", [self._digits(8), last])
        return self._shared["through"]

    def _before(self) -> gs.Tensor:
        """[256, 8] how many bits are set before each one."""
        if "before" not in self._shared:
            self._shared["before"] = self._node("Sub", [self._through(), self._digits(8)])
        return self._shared["before"]

    def _set_bits(self) -> gs.Tensor:
        """[256, 1] how many bits are set."""
        if "count" not in self._shared:
            column = self._shared_constant(np.array([7]))
            self._shared["count"] = self._node("Gather", [self._through(), column], axis=1)
        return self._shared["count"]

    def _node(self, op: str, inputs: list[gs.Tensor], out: gs.Variable | None = None, **attrs: Any) -> gs.Variable:
        result = self._variable() if out is None else out
        # No name: it would be longer than the rest of the node.
        self._nodes.append(gs.Node(op, attrs=attrs, inputs=inputs, outputs=[result]))
        return result

    def _variable(self) -> gs.Variable:
        return self.rewriter.variable(self._name())

    def _constant(self, values: Array) -> gs.Constant:
        return self.rewriter.constant(self._name(), values)

    def _shared_constant(self, values: Array) -> gs.Tensor:
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._shared:
            self._shared[key] = self._constant(values)
        return self._shared[key]

    def _name(self) -> str:
        self._number += 1
        return f"{_PREFIX}.{self._number}"
