"""How each weight is stored: in which form, how many of its numbers are not zero, and how many bits one takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import constants, is_weight, numbers, stored_bytes
from onnxprune.grids import find_grids
from onnxprune.memory import release
from onnxprune.model import Model
from onnxprune.packing import find_packed, unpacked
from onnxprune.packing.forms import payload_bytes
from onnxprune.packing.reading import Other, Reader
from onnxprune.packing.symbols import counts_of_bytes, digits

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One weight as it lies in the file.

    Attributes:
        form: `dense`, `bitmap`, `codebook of 4 bits`, `bitmap and codebook of 4 bits`, `blocks of 4 bits`, ….
        dtype: of the dense numbers.
        shape: of the dense weight.
        nonzero: numbers that do not stand for zero.
        stored_bytes: what they take, tables that several weights share aside.
    """

    name: str
    form: str
    dtype: str
    shape: tuple[int, ...]
    nonzero: int
    stored_bytes: int

    @property
    def numbers(self) -> int:
        """How many there are, zeros included."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def sparsity(self) -> float:
        """Share of numbers that are zero."""
        return 1 - self.nonzero / self.numbers if self.numbers else 0.0

    @property
    def bits(self) -> float:
        """Stored bits of one number."""
        return 8 * self.stored_bytes / self.numbers if self.numbers else 0.0

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {
            "name": self.name,
            "form": self.form,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "numbers": self.numbers,
            "nonzero": self.nonzero,
            "sparsity": self.sparsity,
            "bits": self.bits,
            "bytes": self.stored_bytes,
        }


def stored_weights(model: Model) -> tuple[Stored, ...]:
    """Every weight of a model, bodies included, in the order of their readers; shapes and indices are none."""
    dense, _ = unpacked(model)
    forms = {packed.tensor.name: packed.form for packed in find_packed(model.graph)}
    grids = find_grids(dense.graph)
    others, hidden = _in_bytes(dense.graph)
    found = []
    for constant in constants(dense.graph):
        if id(constant) in others:
            found.append(others[id(constant)])
            continue
        if not is_weight(constant) or id(constant) in hidden:
            continue
        zero = grids[constant.name].zero if constant.name in grids else None
        form = forms.get(constant.name)
        values = numbers(constant)
        found.append(
            Stored(
                name=str(constant.name),
                form="dense" if form is None else form.words,
                dtype=str(values.dtype),
                shape=tuple(int(axis) for axis in constant.shape),
                nonzero=_not_zero(values, zero),
                stored_bytes=stored_bytes(constant) if form is None else payload_bytes(form),
            )
        )
        release(values)
    return tuple(found)


def _not_zero(values: Array, zero: Array | None) -> int:
    if zero is None or not np.any(zero):
        return int(np.count_nonzero(values))
    return int(np.count_nonzero(values != zero.astype(values.dtype)))


def _in_bytes(graph: gs.Graph) -> tuple[dict[int, Stored], set[int]]:
    """Weights of which a byte holds several numbers, by their constants; and constants that only decode them."""
    found: dict[int, Stored] = {}
    hidden: set[int] = set()
    for node in graph.nodes:
        for constant, stored in _blocks(node):
            found[id(constant)] = stored
        looked_up = _rows(node)
        if looked_up is not None:
            constant, table, tables = looked_up
            hidden |= tables
            found.setdefault(id(constant), _coded(constant, table))
    return found, hidden


def _blocks(node: gs.Node) -> Iterator[tuple[gs.Constant, Stored]]:
    """The weight of an operator that unpacks blocks itself."""
    slot = {"MatMulNBits": 1, "GatherBlockQuantized": 0}.get(node.op)
    if slot is None or not isinstance(node.inputs[slot], gs.Constant):
        return
    constant, bits = node.inputs[slot], int(node.attrs.get("bits", 4))
    if numbers(constant).dtype != np.uint8 or bits not in {4, 8}:
        return
    zeros = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3].name else None
    if node.op == "MatMulNBits":
        shape: tuple[int, ...] = (int(node.attrs["N"]), int(node.attrs["K"]))
    else:
        held = tuple(int(axis) for axis in constant.shape)
        shape = (*held[:-1], held[-1] * 8 // bits)
    nonzero = total = int(np.prod(shape, dtype=np.int64))
    if zeros is None:
        # Without zero points the middle of the range stands for zero; so does what fills the last block.
        middle = 1 << (bits - 1)
        every = np.arange(256)
        halves = np.stack([every & 15, every >> 4]) if bits == 4 else every[None]
        nonzero = min(int(counts_of_bytes(numbers(constant).reshape(-1)) @ (halves != middle).sum(axis=0)), total)
    yield (
        constant,
        Stored(
            name=str(constant.name),
            form=f"blocks of {bits} bits",
            dtype=f"int{bits}",
            shape=shape,
            nonzero=nonzero,
            stored_bytes=stored_bytes(constant),
        ),
    )


def _rows(node: gs.Node) -> tuple[gs.Constant, Array, set[int]] | None:
    """Bytes whose rows are looked up, the table [256, numbers] or [256] that decodes them, and its constants."""
    if node.op != "Gather" or node.domain or not isinstance(node.inputs[0], gs.Constant):
        return None
    cast = _only_reader(node, "Cast")
    last = _only_reader(cast, "Gather") if cast is not None else None
    if cast is None or last is None or last.inputs[1] is not cast.outputs[0] or last.attrs.get("axis", 0) != 0:
        return None
    decoded = _table(last.inputs[0]) if numbers(node.inputs[0]).dtype == np.uint8 else None
    return None if decoded is None else (node.inputs[0], *decoded)


def _only_reader(node: gs.Node, op: str) -> gs.Node | None:
    readers = list(node.outputs[0].outputs)
    return readers[0] if len(readers) == 1 and readers[0].op == op else None


def _table(tensor: gs.Tensor) -> tuple[Array, set[int]] | None:
    """The numbers of each byte, stored as they are or as a codebook; and the constants that they are made of."""
    if isinstance(tensor, gs.Constant):
        values = numbers(tensor)
        return (values, {id(tensor)}) if values.ndim in {1, 2} else None
    reader = Reader()
    try:
        codebook, symbols = reader.table(tensor)
    except Other:
        return None
    held = (part for made_by in reader.nodes for part in made_by.inputs)
    return codebook[digits(symbols)], {id(part) for part in held if isinstance(part, gs.Constant)}


def _coded(constant: gs.Constant, table: Array) -> Stored:
    symbols = 1 if table.ndim == 1 else table.shape[1]
    counts = counts_of_bytes(numbers(constant).reshape(-1))[: len(table)]
    held = tuple(int(axis) for axis in constant.shape)
    nonzero = (table != 0).reshape(len(table), -1).sum(axis=1)
    return Stored(
        name=str(constant.name),
        form=f"codebook of {8 / symbols:.3g} bits, decoded when looked up",
        dtype=str(table.dtype),
        shape=(*held[:-1], held[-1] * symbols),
        nonzero=int(counts[: len(nonzero)] @ nonzero),
        stored_bytes=stored_bytes(constant),
    )
