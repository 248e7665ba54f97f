"""Back-off models as nodes: tables keyed by packed ids, combined by comparisons with what a missing key gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.ngrams.backoff import BackOff, Classes, Table
from onnxprune.ngrams.encoders import DOMAIN
from onnxprune.rewrite import Rewriter

Array = np.ndarray[Any, Any]

# What a missing n-gram gives: no logarithm of a probability is above 0.
MISSING = 1.0
_BITS = 62


class Writer:
    """Puts models into a graph, behind tensors of ids.

    Attributes:
        ids: int64 tensor of each column.
        nodes: in data order, to be placed by the caller.
    """

    def __init__(self, rewriter: Rewriter, ids: Mapping[str, gs.Tensor], stem: str, bits: int) -> None:
        self._rewriter = rewriter
        self._stem = stem
        self._bits = bits
        self._keys: dict[tuple[str, ...], gs.Tensor] = {}
        self.ids = dict(ids)
        self.nodes: list[gs.Node] = []

    def classes(self, name: str, classes: Classes) -> None:
        """Add a column of classes."""
        node = self._encoder(self.ids[classes.of], classes.words, classes.classes, np.int64(classes.other), name)
        self.ids[name] = node.outputs[0]

    def model(self, model: BackOff, name: str) -> gs.Tensor:
        """The tensor of ln p of a model."""
        found = self._table(model.grams[0], model.unknown, f"{name}.p1")
        missing = self._rewriter.shared(f"{self._stem}.missing", np.array(MISSING / 2, np.float32))
        for order, (grams, alphas) in enumerate(zip(model.grams[1:], model.alphas, strict=True), 2):
            stored = self._table(grams, MISSING, f"{name}.p{order}")
            alpha = self._table(alphas, 0.0, f"{name}.alpha{order - 1}")
            backed = self._add("Add", [alpha, found], f"{name}.backed{order}")
            hit = self._add("Less", [stored, missing], f"{name}.hit{order}")
            found = self._add("Where", [hit, stored, backed], f"{name}.log_p{order}")
        return found

    def sum(self, first: gs.Tensor, second: gs.Tensor) -> gs.Tensor:
        """The sum of two tensors."""
        return self._add("Add", [first, second], "log_p")

    def finish(self, log_p: gs.Tensor, scale: float) -> None:
        """Add the last node: it gives a multiple of ln p, or p where the multiple is 0."""
        if scale == 0:
            self._add("Exp", [log_p], "p")
        elif scale != 1:
            factor = self._rewriter.shared(f"{self._stem}.scale", np.array(scale, np.float32))
            self._add("Mul", [log_p, factor], "scaled")

    def digit(self, key: gs.Tensor, column: Mapping[str, Any]) -> gs.Tensor:
        """One id of a packed key: less the `constant`, how often its `multiple` goes into it, below its `size`."""
        name = f"{self._stem}.{column['name']}"
        if column["constant"]:
            key = self._add("Sub", [key, self._number(int(column["constant"]))], f"{name}.key")
        if column["multiple"] > 1:
            key = self._add("Div", [key, self._number(int(column["multiple"]))], f"{name}.rest")
        if column["size"] is not None:
            key = self._add("Mod", [key, self._number(int(column["size"]))], f"{name}.id")
        return key

    def _table(self, table: Table, default: float, name: str) -> gs.Tensor:
        key = self._key(table.columns)
        keys = packed_keys(table, self._bits)
        node = self._encoder(key, keys, table.values.astype(np.float32), np.float32(default), name)
        return node.outputs[0]

    def _key(self, columns: tuple[str, ...]) -> gs.Tensor:
        if columns not in self._keys:
            key = self.ids[columns[0]]
            for at in range(1, len(columns)):
                higher = self._add("Mul", [key, self._number(1 << self._bits)], f"key{at}.high")
                key = self._add("Add", [higher, self.ids[columns[at]]], f"key{at}")
            self._keys[columns] = key
        return self._keys[columns]

    def _number(self, value: int) -> gs.Constant:
        return self._rewriter.shared(f"{self._stem}.number", np.array(value, np.int64))

    def _encoder(self, key: gs.Tensor, keys: Array, values: Array, default: Any, name: str) -> gs.Node:
        kind = "float" if values.dtype.kind == "f" else "int64"
        attrs: dict[str, Any] = {
            "keys_int64s": [int(one) for one in keys],
            f"values_{kind}s": values.tolist(),
            f"default_{kind}": default.item(),
        }
        out = self._rewriter.variable(f"{self._stem}.{name}")
        self.nodes.append(self._rewriter.node("LabelEncoder", [key], [out], domain=DOMAIN, **attrs))
        return self.nodes[-1]

    def _add(self, op: str, inputs: Sequence[gs.Tensor], name: str) -> gs.Tensor:
        out = self._rewriter.variable(f"{self._stem}.{name}")
        self.nodes.append(self._rewriter.node(op, inputs, [out]))
        return out


def bits_for(models: Sequence[BackOff]) -> int:
    """Bits that hold every id of the models, and one more, so that ids just past them stay apart.

    Raises:
        Declined: the longest keys would not fit.
    """
    tables = [table for model in models for table in (*model.grams, *model.alphas)]
    bits = max(int(table.ids.max(initial=0) + 1).bit_length() for table in tables)
    longest = max(len(table.columns) for table in tables)
    if bits * longest > _BITS:
        raise Declined(f"{longest} ids of {bits} bits do not fit a key of {_BITS} bits")
    return bits


def packed_keys(table: Table, bits: int) -> Array:
    """[n] int64 keys of a table's rows."""
    keys = np.zeros(len(table), np.int64)
    for column in table.ids.T:
        keys = (keys << bits) + column
    return keys
