"""Vectorizers that count n-grams, and the rows of linears that read the counts: found, and cut together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.graph import fresh_name, numbers
from onnxprune.ngrams.encoders import DOMAIN

Array = np.ndarray[Any, Any]
# Tensors with the place of the first column on their last axis, and the size of that axis.
_Queue = list[tuple[gs.Tensor, int, int]]

# What keeps an absent n-gram's zero and the columns in their places.
_KEEPS_ZERO = {"Abs", "Cast", "Identity", "Neg", "Relu", "Sign", "Sqrt", "Tanh"}
_COMPETING = {"ArgMax", "LogSoftmax", "ReduceLogSumExp", "Softmax"}
# What a zero more or less does not change.
_SUMS = {"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"}


@dataclass
class Vectorizer:
    """One TfIdfVectorizer and what reads its columns.

    Attributes:
        node: the vectorizer.
        columns: of its output.
        size: [columns] of the weights behind each, an L2 norm over all linears.
        writes: edits that cut the columns everywhere.
    """

    node: gs.Node
    columns: int
    size: Array
    writes: list[Callable[[gs.Graph, Array], None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the tensor that it gives out."""
        return str(self.node.outputs[0].name)

    @property
    def grams(self) -> Array:
        """[n-grams] the column of each."""
        return np.asarray(self.node.attrs["ngram_indexes"], np.int64)


def find_vectorizers(graph: gs.Graph) -> tuple[tuple[Vectorizer, ...], dict[str, str]]:
    """Vectorizers whose columns can go, and why others' cannot, by their outputs."""
    found, why = [], {}
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op == "TfIdfVectorizer" and node.domain in {None, "", "ai.onnx"}:
            try:
                found.append(_traced(node, outputs))
            except Declined as reason:
                why[str(node.outputs[0].name)] = str(reason)
    return tuple(found), why


def cut_columns(graph: gs.Graph, one: Vectorizer, kept: Array) -> None:
    """Drop the columns of a vectorizer where `kept` [columns] is false, in the graph that it was found in."""
    _cut_pool(one.node, kept)
    for write in one.writes:
        write(graph, kept)


def _traced(node: gs.Node, outputs: set[int]) -> Vectorizer:
    if "ngram_indexes" not in node.attrs or "ngram_counts" not in node.attrs:
        raise Declined("its n-grams are not stored in the node")
    columns = int(max(node.attrs["ngram_indexes"])) + 1
    one = Vectorizer(node, columns, np.zeros(columns))
    queue: _Queue = [(node.outputs[0], 0, columns)]
    squares = np.zeros(columns)
    while queue:
        tensor, first, width = queue.pop()
        if id(tensor) in outputs:
            raise Declined("its columns are an output of the model")
        for reader in tensor.outputs:
            squares += _read(one, reader, tensor, first, width, queue)
    if not squares.any():
        raise Declined("no linear reads its columns")
    one.size = np.sqrt(squares)
    return one


def _read(one: Vectorizer, reader: gs.Node, tensor: gs.Tensor, first: int, width: int, queue: _Queue) -> Array:
    """[columns] squared sizes of the weights that a node multiplies the columns by; what follows goes to the queue."""
    slots = [at for at, read in enumerate(reader.inputs) if read is tensor]
    if reader.op in {"LinearClassifier", "LinearRegressor"} and reader.domain == DOMAIN:
        return _linear_model(one, reader, first, width)
    if reader.op in {"Gemm", "MatMul"} and slots == [0] and not reader.attrs.get("transA"):
        return _product(one, reader, first)
    if reader.op in _SUMS and _sums_columns(reader):
        return np.zeros(one.columns)
    if reader.op == "Concat" and reader.attrs.get("axis") in {1, -1} and len(slots) == 1:
        queue.append((reader.outputs[0], *_beside(reader, slots[0], first, width)))
        return np.zeros(one.columns)
    if reader.op == "Scaler" and reader.domain == DOMAIN:
        _scaler(one, reader, first, width)
    elif reader.op == "Mul" or (reader.op == "Div" and slots[0] == 0):
        _factor(one, reader, tensor, first)
    elif reader.op not in _KEEPS_ZERO and not (reader.op == "Normalizer" and reader.domain == DOMAIN):
        raise Declined(f"{reader.op} reads its columns")
    queue.append((reader.outputs[0], first, width))
    return np.zeros(one.columns)


def _beside(reader: gs.Node, slot: int, first: int, width: int) -> tuple[int, int]:
    """Where columns begin behind a Concat, and how wide it is; -1 where that is not known."""
    sizes = [width if at == slot else _width(read) for at, read in enumerate(reader.inputs)]
    before = [size for size in sizes[:slot] if size is not None]
    if len(before) < slot:
        raise Declined("Concat puts them behind columns of unknown number")
    return sum(before) + first, -1 if None in sizes else sum(size for size in sizes if size is not None)


def _factor(one: Vectorizer, reader: gs.Node, tensor: gs.Tensor, first: int) -> None:
    """What multiplies or divides the columns: a constant for each, or a number for each row."""
    for slot, other in enumerate(reader.inputs):
        if isinstance(other, gs.Constant):
            _vector(one, reader, slot, first)
        elif other is not tensor and _width(other) != 1:
            raise Declined(f"{reader.op} combines its columns with others")


def _sums_columns(reader: gs.Node) -> bool:
    axes = reader.attrs.get("axes") if len(reader.inputs) < 2 else None
    if len(reader.inputs) > 1 and isinstance(reader.inputs[1], gs.Constant):
        axes = numbers(reader.inputs[1]).tolist()
    return axes is not None and list(axes) in ([1], [-1])


def _width(tensor: gs.Tensor) -> int | None:
    size = tensor.shape[-1] if tensor.shape else None
    return size if isinstance(size, int) else None


def _positions(kept: Array, first: int, width: int) -> Array:
    """[width] which places of an axis stay."""
    stays = np.ones(width, bool)
    stays[first : first + len(kept)] = kept
    return stays


def _vector(one: Vectorizer, reader: gs.Node, slot: int, first: int) -> None:
    """A constant that multiplies each column."""
    constant = reader.inputs[slot]
    size = constant.shape[-1] if constant.shape else 1
    if size == 1:
        return
    if int(np.prod(constant.shape)) != size or first + one.columns > size:
        raise Declined(f"{reader.op} multiplies its columns by a matrix")

    def write(graph: gs.Graph, kept: Array) -> None:
        values = numbers(constant)
        _replace(graph, reader, slot, values[..., _positions(kept, first, size)])

    one.writes.append(write)


def _product(one: Vectorizer, reader: gs.Node, first: int) -> Array:
    constant = reader.inputs[1]
    if not isinstance(constant, gs.Constant) or len(constant.shape) != 2:
        raise Declined(f"{reader.op} multiplies its columns by what is no stored matrix")
    axis = 1 if reader.attrs.get("transB") else 0
    rows = numbers(constant).astype(np.float64)
    if first + one.columns > rows.shape[axis]:
        raise Declined(f"{reader.op} has {rows.shape[axis]} rows for its columns")

    def write(graph: gs.Graph, kept: Array) -> None:
        values = numbers(constant)
        stays = np.nonzero(_positions(kept, first, values.shape[axis]))[0]
        _replace(graph, reader, 1, np.take(values, stays, axis=axis))

    one.writes.append(write)
    if _competes(reader.outputs[0]):
        rows = rows - rows.mean(axis=1 - axis, keepdims=True)
    squares: Array = np.square(rows).sum(axis=1 - axis)[first : first + one.columns]
    return squares


def _competes(tensor: gs.Tensor) -> bool:
    """Whether only differences between features count: what all have in common tells no class from another."""
    queue = [tensor]
    for one in queue:
        if any(reader.op in _COMPETING for reader in one.outputs):
            return True
        queue += [reader.outputs[0] for reader in one.outputs if reader.op in {"Add", "Cast", "Identity", "Sub"}]
    return False


def _linear_model(one: Vectorizer, reader: gs.Node, first: int, width: int) -> Array:
    """LinearClassifier and LinearRegressor hold [classes, features] as one list."""
    held = np.asarray(reader.attrs["coefficients"], np.float32)
    if width < 0 or len(held) % width:
        raise Declined(f"{reader.op} has {len(held)} coefficients for columns of unknown number")

    def write(graph: gs.Graph, kept: Array) -> None:
        del graph
        matrix = np.asarray(reader.attrs["coefficients"], np.float32).reshape(-1, width)
        reader.attrs["coefficients"] = matrix[:, _positions(kept, first, width)].ravel().tolist()

    one.writes.append(write)
    rows = held.reshape(-1, width).astype(np.float64)
    if reader.op == "LinearClassifier" and len(rows) > 1:
        rows -= rows.mean(axis=0)
    squares: Array = np.square(rows).sum(axis=0)
    return squares[first : first + one.columns]


def _scaler(one: Vectorizer, reader: gs.Node, first: int, width: int) -> None:
    if any(reader.attrs.get("offset", [])):
        raise Declined("Scaler moves its columns away from zero")

    def write(graph: gs.Graph, kept: Array) -> None:
        del graph
        for name in ("offset", "scale"):
            values = np.asarray(reader.attrs.get(name, []), np.float32)
            if len(values) == width and width > 1:
                reader.attrs[name] = values[_positions(kept, first, width)].tolist()

    one.writes.append(write)


def _replace(graph: gs.Graph, reader: gs.Node, slot: int, values: Array) -> None:
    """Other readers of the same constant keep theirs."""
    old = reader.inputs[slot]
    if len(old.outputs) == 1:
        old.values = values
    else:
        reader.inputs[slot] = gs.Constant(fresh_name(graph, f"{old.name}.cut"), values)


def _cut_pool(node: gs.Node, kept: Array) -> None:
    """The n-grams of columns that stay, with columns numbered anew."""
    indexes = np.asarray(node.attrs["ngram_indexes"], np.int64)
    stays = kept[indexes]
    pool = "pool_strings" if node.attrs.get("pool_strings") else "pool_int64s"
    grams = list(_grams(node, pool))
    starts: list[int] = []
    words: list[Any] = []
    at = 0
    for group in grams:
        starts.append(len(words))
        for gram in group:
            if stays[at]:
                words += gram
            at += 1
    node.attrs["ngram_counts"] = starts
    node.attrs[pool] = words
    node.attrs["ngram_indexes"] = (np.cumsum(kept) - 1)[indexes[stays]].tolist()
    weights = node.attrs.get("weights")
    if weights:
        node.attrs["weights"] = np.asarray(weights, np.float32)[stays].tolist()


def _grams(node: gs.Node, pool: str) -> Iterator[list[list[Any]]]:
    """The n-grams of each length: 1, 2, …."""
    held = list(node.attrs[pool])
    starts = [*node.attrs["ngram_counts"], len(held)]
    for length, (start, end) in enumerate(pairwise(starts), 1):
        yield [held[at : at + length] for at in range(start, end, length)]
