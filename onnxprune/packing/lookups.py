"""Embedding tables of few different numbers, whose rows are decoded after they are looked up.

So they stay as small in memory as they are in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.packing.forms import Coded, from_symbols
from onnxprune.packing.reading import Other, Reader, constant
from onnxprune.packing.symbols import Array, base_for, symbols_in_a_byte
from onnxprune.packing.writing import PackWriter

_INT32 = onnx.TensorProto.INT32


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table whose rows are decoded after they are looked up.

    Attributes:
        codes: the stored bytes, [rows, ceil(width / symbols)].
        coded: the table in row order.
        shape: [rows, width] of the dense table.
        makers: nodes that make the numbers of each byte.
        readers: for each what rows are looked up by, the nodes from there to its result, and that.
    """

    codes: gs.Constant
    coded: Coded
    shape: tuple[int, int]
    makers: tuple[gs.Node, ...]
    readers: tuple[tuple[gs.Tensor, tuple[gs.Node, ...], gs.Tensor], ...]

    def decoded(self) -> Array:
        """The dense table."""
        return self.coded.decoded().reshape(self.shape)


def fits(shape: Sequence[int], levels: int) -> bool:
    """Whether rows of a table fill whole bytes, so that each is looked up alone."""
    return len(shape) == 2 and shape[1] % symbols_in_a_byte(base_for(levels)) == 0


def write_lookup(writer: PackWriter, name: str, readers: Sequence[gs.Node], symbols: Array, codebook: Array) -> None:
    """Let each Gather of rows look up codes.

    Args:
        writer: of the graph.
        name: of the table.
        readers: Gathers on axis 0.
        symbols: uint8 [rows, width]; `fits` must hold.
        codebook: [up to 256].
    """
    rows, width = symbols.shape
    coded = from_symbols(symbols.reshape(-1), codebook)
    make = writer.rewriter
    codes = make.constant(f"{name}.codes", coded.codes.reshape(rows, -1))
    table = writer.table(coded)
    for node in readers:
        indices, result = node.inputs[1], node.outputs[0].name
        row = make.variable(f"{result}.codes")
        cast, places = make.cast(row, _INT32, f"{result}.places")
        nodes = [make.node("Gather", [codes, indices], [row], axis=0), cast]
        numbers = make.variable(f"{result}.numbers")
        nodes.append(make.node("Gather", [table, places], [numbers]))
        if coded.symbols > 1:
            sizes, shape = make.variable(f"{result}.indices"), make.variable(f"{result}.shape")
            ends = make.shared(f"{name}.width", np.array([width]))
            nodes.append(make.node("Shape", [indices], [sizes]))
            nodes.append(make.node("Concat", [sizes, ends], [shape], axis=0))
            nodes.append(make.node("Reshape", [numbers, shape], [make.variable(f"{result}.rows")]))
        make.replace(node, nodes)


def find_lookups(graph: gs.Graph) -> tuple[Lookup, ...]:
    """Tables of the top graph whose rows are decoded after they are looked up."""
    found: dict[int, list[Lookup]] = {}
    for node in graph.nodes:
        try:
            one = _read(node)
        except Other:
            continue
        found.setdefault(id(one.codes), []).append(one)
    return tuple(replace(parts[0], readers=tuple(one.readers[0] for one in parts)) for parts in found.values())


def _read(node: gs.Node) -> Lookup:
    """The table behind the Gather that looks codes up.

    Raises:
        Other: it is no such Gather.
    """
    if node.op != "Gather" or node.domain or node.attrs.get("axis", 0) != 0 or isinstance(node.inputs[1], gs.Constant):
        raise Other
    codes = constant(node.inputs[0])
    if codes.ndim != 2 or codes.dtype != np.uint8 or not codes.size:
        raise Other
    cast = _only_reader(node.outputs[0], "Cast")
    if cast.attrs.get("to") != _INT32:
        raise Other
    last = _only_reader(cast.outputs[0], "Gather")
    if last.inputs[1] is not cast.outputs[0] or last.attrs.get("axis", 0) != 0:
        raise Other
    table = Reader()
    codebook, symbols = table.table(last.inputs[0])
    if symbols == 1 and int(codes.max()) >= len(codebook):
        raise Other
    width, nodes = codes.shape[1] * symbols, [node, cast, last]
    if symbols > 1:
        last = _only_reader(last.outputs[0], "Reshape")
        reader = Reader()
        joined = reader.node(last.inputs[1], "Concat")
        sizes = reader.node(joined.inputs[0], "Shape")
        if sizes.inputs[0] is not node.inputs[1]:
            raise Other
        reader.equal(joined.inputs[1], np.array([width]))
        nodes += [sizes, joined, last]
    coded = Coded(codes.reshape(-1), codebook, symbols, codes.size * symbols)
    reader_of: tuple[Any, ...] = (node.inputs[1], tuple(nodes), last.outputs[0])
    return Lookup(node.inputs[0], coded, (codes.shape[0], width), tuple(table.nodes), (reader_of,))


def _only_reader(tensor: gs.Tensor, op: str) -> gs.Node:
    if len(tensor.outputs) != 1 or tensor.outputs[0].op != op or tensor.outputs[0].domain:
        raise Other
    node: gs.Node = tensor.outputs[0]
    return node
