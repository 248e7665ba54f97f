"""Embedding tables as codes of few numbers and a projection: the graph side, for codes that were solved before.

Rows may come in clusters, each with codes of its own width. Then `places` tells each token's row among all clusters'
rows, and every cluster looks up its own: places outside it are clipped onto a row of zeros at its end, so that the
codes of all clusters side by side hold zeros but for one, and one product with the stacked projections gives the rows.
The operators are Gather, Cast, Sub, Clip, Concat and MatMul; for a tied product also Transpose and Slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.errors import Declined
from onnxprune.low_rank import LowRankWriter, refuse_shared
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]
_INT32 = onnx.TensorProto.INT32
# Clip takes integers from this opset on.
CLUSTER_OPSET = 12


def refuse_table(weight: Weight) -> None:
    """Raise Declined where a table has readers that codes cannot serve."""
    refuse_shared(weight)
    if len(weight.constant.shape) != 2:
        raise Declined(f"a table of {len(weight.constant.shape)} axes")
    for use in weight.uses:
        if use.role == "embedding":
            if use.node.op != "Gather":
                raise Declined(f"{use.node.op} has no form with codes")
            if use.node.attrs.get("axis", 0) != 0 or use.views:
                raise Declined("rows are not looked up on the table's first axis")
        else:
            refuse_head(use, transposed=True)


def refuse_head(use: Use, *, transposed: bool) -> None:
    """Raise Declined where a product with the table cannot read its codes.

    Args:
        use: of the table, or of a copy of it.
        transposed: whether it has to read what is stored transposed, as a head does whose rows are tokens.
    """
    node = use.node
    if use.role != "linear" or node.op not in {"MatMul", "Gemm"} or use.slot != 1 or use.permutation is None:
        raise Declined(f"{node.op} {use.name!r} reads the table, too")
    if use.reads_transposed != transposed:
        raise Declined(f"{node.op} {use.name!r} sums over the rows of the table")
    if node.attrs.get("transA", 0) or any(float(node.attrs.get(key, 1.0)) != 1.0 for key in ("alpha", "beta")):
        raise Declined(f"Gemm {use.name!r} scales or transposes what it reads")


@dataclass(frozen=True)
class Codes:
    """A table's constants.

    Attributes:
        tables: of each cluster, [rows + 1, r]; of a single one [rows, r].
        projection: [sum of r, d].
        places: [tokens], unsigned; None for a single cluster.
    """

    tables: tuple[gs.Constant, ...]
    projection: gs.Constant
    places: gs.Constant | None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all floating-point constants."""
        return (*(table.name for table in self.tables), self.projection.name)


def tensors_fit(tensors: Mapping[str, Array], tokens: int, width: int) -> bool:
    """Whether an edit's tensors stand for a table [tokens, width]."""
    tables = [tensors[f"codes.{at}"] for at in range(len(tensors)) if f"codes.{at}" in tensors]
    if not tables or "projection" not in tensors or any(table.ndim != 2 for table in tables):
        return False
    ranks, rows = sum(table.shape[1] for table in tables), sum(len(table) for table in tables)
    if tensors["projection"].shape != (ranks, width):
        return False
    if len(tables) == 1:
        return rows == tokens
    places = tensors.get("places")
    return places is not None and places.shape == (tokens,) and places.dtype.kind == "u" and int(places.max()) < rows


class CodeWriter:
    """Puts codes in place of one table."""

    def __init__(self, writer: LowRankWriter, name: str, tensors: Mapping[str, Array], dtype: np.dtype[Any]) -> None:
        self._writer = writer
        self._make = writer.rewriter
        count = sum(key.startswith("codes.") for key in tensors)
        names = [f"{name}.codes"] if count == 1 else [f"{name}.codes.{at}" for at in range(count)]
        self.codes = Codes(
            tables=tuple(writer.constant(each, tensors[f"codes.{at}"].astype(dtype)) for at, each in enumerate(names)),
            projection=writer.constant(f"{name}.projection", tensors["projection"].astype(dtype)),
            places=writer.constant(f"{name}.places", tensors["places"]) if "places" in tensors else None,
        )
        self._turned: dict[str, gs.Tensor] = {}
        self._bounds: dict[int, gs.Constant] = {}

    def gathered(self, use: Use) -> None:
        """A Gather of rows as a Gather of codes and a product."""
        make, node, name = self._make, use.node, use.name
        indices, nodes = node.inputs[1], []
        if self.codes.places is None:
            row = make.variable(f"{name}.code")
            nodes.append(make.node("Gather", [self.codes.tables[0], indices], [row], axis=0))
        else:
            parts, place = [], self._place(indices, name, nodes)
            for at, (table, start) in enumerate(zip(self.codes.tables, self._starts(), strict=True)):
                last, inside = len(table.values) - 1, place
                if start:
                    inside = make.variable(f"{name}.inside.{at}")
                    nodes.append(make.node("Sub", [place, self._bound(start)], [inside]))
                local, part = make.variable(f"{name}.local.{at}"), make.variable(f"{name}.code.{at}")
                # Before the cluster: -1, its last row; behind it: its last row. That row is zero.
                nodes.append(make.node("Clip", [inside, self._bound(-1), self._bound(last)], [local]))
                nodes.append(make.node("Gather", [table, local], [part], axis=0))
                parts.append(part)
            row = make.variable(f"{name}.code")
            nodes.append(make.node("Concat", parts, [row], axis=-1))
        nodes.append(make.node("MatMul", [row, self.codes.projection], [make.variable(f"{name}.row")]))
        make.replace(node, nodes)

    def multiplied(self, use: Use) -> None:
        """A product with the transposed table as products with the transposed factors: the same constants again."""
        make, node, name = self._make, use.node, use.name
        hidden = make.variable(f"{name}.hidden")
        nodes = [make.node("MatMul", [node.inputs[0], self._transposed(self.codes.projection)], [hidden])]
        if self.codes.places is None:
            product = make.variable(f"{name}.product")
            nodes.append(make.node("MatMul", [hidden, self._transposed(self.codes.tables[0])], [product]))
        else:
            product = self._clustered(hidden, name, nodes)
        if len(node.inputs) > 2 and node.inputs[2].name:
            nodes.append(make.node("Add", [product, node.inputs[2]], [make.variable(f"{name}.biased")]))
        make.replace(node, nodes)
        self._writer.drop_views(use)

    def _clustered(self, hidden: gs.Tensor, name: str, nodes: list[gs.Node]) -> gs.Tensor:
        """Each cluster's columns by its part of the hidden numbers, then all columns in the tokens' order."""
        make, start, parts = self._make, 0, []
        for at, table in enumerate(self.codes.tables):
            end = start + table.shape[1]
            part, columns = make.variable(f"{name}.hidden.{at}"), make.variable(f"{name}.columns.{at}")
            bounds = [self._writer.constant(f"{name}.{word}.{at}", np.array([value])) for word, value in
                      (("start", start), ("end", end), ("axis", -1))]  # fmt: skip
            nodes.append(make.node("Slice", [hidden, *bounds], [part]))
            nodes.append(make.node("MatMul", [part, self._transposed(table)], [columns]))
            parts.append(columns)
            start = end
        joined, product = make.variable(f"{name}.columns"), make.variable(f"{name}.product")
        nodes.append(make.node("Concat", parts, [joined], axis=-1))
        cast, places = make.cast(self.codes.places, _INT32, f"{name}.places")
        nodes += [cast, make.node("Gather", [joined, places], [product], axis=-1)]
        return product

    def _place(self, indices: gs.Tensor, name: str, nodes: list[gs.Node]) -> gs.Tensor:
        stored = self._make.variable(f"{name}.stored")
        cast, place = self._make.cast(stored, _INT32, f"{name}.place")
        nodes += [self._make.node("Gather", [self.codes.places, indices], [stored], axis=0), cast]
        return place

    def _starts(self) -> Sequence[int]:
        """Each cluster's first row among all rows."""
        return [0, *np.cumsum([len(table.values) for table in self.codes.tables])[:-1].tolist()]

    def _bound(self, value: int) -> gs.Constant:
        if value not in self._bounds:
            name = f"{self.codes.projection.name}.bound"
            self._bounds[value] = self._writer.constant(name, np.array(value, np.int32))
        return self._bounds[value]

    def _transposed(self, constant: gs.Constant) -> gs.Tensor:
        if constant.name not in self._turned:
            out = self._make.variable(f"{constant.name}.transposed")
            self._make.after(constant, [self._make.node("Transpose", [constant], [out], perm=[1, 0])])
            self._turned[constant.name] = out
        return self._turned[constant.name]
