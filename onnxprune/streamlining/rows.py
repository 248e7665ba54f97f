"""Products with a weight and a bias as one operator over rows: Reshape, Gemm, Reshape in place of MatMul and Add.

A runtime's Gemm begins with the bias and never walks over its result again. It takes matrices alone, so that leading
axes become rows before it and come apart behind it; neither moves an entry.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.model import Model
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

# From here on Shape takes a part of a shape.
_PARTS = 15


def _carry_out(model: Model, _: Wish) -> Done:
    graph = model.graph
    given_out = {id(tensor) for tensor in graph.outputs}
    writer: _Writer | None = None
    places = 0
    for node in list(graph.nodes):
        bias = _bias_of(node, given_out)
        if bias is not None:
            writer = writer or _Writer(graph)
            writer.write(node, bias)
            places += 1
    if writer is not None:
        writer.make.finish()
    return Done(places)


def _bias_of(node: gs.Node, given_out: set[int]) -> gs.Tensor | None:
    """What is added to a product of float rows and a weight alone; None where there is nothing of the kind."""
    if node.op != "MatMul" or node.domain or len(node.outputs[0].outputs) != 1 or id(node.outputs[0]) in given_out:
        return None
    rows, weight = node.inputs
    add = node.outputs[0].outputs[0]
    if add.op != "Add" or add.domain or rows.shape is None or len(rows.shape) < 3 or isinstance(rows, gs.Constant):
        return None
    if not isinstance(weight, gs.Constant) or weight.dtype != np.float32 or len(weight.shape) != 2:
        return None
    biases = [tensor for tensor in add.inputs if tensor is not node.outputs[0]]
    fits = len(biases) == 1 and isinstance(biases[0], gs.Constant) and tuple(biases[0].shape) == (weight.shape[1],)
    return biases[0] if fits else None


class _Writer:
    """Writes the operators; rows that several products read are made once."""

    def __init__(self, graph: gs.Graph) -> None:
        self.make = Rewriter(graph)
        self._rows: dict[int, gs.Tensor] = {}
        self._sizes: dict[int, gs.Tensor] = {}

    def write(self, product: gs.Node, bias: gs.Tensor) -> None:
        make, (source, weight) = self.make, product.inputs
        add = product.outputs[0].outputs[0]
        name, (width, columns) = add.outputs[0].name, (int(size) for size in weight.shape)
        if id(source) not in self._rows:
            rows = make.variable(f"{source.name}.rows")
            target = make.shared("gemm.rows", np.array([-1, width], np.int64))
            make.after(source, [make.node("Reshape", [source, target], [rows])])
            self._rows[id(source)] = rows
        flat, out = make.variable(f"{name}.rows"), make.variable(f"{name}.apart")
        new = [make.node("Gemm", [self._rows[id(source)], weight, bias], [flat])]
        target = self._apart(source, columns, name, new)
        make.replace(add, [*new, make.node("Reshape", [flat, target], [out])])

    def _apart(self, source: gs.Tensor, columns: int, name: str, new: list[gs.Node]) -> gs.Tensor:
        """The shape of the result: the source's, but for its last axis."""
        make, leading = self.make, list(source.shape[:-1])
        free = [at for at, size in enumerate(leading) if not isinstance(size, int) or size < 1]
        if len(free) < 2:
            literal = [-1 if at in free else int(size) for at, size in enumerate(leading)]
            return make.shared("gemm.apart", np.array([*literal, columns], np.int64))
        if id(source) not in self._sizes:
            sizes = make.variable(f"{source.name}.leading")
            if (make.graph.opset or 1) >= _PARTS:
                asked = [make.node("Shape", [source], [sizes], end=-1)]
            else:
                whole = make.variable(f"{source.name}.sizes")
                ends = [make.shared("gemm.ends", np.array([end], np.int64)) for end in (0, -1)]
                asked = [make.node("Shape", [source], [whole]), make.node("Slice", [whole, *ends], [sizes])]
            make.after(source, asked)
            self._sizes[id(source)] = sizes
        target = make.variable(f"{name}.target")
        last = make.shared("gemm.columns", np.array([columns], np.int64))
        new.append(make.node("Concat", [self._sizes[id(source)], last], [target], axis=0))
        return target


GEMMS = Rewrite(
    name="gemms",
    what=("product and bias are one Gemm", "products and biases are one Gemm each"),
    carry_out=_carry_out,
    rival=True,
)
