"""Nodes made ready to run: in order, with their operators, and with what ends at each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs
import torch

from onnxprune.errors import ModelError
from onnxprune.graph import walk
from onnxprune.learn.call import Call, Operator
from onnxprune.learn.control import TABLE as CONTROL
from onnxprune.learn.operators import operator_of
from onnxprune.model import Model


@dataclass(frozen=True, eq=False)
class Step:
    """One node, ready to run.

    Attributes:
        key: name of its first output.
        operator: None for If, Loop and Scan, whose bodies the module runs.
        bodies: steps of the graphs it holds, by attribute.
        given: names of the inputs of each body.
        yields: names of the outputs of each body.
        dead: tensors that nothing reads after it.
    """

    key: str
    call: Call
    operator: Operator | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bodies: Mapping[str, tuple[Step, ...]]
    given: Mapping[str, tuple[str, ...]]
    yields: Mapping[str, tuple[str, ...]]
    dead: tuple[str, ...] = ()

    def reads(self) -> set[str]:
        """Every tensor that it, or a body, may read."""
        names = set(self.inputs)
        for key, body in self.bodies.items():
            names |= {name for each in body for name in each.reads()} | set(self.yields[key])
        return names


def steps_of(model: Model, floating: torch.dtype) -> tuple[Step, ...]:
    """The graph's nodes in order.

    Raises:
        ModelError: it has operators that are not in the tables; all are named.
    """
    graph = model.graph
    unknown = sorted(
        {
            f"{node.domain}.{node.op}" if node.domain else node.op
            for _, node in walk(graph)
            if operator_of(node) is None and not (node.op in CONTROL and node.domain in {None, "", "ai.onnx"})
        }
    )
    if unknown:
        raise ModelError(
            f"The torch module has no operators {', '.join(unknown)}. Recover and score models without them."
        )
    opsets = {entry.domain or "": int(entry.version) for entry in graph.import_domains or ()}
    opsets[""] = opsets.get("", opsets.get("ai.onnx", int(graph.opset or 1)))
    return _steps(graph, opsets, floating)


def _steps(graph: gs.Graph, opsets: Mapping[str, int], floating: torch.dtype) -> tuple[Step, ...]:
    return tuple(_step(node, opsets, floating) for node in _in_order(graph))


def _step(node: gs.Node, opsets: Mapping[str, int], floating: torch.dtype) -> Step:
    outputs = tuple(tensor.name for tensor in node.outputs)
    domain = node.domain or ""
    bodies = {key: value for key, value in node.attrs.items() if isinstance(value, gs.Graph)}
    call = Call(
        op=node.op,
        name=outputs[0],
        opset=opsets.get("" if domain == "ai.onnx" else domain, 1),
        attrs={key: value for key, value in node.attrs.items() if key not in bodies},
        wanted=tuple(bool(name) for name in outputs),
        types=tuple(str(tensor.dtype) if tensor.dtype is not None else "" for tensor in node.inputs),
        floating=floating,
    )
    inputs = [tensor.name for tensor in node.inputs]
    while inputs and not inputs[-1]:
        inputs.pop()
    return Step(
        key=outputs[0],
        call=call,
        operator=operator_of(node),
        inputs=tuple(inputs),
        outputs=outputs,
        bodies={key: _steps(body, opsets, floating) for key, body in bodies.items()},
        given={key: tuple(tensor.name for tensor in body.inputs) for key, body in bodies.items()},
        yields={key: tuple(tensor.name for tensor in body.outputs) for key, body in bodies.items()},
    )


def with_ends(steps: Sequence[Step], kept: Collection[str]) -> tuple[Step, ...]:
    """Steps that know which tensors nothing reads after them; `kept` never end."""
    last = {name: at for at, step in enumerate(steps) for name in step.reads()}
    ends: list[list[str]] = [[] for _ in steps]
    for name, at in last.items():
        if name and name not in kept:
            ends[at].append(name)
    return tuple(replace(step, dead=tuple(dead)) for step, dead in zip(steps, ends, strict=True))


def numbers_read(graph: gs.Graph) -> frozenset[str]:
    """Constants that some operator reads as bounds, sizes, or scales of a resize or a grid: never trained."""
    found: set[str] = set()
    for _, node in walk(graph):
        row = operator_of(node)
        slots = row.host if row is not None else range(len(node.inputs))
        found |= {node.inputs[slot].name for slot in slots if slot < len(node.inputs)}
        if node.op in {"QuantizeLinear", "DequantizeLinear"} or node.op.startswith("QLinear"):
            found |= {tensor.name for tensor in node.inputs[1:]} - {node.inputs[0].name}
    return frozenset(found)


def _in_order(graph: gs.Graph) -> list[gs.Node]:
    """Nodes after what they read; graphs that passes edited may have lost that order."""
    made = {tensor.name for node in graph.nodes for tensor in node.outputs}
    done: set[str] = set()
    waiting = list(graph.nodes)
    order: list[gs.Node] = []
    while waiting:
        late = []
        for node in waiting:
            if all(name not in made or name in done for name in _names_read(node)):
                order.append(node)
                done |= {tensor.name for tensor in node.outputs}
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ModelError(f"{late[0].name or late[0].op}: it reads what it computes. Export the model again.")
        waiting = late
    return order


def _names_read(node: gs.Node) -> set[str]:
    names = {tensor.name for tensor in node.inputs if tensor.name}
    for body in node.attrs.values():
        if isinstance(body, gs.Graph):
            inner = {tensor.name for each in body.nodes for tensor in each.outputs} | {t.name for t in body.inputs}
            names |= {name for each in body.nodes for name in _names_read(each)} - inner
            names |= {tensor.name for tensor in body.outputs} - inner
    return names
