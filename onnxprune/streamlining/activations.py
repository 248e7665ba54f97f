"""Gelus, as one operator or spelled out, and cheaper functions that stay within a stated distance of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import numbers, producer
from onnxprune.model import Model
from onnxprune.rewrite import Rewriter

Form = Literal["tanh", "sigmoid"]
# Greatest |form(x) - gelu(x)| over all x, to two digits, rounded up. Hendrycks and Gimpel 2016, Gaussian error linear
# units, give both forms; a test finds the distances on a grid.
BOUNDS: Mapping[Form, float] = {"tanh": 4.8e-4, "sigmoid": 2.1e-2}
_SIGMOID_SLOPE = 1.702
_CUBE = 0.044715
# Constants of exporters are rounded to float32 or half precision.
_ALIKE = 2e-3


@dataclass(frozen=True)
class _Gelu:
    """x · Φ(x): its input, and the node that puts it out."""

    source: gs.Tensor
    last: gs.Node


def approximate(model: Model, form: Form) -> int:
    """Put a cheaper form in place of every exact Gelu of a model's graph, edited in place; how many there were."""
    graph = model.graph
    found = [gelu for node in graph.nodes if (gelu := _gelu_at(node, model.overridable)) is not None]
    make = Rewriter(graph)
    for gelu in found:
        make.replace(gelu.last, _tanh(make, gelu) if form == "tanh" else _sigmoid(make, gelu))
    make.finish()
    graph.cleanup(remove_unused_graph_inputs=False)
    return len(found)


def _gelu_at(node: gs.Node, overridable: frozenset[str]) -> _Gelu | None:
    if node.op == "Gelu" and node.attrs.get("approximate", "none") in {"none", b"none"}:
        return _Gelu(node.inputs[0], node) if node.domain in {None, "", "com.microsoft"} else None
    if node.op != "Erf" or node.domain:
        return None
    scaled = producer(node.inputs[0])
    found = None if scaled is None else _times(scaled, overridable)
    plus = _only(node.outputs[0])
    if found is None or plus is None or plus.op != "Add" or not math.isclose(found[1], 0.5**0.5, rel_tol=_ALIKE):
        return None
    if 1.0 not in [_value(tensor, overridable) for tensor in plus.inputs]:
        return None
    return _climbed(plus, found[0], overridable)


def _climbed(node: gs.Node, source: gs.Tensor, overridable: frozenset[str]) -> _Gelu | None:
    """Up the products from 1 + erf until x and one half were multiplied with it."""
    factor, with_source = 1.0, False
    while not (with_source and math.isclose(factor, 0.5, rel_tol=_ALIKE)):
        above = _only(node.outputs[0])
        if above is None or above.domain or above.op not in {"Mul", "Div"}:
            return None
        other = above.inputs[1 if above.inputs[0] is node.outputs[0] else 0]
        value = _value(other, overridable)
        made = producer(other)
        part = None if made is None else _times(made, overridable)
        if value is not None and (above.op == "Mul" or above.inputs[1] is other):
            factor *= value if above.op == "Mul" else 1 / value
        elif above.op == "Mul" and other is source and not with_source:
            with_source = True
        elif above.op == "Mul" and part is not None and part[0] is source and not with_source:
            with_source, factor = True, factor * part[1]
        else:
            return None
        node = above
    return _Gelu(source, node)


def _times(node: gs.Node, overridable: frozenset[str]) -> tuple[gs.Tensor, float] | None:
    """The tensor that a node scales by one number, and the number."""
    if node.domain or node.op not in {"Mul", "Div"}:
        return None
    for slot in (0, 1) if node.op == "Mul" else (0,):
        value = _value(node.inputs[1 - slot], overridable)
        if value:
            return node.inputs[slot], value if node.op == "Mul" else 1 / value
    return None


def _only(tensor: gs.Tensor) -> gs.Node | None:
    reader: gs.Node | None = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    return reader


def _value(tensor: gs.Tensor, overridable: frozenset[str]) -> float | None:
    if not isinstance(tensor, gs.Constant) or tensor.name in overridable:
        return None
    held = numbers(tensor)
    return float(held.reshape(-1)[0]) if held.size == 1 and held.dtype.kind == "f" and held.ndim <= 1 else None


def _sigmoid(make: Rewriter, gelu: _Gelu) -> list[gs.Node]:
    name = gelu.last.outputs[0].name
    slope = _constant(make, gelu, "slope", _SIGMOID_SLOPE)
    scaled, gate, out = (make.variable(f"{name}.{part}") for part in ("scaled", "gate", "gated"))
    return [
        make.node("Mul", [gelu.source, slope], [scaled]),
        make.node("Sigmoid", [scaled], [gate]),
        make.node("Mul", [gelu.source, gate], [out]),
    ]


def _tanh(make: Rewriter, gelu: _Gelu) -> list[gs.Node]:
    """One operator where there is one; else as exporters spell it, which runtimes know."""
    name = gelu.last.outputs[0].name
    opset = 20
    if (make.graph.opset or 1) >= opset:
        return [make.node("Gelu", [gelu.source], [make.variable(f"{name}.near")], approximate="tanh")]
    parts = ("cube", "bend", "sum", "inner", "tanh", "plus", "half", "near")
    cube, bend, total, inner, tanh, plus, half, near = (make.variable(f"{name}.{part}") for part in parts)
    three, share, root, one, halved = (
        _constant(make, gelu, part, value)
        for part, value in (
            ("three", 3.0),
            ("cubed", _CUBE),
            ("root", math.sqrt(2 / math.pi)),
            ("one", 1.0),
            ("half", 0.5),
        )
    )
    return [
        make.node("Pow", [gelu.source, three], [cube]),
        make.node("Mul", [cube, share], [bend]),
        make.node("Add", [gelu.source, bend], [total]),
        make.node("Mul", [total, root], [inner]),
        make.node("Tanh", [inner], [tanh]),
        make.node("Add", [tanh, one], [plus]),
        make.node("Mul", [gelu.source, plus], [half]),
        make.node("Mul", [half, halved], [near]),
    ]


def _constant(make: Rewriter, gelu: _Gelu, part: str, value: float) -> gs.Constant:
    kind = gelu.last.outputs[0].dtype or gelu.source.dtype or np.float32
    return make.shared(f"gelu.{part}", np.array(value, kind))
