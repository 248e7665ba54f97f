"""Chains of views and permutations said once: whatever Reshapes and Transposes do in a row, one of each does.

Axes are followed through a chain as products of factors. What is left at its end is an order of factors: none, a
Transpose, or a Transpose between two Reshapes. Entry-wise operators on the way do not mind which order they see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.graph import elements, numbers, producer
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter, substitute
from onnxprune.streamlining.factors import Factors, Size
from onnxprune.streamlining.observed import settled_shapes
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

_VIEWS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
_ENTRY_WISE = {
    "Abs", "Cast", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus",
    "Sqrt", "Tanh",
}  # fmt: skip
_WITH_A_NUMBER = {"Add", "Div", "Mul", "Pow", "Sub"}


@dataclass(frozen=True)
class Chain:
    """Operators in a row, each read by the next alone.

    Attributes:
        nodes: in order; the first and the last move entries about.
    """

    nodes: tuple[gs.Node, ...]

    @property
    def movers(self) -> tuple[gs.Node, ...]:
        """Those that move entries."""
        return tuple(node for node in self.nodes if _moves(node))


def _wish(model: Model, context: Context) -> Wish | None:
    runs = {name: tuple(zip(*shapes, strict=True)) for name, shapes in settled_shapes(model, context.shapes).items()}
    found: dict[str, Any] = {}
    for chain in chains(model.graph, {id(out) for out in model.graph.outputs}):
        plan = _plan(chain, runs)
        if plan is not None:
            found[chain.nodes[-1].outputs[0].name] = plan
    return Wish({"chains": found}) if found else None


def chains(graph: gs.Graph, given_out: set[int]) -> list[Chain]:
    """The longest chains that hold two movers at least."""
    found, seen = [], set[int]()
    for node in reversed(graph.nodes):
        if id(node) in seen or not _moves(node):
            continue
        nodes, at = [node], node
        while True:
            source = at.inputs[_slot(at)]
            before = producer(source)
            if before is None or len(source.outputs) != 1 or id(source) in given_out:
                break
            if not (_moves(before) or _entry_wise(before)):
                break
            nodes.append(before)
            at = before
        while not _moves(nodes[-1]):
            nodes.pop()
        seen |= {id(one) for one in nodes}
        chain = Chain(tuple(reversed(nodes)))
        if len(chain.movers) > 1:
            found.append(chain)
    return found


def _moves(node: gs.Node) -> bool:
    return (
        not node.domain and bool(node.inputs) and bool(node.outputs) and (node.op == "Transpose" or node.op in _VIEWS)
    )


def _entry_wise(node: gs.Node) -> bool:
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op in _WITH_A_NUMBER and len(node.inputs) == 2:
        return sum(isinstance(given, gs.Constant) and elements(given) == 1 and len(given.shape) <= 1
                   for given in node.inputs) == 1  # fmt: skip
    return node.op in _ENTRY_WISE and all(isinstance(given, gs.Constant) for given in node.inputs[1:] if given.name)


def _slot(node: gs.Node) -> int:
    """The operand that flows along a chain."""
    if node.op not in _WITH_A_NUMBER:
        return 0
    return next(at for at, given in enumerate(node.inputs) if not isinstance(given, gs.Constant))


def _plan(chain: Chain, runs: dict[str, tuple[Size, ...]]) -> dict[str, Any] | None:
    """Fewer movers for a chain; None where there are none, or where a size is not known."""
    source, last = chain.nodes[0].inputs[0], chain.nodes[-1].outputs[0]
    if any(t.name not in runs for t in (source, *(node.outputs[0] for node in chain.nodes))):
        return None
    factors = Factors(runs[source.name])
    for node in chain.movers:
        if node.op == "Transpose":
            rank = len(runs[node.inputs[0].name])
            factors.permute(node.attrs.get("perm") or list(range(rank))[::-1])
        elif not factors.view(runs[node.outputs[0].name]):
            return None
    moves = factors.moves(runs[source.name], runs[last.name])
    if moves is None or len(moves) >= len(chain.movers):
        return None
    return {"replaces": _text(chain), "moves": moves}


def _text(chain: Chain) -> list[list[Any]]:
    """What a chain does, as far as it is literal: a plan that was made for another is none for this one."""
    return [
        [node.op, *([int(n) for n in node.attrs.get("perm", ())] if node.op == "Transpose" else _literal(node))]
        for node in chain.nodes
    ]


def _literal(node: gs.Node) -> list[int]:
    operand = node.inputs[1] if len(node.inputs) > 1 and _moves(node) else None
    return [int(n) for n in np.ravel(numbers(operand))] if isinstance(operand, gs.Constant) else []


def _carry_out(model: Model, wish: Wish) -> Done:
    plans = wish.args.get("chains", {})
    make = Rewriter(model.graph)
    places = 0
    for chain in chains(model.graph, {id(out) for out in model.graph.outputs}):
        last = chain.nodes[-1]
        plan = plans.get(last.outputs[0].name)
        if plan is None or plan["replaces"] != _text(chain):
            continue
        _rewrite(make, chain, plan["moves"])
        places += 1
    make.finish()
    return Done(places)


def _rewrite(make: Rewriter, chain: Chain, moves: Sequence[Sequence[Any]]) -> None:
    """Entry-wise operators first, on what comes in; then the moves."""
    last = chain.nodes[-1]
    tensor, out = chain.nodes[0].inputs[0], last.outputs[0]
    for node in chain.nodes:
        if _moves(node):
            continue
        # Its entries stand in another order now, so that its name would promise too much.
        early = make.variable(f"{node.outputs[0].name}.early")
        node.inputs[_slot(node)] = tensor
        node.outputs = [early]
        tensor = early
    new: list[gs.Node] = []
    for kind, numbers_of in moves:
        moved = make.variable(f"{out.name}.moved")
        if kind == "Transpose":
            new.append(make.node("Transpose", [tensor], [moved], perm=[int(n) for n in numbers_of]))
        else:
            shape = make.shared("shape", np.array([int(n) for n in numbers_of], np.int64))
            new.append(make.node("Reshape", [tensor, shape], [moved]))
        tensor = moved
    if new:
        make.replace(last, new)
    elif any(given is out for given in make.graph.outputs):
        make.replace(last, [make.node("Identity", [tensor], [make.variable(out.name)])])
    else:
        substitute(out, tensor)
        last.inputs.clear()
        last.outputs.clear()


MOVEMENT = Rewrite(
    name="movement",
    what=("chain of Reshapes and Transposes made shorter", "chains of Reshapes and Transposes made shorter"),
    carry_out=_carry_out,
    wish=_wish,
)
