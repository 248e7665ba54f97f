"""Hard gates that exporters spell out: a sum, a clip and a quotient become one HardSigmoid."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.folding.reading import bypass, number, sole_reader


def fold_gates(graph: gs.Graph, overridable: frozenset[str]) -> int:
    """clip(x + a, 0, b) / b, with a product between the clip and the quotient or not; how many nodes went.

    It is clip(x / b + a / b, 0, 1), which is HardSigmoid, exactly.
    """
    folded = 0
    for node in list(graph.nodes):
        found = _gate(node, graph, overridable)
        if found is None:
            continue
        source, shift, width, quotient = found
        clip_out = node.outputs[0]
        gate = gs.Node(
            "HardSigmoid", name=node.name, attrs={"alpha": float(np.float32(1 / width)), "beta": shift / width}
        )
        bypass(quotient, quotient.inputs[_variable_slot(quotient)])
        graph.nodes.insert(graph.nodes.index(node), gate)
        node.inputs.clear()
        node.outputs.clear()
        # In opset 6 and later the operator takes its input and nothing else.
        gate.inputs = [source]
        gate.outputs = [clip_out]
        folded += 2
    return folded


def _gate(
    node: gs.Node, graph: gs.Graph, overridable: frozenset[str]
) -> tuple[gs.Tensor, float, float, gs.Node] | None:
    """x, what is added to it, the gate's width, and the quotient that ends it."""
    if node.op != "Clip" or node.domain or not node.inputs or not node.inputs[0].inputs:
        return None
    low, high = (_bound(node, at, overridable) for at in (1, 2))
    add = node.inputs[0].inputs[0]
    if low != 0 or high is None or not 0 < high < np.inf or add.op != "Add" or add.domain:
        return None
    shift = next((value for at in (0, 1) if (value := number(add.inputs[at], overridable)) is not None), None)
    sources = [tensor for tensor in add.inputs if not isinstance(tensor, gs.Constant)]
    if shift is None or len(sources) != 1 or sole_reader(node.inputs[0], graph) is None:
        return None
    end = sole_reader(node.outputs[0], graph)
    if end is not None and end.op == "Mul" and not end.domain and _divided_by(end, overridable) is None:
        end = sole_reader(end.outputs[0], graph)
    if end is None or end.domain or any(out is end.outputs[0] for out in graph.outputs):
        return None
    divisor = _divided_by(end, overridable)
    # The quotient has to end the gate, to float rounding.
    if divisor is None or abs(divisor / high - 1) > 1e-6:
        return None
    return sources[0], shift, high, end


def _bound(clip: gs.Node, at: int, overridable: frozenset[str]) -> float | None:
    if len(clip.inputs) > at:
        return number(clip.inputs[at], overridable) if clip.inputs[at].name else None
    value = clip.attrs.get(("min", "max")[at - 1])
    return None if value is None else float(value)


def _divided_by(node: gs.Node, overridable: frozenset[str]) -> float | None:
    """What a node divides by: x / d or x · (1 / d)."""
    if node.op == "Div":
        divisor = number(node.inputs[1], overridable)
        return divisor or None
    if node.op == "Mul":
        factors = [value for tensor in node.inputs if (value := number(tensor, overridable)) is not None]
        return 1 / factors[0] if len(factors) == 1 and factors[0] else None
    return None


def _variable_slot(node: gs.Node) -> int:
    return next(at for at, tensor in enumerate(node.inputs) if not isinstance(tensor, gs.Constant))
