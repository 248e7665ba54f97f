"""Operators that multiply and sum over an axis."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_graphsurgeon as gs

from onnxprune.dimensions.factors import Factor, is_one
from onnxprune.dimensions.tracer import Axes, Tracer, label


def matmul(t: Tracer, node: gs.Node) -> None:
    """MatMul, and the integer one, whose zero points are scalars or vectors over rows of A and columns of B."""
    a, b, output = t.input(node, 0), t.input(node, 1), t.output(node)
    multiply(t, node, a, b, output)
    if node.op == "MatMulInteger":
        for index, axis in ((2, a[-2] if len(a) > 1 else a[-1]), (3, b[-1])):
            for factor in t.input(node, index)[-1:]:
                if not is_one(factor.size):
                    t.unite(factor, axis)


def multiply(t: Tracer, node: gs.Node, a: Axes, b: Axes, output: Axes) -> None:
    """[..., m, k] times [..., k, n], either one perhaps a vector; batch axes broadcast."""
    a_axis, b_axis = len(a) - 1, max(len(b) - 2, 0)
    t.unite(a[a_axis], b[b_axis])
    _sum_over(t, node, a_axis, b_axis)
    rest = list(output)
    if len(b) > 1:
        t.unite(b[-1], rest.pop())
        t.produce(node, 1, len(b) - 1)
    if len(a) > 1:
        t.unite(a[-2], rest.pop())
        t.produce(node, 0, len(a) - 2)
    t.broadcast(a[:-2], rest)
    t.broadcast(b[:-2], rest)
    _mix(t, node, zip(a[-3::-1], b[-3::-1], strict=False), [*a[-2:-1], *b[-1:]])


def _mix(t: Tracer, node: gs.Node, shared: Iterable[tuple[Factor, Factor]], carried: Axes) -> None:
    """A product of two activations: one of its own for each index of `shared`, as heads have; `carried` axes stay."""
    if t.is_constant(node, 0) or t.is_constant(node, 1):
        return
    t.batches += [(one, node.op) for one, other in shared if not is_one(one.size) and not is_one(other.size)]
    t.carried += carried


def _sum_over(t: Tracer, node: gs.Node, a_axis: int, b_axis: int) -> None:
    """Mask the operand that is not a weight."""
    if t.is_constant(node, 0) and not t.is_constant(node, 1):
        t.consume(node, 1, b_axis, (0, a_axis))
    else:
        t.consume(node, 0, a_axis, (1, b_axis))


def gemm(t: Tracer, node: gs.Node) -> None:
    """Gemm: transposed operands by attribute, C broadcast to the result."""
    a, b, output = t.input(node, 0), t.input(node, 1), t.output(node)
    a_sum, b_sum = (0 if node.attrs.get("transA", 0) else 1), (1 if node.attrs.get("transB", 0) else 0)
    t.unite(a[a_sum], b[b_sum])
    _sum_over(t, node, a_sum, b_sum)
    t.unite(a[1 - a_sum], output[0])
    t.unite(b[1 - b_sum], output[1])
    t.produce(node, 0, 1 - a_sum)
    t.produce(node, 1, 1 - b_sum)
    t.broadcast(t.input(node, 2), output)


def fused_matmul(t: Tracer, node: gs.Node) -> None:
    """FusedMatMul of com.microsoft: transA, transB swap the last two axes; batch transposes are pinned."""
    if node.attrs.get("transBatchA", 0) or node.attrs.get("transBatchB", 0):
        t.pin_all(node, f"{label(node)} transposes its batch axes")
        return
    a, b, output = t.input(node, 0), t.input(node, 1), t.output(node)
    swap_a = bool(node.attrs.get("transA", 0)) and len(a) > 1
    swap_b = bool(node.attrs.get("transB", 0)) and len(b) > 1
    a_sum = len(a) - (2 if swap_a else 1)
    b_sum = len(b) - (1 if swap_b or len(b) == 1 else 2)
    t.unite(a[a_sum], b[b_sum])
    _sum_over(t, node, a_sum, b_sum)
    rest = list(output)
    if len(b) > 1:
        kept = len(b) - (2 if swap_b else 1)
        t.unite(b[kept], rest.pop())
        t.produce(node, 1, kept)
    if len(a) > 1:
        kept = len(a) - (1 if swap_a else 2)
        t.unite(a[kept], rest.pop())
        t.produce(node, 0, kept)
    t.broadcast(a[:-2], rest)
    t.broadcast(b[:-2], rest)
    carried = [axes[-1 if swap else -2] for axes, swap in ((a, swap_a), (b, not swap_b)) if len(axes) > 1]
    _mix(t, node, zip(a[-3::-1], b[-3::-1], strict=False), carried)


def einsum(t: Tracer, node: gs.Node) -> None:
    """Einsum: a letter is one index set; a letter that the result lacks is summed over."""
    spelled = spelling(node)
    if spelled is None:
        t.pin_all(node, f"{label(node)} has the equation {_equation(node)!r}, which is not traced")
        return
    terms, right = spelled
    output = t.output(node)
    result = letters(right, len(output))
    homes: dict[str, Factor] = dict(zip(result, output, strict=True))
    for index, term in enumerate(terms):
        axes = t.input(node, index)
        for axis, (letter, factor) in enumerate(zip(letters(term, len(axes)), axes, strict=True)):
            if is_one(factor.size):
                continue
            t.unite(factor, homes.setdefault(letter, factor))
            if letter in result:
                t.produce(node, index, axis)
    _einsum_sums(t, node, terms, result)
    _einsum_mixes(t, node, terms, result)


def spelling(node: gs.Node) -> tuple[list[str], str] | None:
    """An Einsum's terms and its result; None where the result is implied or one of them has a diagonal."""
    left, arrow, right = _equation(node).partition("->")
    terms = left.split(",")
    plain = [term.replace("...", "") for term in (*terms, right)]
    return (terms, right) if arrow and all(len(set(term)) == len(term) for term in plain) else None


def _equation(node: gs.Node) -> str:
    equation = node.attrs["equation"]
    return str(equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")


def _einsum_sums(t: Tracer, node: gs.Node, terms: list[str], result: list[str]) -> None:
    """Record each summed letter once, on the first operand that is no weight."""
    places: dict[str, list[tuple[int, int]]] = {}
    for index, term in enumerate(terms):
        for axis, letter in enumerate(letters(term, len(t.input(node, index)))):
            if letter not in result:
                places.setdefault(letter, []).append((index, axis))
    for held in places.values():
        held.sort(key=lambda place: t.is_constant(node, place[0]))
        weight = held[-1] if len(held) > 1 else None
        t.consume(node, *held[0], weight)


def _einsum_mixes(t: Tracer, node: gs.Node, terms: list[str], result: list[str]) -> None:
    """Letters of a product of activations: heads are in several of them, what is carried on in one; as `_mix`."""
    held = [set(letters(term, len(t.input(node, index)))) for index, term in enumerate(terms)]
    moving = [one for index, one in enumerate(held) if not t.is_constant(node, index)]
    if len(moving) < 2 or set().union(*held) <= {*result}:
        return
    for letter, factor in zip(result, t.output(node), strict=True):
        count = sum(letter in one for one in moving)
        if count > 1 and not is_one(factor.size):
            t.batches.append((factor, node.op))
        elif count == 1:
            t.carried.append(factor)


def letters(term: str, rank: int) -> list[str]:
    """One label an axis; those behind the dots are numbered from the last."""
    if "..." not in term:
        return list(term)
    before, _, after = term.partition("...")
    count = rank - len(before) - len(after)
    return [*before, *(f"...{count - at}" for at in range(count)), *after]


def conv(t: Tracer, node: gs.Node) -> None:
    """Conv: input channels are groups x ci, the weight is [groups x co, ci, ...]."""
    data, weight, output = t.input(node, 0), t.input(node, 1), t.output(node)
    groups = (int(node.attrs.get("group", 1)),) * t.runs
    t.unite(data[0], output[0])
    if is_one(groups):
        t.unite(data[1], weight[1])
        t.unite(weight[0], output[1])
    else:
        group = t.forest.leaf(groups)
        per_group = t.forest.leaf(tuple(a // b for a, b in zip(weight[0].size, groups, strict=True)))
        t.unite(data[1], t.forest.product([group, weight[1]]))
        t.unite(weight[0], t.forest.product([group, per_group]))
        t.unite(weight[0], output[1])
        t.attribute(node, "group", group)
    t.produce(node, 1, 0)
    if not is_one(weight[1].size):
        t.consume(node, 0, 1, (1, 1))
    _finish_conv(t, node, data, weight, output)


def conv_transpose(t: Tracer, node: gs.Node) -> None:
    """ConvTranspose: the weight is [groups x ci, co, ...]."""
    data, weight, output = t.input(node, 0), t.input(node, 1), t.output(node)
    groups = (int(node.attrs.get("group", 1)),) * t.runs
    t.unite(data[0], output[0])
    if is_one(groups):
        t.unite(weight[1], output[1])
    else:
        group = t.forest.leaf(groups)
        per_group = t.forest.leaf(tuple(a // b for a, b in zip(weight[0].size, groups, strict=True)))
        t.unite(weight[0], t.forest.product([group, per_group]))
        t.unite(output[1], t.forest.product([group, weight[1]]))
        t.attribute(node, "group", group)
    t.unite(data[1], weight[0])
    t.produce(node, 1, 1)
    if weight[0].size != groups:
        t.consume(node, 0, 1, (1, 0))
    _finish_conv(t, node, data, weight, output)


def _finish_conv(t: Tracer, node: gs.Node, data: Axes, weight: Axes, output: Axes) -> None:
    bias = t.input(node, 2)
    if bias:
        t.unite(bias[0], output[1])
    if node.op == "FusedConv":  # Z of com.microsoft is added to the result
        t.broadcast(t.input(node, 3), output)
    for factor in (*data[2:], *weight[2:], *output[2:]):
        t.pin(factor, f"{label(node)} slides over it")
