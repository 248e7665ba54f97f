"""Linears with a bias as Gemm over rows: the runtime adds the bias where it multiplies, and packs the weight.

Exporters write MatMul and Add where a linear's input has axes besides rows and columns. onnxruntime joins them by
itself only where it knows all sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.rewrite import Rewriter
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

Array = np.ndarray[Any, Any]


def _carry_out(model: Model, _: Wish) -> Done:
    make = Rewriter(model.graph)
    outputs = {id(tensor) for tensor in model.graph.outputs}
    places, kept = 0, []
    for node in list(model.graph.nodes):
        found = _linear(node, model.overridable, outputs)
        if found is None:
            continue
        if any(reader.op == "Attention" and not reader.domain for reader in node.outputs[0].outputs):
            # onnx takes it for a number there where its shape is computed, and refuses what follows.
            kept.append((node.outputs[0].name, "a linear stays MatMul and Add: Attention has to be told its shape"))
            continue
        _rewrite(make, node, *found)
        places += 1
    make.finish()
    return Done(places, tuple(kept))


def _linear(add: gs.Node, overridable: frozenset[str], outputs: set[int]) -> tuple[gs.Node, gs.Constant] | None:
    """The MatMul [.., k] x [k, n] that an Add gives a bias [n], and the bias."""
    if add.op != "Add" or add.domain:
        return None
    for product, bias in (add.inputs, add.inputs[::-1]):
        node = producer(product)
        if node is None or node.op != "MatMul" or node.domain or len(product.outputs) != 1 or id(product) in outputs:
            continue
        source, weight = node.inputs
        held = all(isinstance(one, gs.Constant) and one.name not in overridable for one in (weight, bias))
        if not held or weight.dtype.kind != "f" or len(weight.shape) != 2:
            continue
        rank, width = len(source.shape or ()), weight.shape[1]
        # A bias of more axes than the product would give them to it.
        if rank > 2 and 0 not in source.shape and len(bias.shape) <= rank and _row(bias, width):
            return node, bias
    return None


def _row(bias: gs.Constant, width: int) -> bool:
    return tuple(bias.shape[-1:]) == (width,) and int(np.prod(bias.shape)) == width


def _rewrite(make: Rewriter, add: gs.Node, product: gs.Node, bias: gs.Constant) -> None:
    (source, weight), name = product.inputs, add.outputs[0].name
    depth, width = weight.shape
    rows, summed = make.variable(f"{name}.rows"), make.variable(f"{name}.sums")
    row = bias if len(bias.shape) == 1 else make.constant(bias.name, numbers(bias).reshape(-1))
    target, nodes = _target(make, source, width)
    make.replace(
        add,
        [
            *nodes,
            make.node("Reshape", [source, make.shared("rows", np.array([-1, depth], np.int64))], [rows]),
            make.node("Gemm", [rows, weight, row], [summed]),
            make.node("Reshape", [summed, target], [add.outputs[0]]),
        ],
    )


def _target(make: Rewriter, source: gs.Tensor, width: int) -> tuple[gs.Tensor, list[gs.Node]]:
    """The source's shape with another last axis, and what computes it where more than one axis is free."""
    lead = [size if isinstance(size, int) else -1 for size in source.shape[:-1]]
    if lead.count(-1) < 2:
        return make.shared("shape", np.array([*lead, width], np.int64)), []
    whole, part, target = (make.variable(f"{source.name}.{what}") for what in ("shape", "lead", "shape.new"))
    start, end = (make.shared(what, np.array([at], np.int64)) for what, at in (("start", 0), ("end", -1)))
    return target, [
        make.node("Shape", [source], [whole]),
        make.node("Slice", [whole, start, end], [part]),
        make.node("Concat", [part, make.shared("width", np.array([width], np.int64))], [target], axis=0),
    ]


GEMMS = Rewrite(
    name="gemms",
    what=("linear with its bias in one Gemm", "linears with their biases in one Gemm each"),
    carry_out=_carry_out,
    rival=True,
)
