"""Weights that are decoded at load, recognised by their operators alone: names say nothing.

The tables that bytes are looked up in are compared with our own, so that whatever else looks like a packed weight is
left as the graph that it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.packing.forms import LARGEST_COUNT, Coded, Dense, Filled, Form, Masked
from onnxprune.packing.symbols import NARROW, Array, counts_of_bytes, digits

_INT32 = onnx.TensorProto.INT32


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight that is decoded at load.

    Attributes:
        tensor: what its readers read.
        form: of its numbers, in order.
        shape: of the dense weight.
        dtype: of the dense weight.
        nodes: that decode it, those shared with other weights included.
    """

    tensor: gs.Tensor
    form: Form
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nodes: tuple[gs.Node, ...]

    @property
    def elements(self) -> int:
        """Numbers of the dense weight."""
        return self.form.count

    def decoded(self) -> Array:
        """The dense weight."""
        return self.form.decoded().astype(self.dtype, copy=False).reshape(self.shape)


class Other(Exception):  # noqa: N818 - an answer, not an error
    """Not one of our forms."""


def find_packed(graph: gs.Graph) -> tuple[Packed, ...]:
    """Packed weights of the top graph, in the order in which they are decoded."""
    found: list[Packed] = []
    inner: set[int] = set()
    for node in reversed(graph.nodes):
        # A packed weight's own Reshape is no packed weight.
        if node.domain or node.op not in _ROOTS or not node.outputs or id(node) in inner:
            continue
        try:
            packed = _read(node)
        except Other:
            continue
        found.append(packed)
        inner |= {id(each) for each in packed.nodes}
    return tuple(reversed(found))


_ROOTS = {"Cast", "Reshape"}


@dataclass
class Reader:
    """Follows operators upwards and keeps those that it passed."""

    nodes: list[gs.Node] = field(default_factory=list)

    def node(self, tensor: gs.Tensor, op: str) -> gs.Node:
        """The operator that makes a tensor, which must be `op`."""
        node = producer(tensor)
        if isinstance(tensor, gs.Constant) or node is None or node.op != op or node.domain:
            raise Other
        self.nodes.append(node)
        return node

    def maybe(self, tensor: gs.Tensor, op: str) -> gs.Node | None:
        """The operator that makes a tensor, if it is `op`."""
        node = producer(tensor)
        if isinstance(tensor, gs.Constant) or node is None or node.op != op or node.domain:
            return None
        self.nodes.append(node)
        return node

    def flattened(self, tensor: gs.Tensor) -> gs.Tensor:
        """What a Reshape to one axis reads; the tensor itself where there is none."""
        node = producer(tensor)
        if isinstance(tensor, gs.Constant) or node is None or node.op != "Reshape":
            return tensor
        self.equal(node.inputs[1], np.array([-1]))
        self.nodes.append(node)
        return node.inputs[0]

    def cast(self, tensor: gs.Tensor, to: int) -> gs.Tensor:
        """What a Cast to a type reads."""
        node = self.node(tensor, "Cast")
        if node.attrs.get("to") != to:
            raise Other
        return node.inputs[0]

    def equal(self, tensor: gs.Tensor, expected: Array) -> None:
        """Hold that a constant has these numbers."""
        if not np.array_equal(constant(tensor), expected):
            raise Other

    def stream(self, tensor: gs.Tensor, count: int | None) -> Form:
        """The form of a sequence; `count` of its numbers count, all of them where it is None."""
        tensor = self.flattened(tensor)
        if isinstance(tensor, gs.Constant):
            return Dense(constant(tensor).reshape(-1)[:count])
        if (expanded := self.maybe(tensor, "Expand")) is not None:
            return self.filled(expanded, count)
        gather = self.node(tensor, "Gather")
        if gather.attrs.get("axis", 0) != 0:
            raise Other
        source = producer(gather.inputs[1])
        if source is not None and source.op == "Add":
            return self.masked(gather, count)
        return self.coded(gather, count)

    def beginning(self, tensor: gs.Tensor, count: int) -> Form:
        """The form of a sequence that may be cut off behind `count` numbers."""
        part = self.maybe(tensor, "Slice")
        if part is None:
            return self.stream(tensor, None)
        if len(part.inputs) != 4:
            raise Other
        for slot, expected in ((1, 0), (2, count), (3, 0)):
            self.equal(part.inputs[slot], np.array([expected]))
        return self.stream(part.inputs[0], count)

    def filled(self, node: gs.Node, count: int | None) -> Filled:
        """One number as often as the shape says."""
        shape = constant(node.inputs[1])
        total = int(np.prod(shape, dtype=np.int64))
        if not 0 <= total <= LARGEST_COUNT or (count is not None and count > total):
            raise Other
        value = constant(node.inputs[0])
        if value.shape != (1,):
            raise Other
        return Filled(value, total if count is None else count)

    def coded(self, gather: gs.Node, count: int | None) -> Coded:
        """Bytes looked up in a table of numbers."""
        codes = constant(self.cast(gather.inputs[1], _INT32))
        codebook, symbols = self.table(gather.inputs[0])
        if codes.dtype != np.uint8 or codes.ndim != 1 or (len(codes) and codes.max() >= _rows(codebook, symbols)):
            raise Other
        held = len(codes) * symbols
        if count is not None and count > held:
            raise Other
        return Coded(codes, codebook, symbols, held if count is None else count)

    def table(self, tensor: gs.Tensor) -> tuple[Array, int]:
        """The codebook of a table, and how many symbols a byte holds."""
        if isinstance(tensor, gs.Constant):
            codebook, symbols = constant(tensor), 1
        else:
            gather = self.node(tensor, "Gather")
            codebook = constant(gather.inputs[0])
            table = constant(self.cast(gather.inputs[1], _INT32))
            symbols = table.shape[1] if table.ndim == 2 else 0
            if symbols not in {2, 3, 4, 5, 8} or not np.array_equal(table, digits(symbols)):
                raise Other
            if len(codebook) <= int(table.max()):
                raise Other
        if codebook.ndim != 1 or not 0 < len(codebook) <= 256:
            raise Other
        return codebook, symbols

    def masked(self, gather: gs.Node, count: int | None) -> Masked:
        """Bits that say which numbers stand among the values."""
        joined = self.node(gather.inputs[0], "Concat")
        place = self.node(gather.inputs[1], "Add")
        if joined.attrs.get("axis") != 0 or len(joined.inputs) != 2:
            raise Other
        looked_up, total = self.node(place.inputs[0], "Gather"), self.node(place.inputs[1], "CumSum")
        at = looked_up.inputs[1]
        set_bits = self.node(total.inputs[0], "Gather")
        if set_bits.inputs[1] is not at or total.attrs.get("exclusive") != 1 or total.attrs.get("reverse", 0):
            raise Other
        self.equal(total.inputs[1], np.array(0))
        where = self.node(looked_up.inputs[0], "Where")
        through = self.node(set_bits.inputs[0], "Gather")
        self.equal(through.inputs[1], np.array([7]))
        before = self.node(where.inputs[1], "Sub")
        if through.attrs.get("axis") != 1 or before.inputs[0] is not through.inputs[0]:
            raise Other
        summed = self.node(through.inputs[0], "CumSum")
        if summed.inputs[0] is not before.inputs[1] or summed.attrs.get("exclusive", 0):
            raise Other
        self.equal(summed.inputs[1], np.array(1))
        self.equal(self.cast(summed.inputs[0], _INT32), digits(8))
        self.equal(self.cast(where.inputs[0], onnx.TensorProto.BOOL), digits(8))
        bits = self.stream(self.cast(at, _INT32), None)
        values = self.stream(joined.inputs[0], None)
        self.equal(where.inputs[2], np.array(values.count))
        behind = self.filled(self.node(joined.inputs[1], "Expand"), None)
        known = bits.count * 8 if count is None else count
        if behind.count != values.count + 1:
            raise Other
        return Masked(bits, _first(values, _set_bits(bits, known)), behind.value, known)


def _first(form: Form, count: int) -> Form:
    """A stream less the symbols that fill its last byte."""
    if isinstance(form, Coded) and form.count - form.symbols < count <= form.count:
        return Coded(form.codes, form.codebook, form.symbols, count)
    if form.count != count:
        raise Other
    return form


def _set_bits(form: Form, count: int) -> int:
    """How many of `count` bits are set; behind them none may be."""
    packed = form.decoded()
    if packed.dtype != np.uint8 or count > 8 * len(packed):
        raise Other
    if np.unpackbits(packed[count // 8 :])[count % 8 :].any():
        raise Other
    return int(counts_of_bytes(packed) @ digits(8).sum(axis=1))


def _rows(codebook: Array, symbols: int) -> int:
    return len(codebook) if symbols == 1 else 256


def _read(root: gs.Node) -> Packed:
    reader = Reader()
    out, node, dtype = root.outputs[0], root, None
    if node.op == "Cast":
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"]))
        reader.nodes.append(node)
        node = producer(node.inputs[0])
        if dtype not in NARROW or node is None or node.op != "Reshape":
            raise Other
    reader.nodes.append(node)
    shape = constant(node.inputs[1])
    if shape.ndim != 1 or (shape < 0).any():
        raise Other
    sizes = tuple(int(size) for size in shape)
    total = int(np.prod(sizes, dtype=np.int64))
    if not 0 < total <= LARGEST_COUNT:
        raise Other
    form = reader.beginning(node.inputs[0], total)
    if form.count != total or isinstance(form, Dense):
        raise Other
    stored = _dtype_of(form)
    return Packed(out, form, sizes, stored if dtype is None else dtype, tuple(reader.nodes))


def _dtype_of(form: Form) -> np.dtype[Any]:
    if isinstance(form, Masked):
        if _dtype_of(form.values) != form.background.dtype:
            raise Other
        return np.dtype(form.background.dtype)
    if isinstance(form, Coded):
        return np.dtype(form.codebook.dtype)
    return np.dtype((form.value if isinstance(form, Filled) else form.values).dtype)


def constant(tensor: gs.Tensor) -> Array:
    """The numbers of a constant; anything else is none of our forms."""
    if not isinstance(tensor, gs.Constant):
        raise Other
    return numbers(tensor)


def constants_of(found: Iterable[Packed]) -> Iterator[gs.Constant]:
    """The constants that packed weights are made of, once each."""
    seen: set[int] = set()
    for packed in found:
        for node in packed.nodes:
            for tensor in node.inputs:
                if isinstance(tensor, gs.Constant) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor
