"""Random small graphs, one kind for each rewrite: what it looks for, in whatever company exporters leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto

from tests.building import Net

Sketch = Callable[[st.DataObject], Net]
BENDS = ("Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Erf")
LOWEST = float(np.finfo(np.float32).min)
OPSETS = st.sampled_from([15, 17, 18, 21, 23])


def one_of(data: st.DataObject, *choices: object) -> str:
    """One of some words."""
    return str(data.draw(st.sampled_from(choices)))


def chance(data: st.DataObject, of: int) -> bool:
    """True in one of so many cases."""
    return data.draw(st.integers(1, of)) == of


def bent(net: Net, data: st.DataObject, x: str, most: int = 2) -> str:
    """Some entry-wise operators behind a tensor."""
    for kind in data.draw(st.lists(st.sampled_from(BENDS), max_size=most)):
        x = net.op(kind, x)
    return x


def shown(net: Net, data: st.DataObject, held: Sequence[str], last: str) -> Net:
    """The last tensor as an output; now and then one from the middle, too, or what another operator reads of it."""
    net.output(net.op("Identity", last))
    if held and chance(data, 6):
        net.output(str(data.draw(st.sampled_from(held))))
    elif held and chance(data, 6):
        net.output(net.op("Sign", str(data.draw(st.sampled_from(held)))))
    return net


def halved(net: Net, data: st.DataObject, x: str) -> tuple[str, type]:
    """Now and then in half precision."""
    if chance(data, 5):
        return net.op("Cast", x, to=TensorProto.FLOAT16), np.float16
    return x, np.float32


def number(net: Net, data: st.DataObject, value: float, kind: type = np.float32) -> str:
    """One number: a scalar, or an axis of one entry."""
    return net.constant(np.array([value] if data.draw(st.booleans()) else value, kind))


def shapes(data: st.DataObject) -> Net:
    """A Reshape whose target is put together from sizes that are asked for."""
    net = Net(opset=data.draw(OPSETS))
    heads, size = data.draw(st.sampled_from([2, 3, 4])), data.draw(st.sampled_from([2, 5]))
    x = bent(net, data, net.input("x", ("b", "s", heads * size)))
    # What each axis of the target is: an axis of the input, or some of its last one.
    forms: list[list[int | str]] = [
        [0, 1, "h", "d"], [0, "h", 1, "d"], [0, 1, "w"], ["bs", "w"], [0, 1, "d", "h"], ["b*h", 1, "d"],
    ]  # fmt: skip
    wanted = data.draw(st.sampled_from(forms))
    asked = net.op("Shape", bent(net, data, x, 1)) if data.draw(st.booleans()) else net.op("Shape", x)
    pieces, rest = [], data.draw(st.booleans())
    for entry in wanted:
        if isinstance(entry, int):
            pieces.append(_size(net, data, asked, entry))
        elif rest and entry in {"d", "w", "h"}:
            pieces.append(net.constant([-1]))
            rest = False
        elif entry in {"bs", "b*h"}:
            first, other = _size(net, data, asked, 0), _size(net, data, asked, 1)
            pieces.append(net.op("Mul", first, other if entry == "bs" else net.constant([heads])))
        else:
            pieces.append(net.constant([{"h": heads, "d": size, "w": heads * size}[entry]]))
    out = net.op("Reshape", x, net.op("Concat", *pieces, axis=0))
    return shown(net, data, [out], bent(net, data, out))


def _size(net: Net, data: st.DataObject, shape: str, axis: int) -> str:
    """One size of a shape as a list, in one of the ways that exporters take it."""
    way = one_of(data, "gather", "picked", "slice")
    if way == "gather":
        return str(net.op("Gather", shape, net.constant([axis])))
    if way == "picked":
        return str(net.op("Unsqueeze", net.op("Gather", shape, net.constant(np.int64(axis))), net.constant([0])))
    return str(net.op("Slice", shape, net.constant([axis]), net.constant([axis + 1])))


def sizes(data: st.DataObject) -> Net:
    """Layers that ask their own tensors how long they are, some of which are shorter than the input."""
    net = Net(opset=data.draw(OPSETS))
    x = bent(net, data, net.input("x", ("b", "s", 6)))
    other = net.input("y", ("b", data.draw(st.sampled_from(["s", "t"])), 6))
    held: list[str] = []
    for _ in range(data.draw(st.integers(1, 3))):
        way = one_of(data, "view", "view", "zeros", "shorter", "other")
        asked = net.op("Shape", other if way == "other" else x)
        axes = data.draw(st.sampled_from([(0, 1), (1, 0)]))
        first, second = (_size(net, data, asked, axis) for axis in axes)
        if way == "view":
            turned = x if axes == (0, 1) else net.op("Transpose", x, perm=[1, 0, 2])
            x = net.op("Reshape", turned, net.op("Concat", first, second, net.constant([2, 3]), axis=0))
            x = net.op("Reshape", x, net.op("Concat", first, second, net.constant([6]), axis=0))
            x = x if axes == (0, 1) else net.op("Transpose", x, perm=[1, 0, 2])
        elif way == "shorter":
            # One entry fewer, but for a sequence of one.
            last = net.op("Max", net.op("Sub", _size(net, data, asked, 1), net.constant([1])), net.constant([1]))
            x = net.op("Slice", x, net.constant([0]), last, net.constant([1]))
        else:
            width = _size(net, data, asked, 2)
            zeros = net.op("ConstantOfShape", net.op("Concat", first, second, width, axis=0))
            held.append(net.op("ReduceSum", zeros, keepdims=0))
            x = net.op("Add", x, net.op("ReduceMax", net.op("Cast", first, to=TensorProto.FLOAT), keepdims=0))
        held.append(x)
    return shown(net, data, held, bent(net, data, x))


def duplicates(data: st.DataObject) -> Net:
    """Operators on few operands, so that some come twice."""
    net = Net(opset=data.draw(OPSETS))
    held = [net.input("x", ("b", "s")), net.input("y", ("b", "s"))]
    made: list[str] = []
    for _ in range(data.draw(st.integers(5, 9))):
        kind = one_of(data, "Relu", "Neg", "Add", "Softmax", "number")
        one, other = (str(data.draw(st.sampled_from([*held[:2], *made[:1]]))) for _ in range(2))
        if kind == "number":
            name = net.op("Add", one, number(net, data, data.draw(st.integers(1, 2))))
        elif kind == "Softmax":
            name = net.op(kind, one, axis=data.draw(st.sampled_from([0, 1])))
        else:
            name = net.op(kind, one, *([other] if kind == "Add" else []))
        made.append(name)
        held.append(name)
    return shown(net, data, made, net.op("Concat", *made, axis=0))


def _counted(net: Net, data: st.DataObject, of: str, axis: int) -> str:
    """0, 1, 2 and on, as long as an axis of a tensor; now and then not quite."""
    size = net.op("Gather", net.op("Shape", of), net.constant(np.int64(axis)))
    if chance(data, 8):
        # As many, backwards.
        last, step = net.op("Sub", size, net.constant(np.int64(1))), net.constant(np.int64(-1))
        return str(net.op("Range", last, net.constant(np.int64(-1)), step))
    counted = net.op("Range", net.constant(np.int64(0)), size, net.constant(np.int64(1)))
    if chance(data, 8):
        counted = net.op("Min", counted, net.constant(np.int64(data.draw(st.sampled_from([1, 2])))))
    return str(counted)


def positions(data: st.DataObject) -> Net:
    """Entries of a mask picked by sample and key, in the flat or by both numbers."""
    net = Net(opset=data.draw(OPSETS))
    mask = bent(net, data, net.input("m", ("b", "s")), 1)
    swapped = chance(data, 5)
    sample = net.reshape(_counted(net, data, mask, 0), *((1, 1, 1, -1) if swapped else (-1, 1, 1, 1)))
    key = net.reshape(_counted(net, data, mask, 1), *((-1, 1, 1, 1) if swapped else (1, 1, 1, -1)))
    if data.draw(st.booleans()):
        length = net.op(
            "Gather", net.op("Shape", mask), net.constant(np.int64(data.draw(st.sampled_from([1, 1, 1, 0]))))
        )
        flat = net.op("Flatten", mask, axis=0) if data.draw(st.booleans()) else net.reshape(mask, 1, -1)
        where = net.op("Add", key, net.op("Mul", *data.draw(st.permutations([sample, length]))))
        # The product with the wrong length may lie behind the end.
        last = net.op("Sub", net.op("Size", mask), net.constant(np.int64(1)))
        where = net.op("Min", where, last) if chance(data, 4) else net.op("Identity", where)
        picked = net.op("Gather", flat, where, axis=1)
    else:
        whole = net.op("Shape", net.op("Max", sample, key))
        parts = [net.op("Unsqueeze", net.op("Expand", part, whole), net.constant([4])) for part in (sample, key)]
        picked = net.op("GatherND", mask, net.op("Concat", *parts, axis=data.draw(st.sampled_from([-1, 4]))))
    return shown(net, data, [], bent(net, data, picked))


def spreads(data: st.DataObject) -> Net:
    """A mask of keys that is spread over queries before it meets scores, or nobody's."""
    net = Net(opset=data.draw(OPSETS))
    mask = net.op("Cast", net.input("m", ("b", 1, 1, "s"), TensorProto.INT64), to=TensorProto.BOOL)
    scores = net.input("x", ("b", 2, "s", "s"))
    held: list[str] = []
    query = net.reshape(_counted(net, data, scores, 2), 1, 1, -1, 1)
    for _ in range(data.draw(st.integers(1, 2))):
        way = one_of(data, "condition", "condition", "expand", "shape")
        if way == "condition":
            least = net.constant(np.int64(data.draw(st.sampled_from([0, 0, 0, 1, -1]))))
            fine = net.op(one_of(data, "GreaterOrEqual", "GreaterOrEqual", "Greater"), query, least)
            if data.draw(st.booleans()):
                fine = net.op("LessOrEqual", least, query)
            mask = net.op("And", *data.draw(st.permutations([mask, net.op("And", net.constant(np.array(True)), fine)])))
        elif way == "expand":
            sizes = [_size(net, data, net.op("Shape", scores), axis) for axis in (0, 2, 3)]
            mask = net.op("Expand", mask, net.op("Concat", sizes[0], net.constant([1]), *sizes[1:], axis=0))
        else:
            mask = net.op("Expand", mask, net.op("Shape", mask))
        held.append(mask)
    filled = net.op("Where", mask, number(net, data, 0.0), number(net, data, -5.0))
    met = net.op("Add", scores, filled) if not chance(data, 5) else net.op("Mul", filled, filled)
    if chance(data, 6):
        net.output(net.op("Size", filled))
    return shown(net, data, [net.op("Cast", one, to=TensorProto.FLOAT) for one in held], bent(net, data, met))


def attention(data: st.DataObject) -> Net:
    """Attention of one sequence or of two, scaled, masked and guarded in one of the ways that exporters write."""
    net = Net(opset=data.draw(OPSETS))
    heads, size = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([4, 8]))
    groups = data.draw(st.sampled_from([1, heads]))
    across = chance(data, 3)
    width, keys = heads * size, "t" if across else "s"
    x = _normed(net, net.input("x", ("b", "s", width)), width)
    other = _normed(net, net.input("y", ("b", "t", width)), width) if across else x
    held: list[str] = []
    q = _headed(net, data, net.linear(x, width, width, bias=data.draw(st.booleans())), heads, size)
    k = _headed(net, data, net.linear(other, width, groups * size), groups, size)
    v = _headed(net, data, net.linear(other, width, groups * size), groups, size)
    q = net.op("Transpose", q, perm=[0, 2, 1, 3])
    v = net.op("Transpose", v, perm=[0, 2, 1, 3])
    if data.draw(st.booleans()):
        k = net.op("Transpose", k, perm=[0, 2, 3, 1])
    else:
        k = net.op("Transpose", net.op("Transpose", k, perm=[0, 2, 1, 3]), perm=[0, 1, 3, 2])
    way = one_of(data, "before", "both", "behind", "divided", "not")
    if way in {"before", "both"}:
        q = net.op("Mul", q, number(net, data, size**-0.25))
    if way == "both":
        k = net.op("Mul", k, number(net, data, size**-0.25))
    scores = net.op("MatMul", q, k)
    held.append(scores)
    if way in {"behind", "divided"}:
        root = number(net, data, size**0.5 if way == "divided" else size**-0.5)
        scores = net.op("Div" if way == "divided" else "Mul", scores, root)
    scores, guard = _masked(net, data, scores, heads, keys)
    shares = net.op("Softmax", scores, axis=data.draw(st.sampled_from([-1, 3])))
    held.append(shares)
    if guard:
        shares = net.op("Where", net.op("IsNaN", shares), number(net, data, 0), shares)
    out = net.op("Transpose", net.op("MatMul", shares, v), perm=[0, 2, 1, 3])
    out = net.linear(net.reshape(out, 0, 0, width), width, width)
    return shown(net, data, held, bent(net, data, out))


def _normed(net: Net, x: str, width: int) -> str:
    if net.opset < 17:
        return str(net.op("Tanh", x))
    return str(net.op("LayerNormalization", x, net.weight(width), net.weight(width), axis=-1))


def _headed(net: Net, data: st.DataObject, x: str, heads: int, size: int) -> str:
    return net.reshape(x, *data.draw(st.sampled_from([(0, 0, heads, size), (0, 0, -1, size), (0, 0, heads, -1)])))


def _masked(net: Net, data: st.DataObject, scores: str, heads: int, keys: str) -> tuple[str, bool]:
    """Scores under a mask, and whether a guard has to follow: where rows may be blank and minus infinity."""
    form = one_of(data, "none", "added", "where", "added", "where", "float", "causal")
    if form == "none":
        return scores, chance(data, 3)
    fill = data.draw(st.sampled_from([-1e4, LOWEST, -np.inf]))
    if form == "causal":
        # Every row keeps its first entry, so that none is blank.
        rows, columns = (net.op("Shape", scores, start=at, end=at + 1) for at in (2, 3))
        ones = net.op("Expand", net.constant(np.float32(1)), net.op("Concat", rows, columns, axis=0))
        keep = net.op("Cast", net.op("Trilu", ones, upper=0), to=TensorProto.BOOL)
        guard = False
    elif form == "float":
        several = data.draw(st.booleans())
        bias = net.input("m", ("b", heads if several else 1, "s", keys))
        return net.op("Add", *data.draw(st.permutations([scores, bias]))), False
    else:
        of_each: int | str = "s" if data.draw(st.booleans()) else 1
        keep = net.op("Cast", net.input("m", ("b", 1, of_each, keys), TensorProto.INT64), to=TensorProto.BOOL)
        guard = fill == -np.inf
    if form == "where" or (form == "causal" and data.draw(st.booleans())):
        if data.draw(st.booleans()):
            return net.op("Where", net.op("Not", keep), number(net, data, fill), scores), guard
        return net.op("Where", keep, scores, number(net, data, fill)), guard
    mask = net.op("Where", keep, net.constant(np.float32(0)), net.constant(np.float32(fill)))
    return net.op("Add", *data.draw(st.permutations([scores, mask]))), guard


def guards(data: st.DataObject) -> Net:
    """Some layers with a guard behind each softmax, under one mask."""
    net = Net(opset=data.draw(st.sampled_from([17, 18, 21, 23])))
    x, width = net.input("x", ("b", "s", 8)), 8
    keep = net.op("Cast", net.input("m", ("b", 1, "s"), TensorProto.INT64), to=TensorProto.BOOL)
    fill = data.draw(st.sampled_from([-1e4, LOWEST, -np.inf, -np.inf]))
    mask = net.op("Where", keep, net.constant(np.float32(0)), net.constant(np.float32(fill)))
    held: list[str] = []
    if not chance(data, 8):
        x = _normed(net, x, width)
    for _ in range(data.draw(st.integers(1, 3))):
        q, k, v = (net.linear(x, width, width, bias=data.draw(st.booleans())) for _ in range(3))
        product = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
        if data.draw(st.booleans()):
            product = net.op("Mul", product, number(net, data, 0.5))
        scores = net.op("Add", *data.draw(st.permutations([product, mask])))
        shares = net.op("Softmax", scores, axis=data.draw(st.sampled_from([-1, 2])))
        safe = net.op("Where", net.op("IsNaN", shares), number(net, data, 0), shares)
        held += [shares, safe, scores]
        x = net.op("Add", x, bent(net, data, net.op("MatMul", safe, v), 1))
        x = _normed(net, x, width)
    return shown(net, data, held, x)


def scales(data: st.DataObject) -> Net:
    """A number behind a projection, with what is linear between them."""
    net = Net(opset=data.draw(OPSETS))
    x, kind = halved(net, data, net.input("x", ("b", "s", 8)))
    weight, bias = (net.constant(net.numbers.standard_normal(n).astype(kind)) for n in ((8, 8), (8,)))
    if data.draw(st.booleans()):
        y = net.op("Add", net.op("MatMul", x, weight), bias)
    else:
        rows = net.reshape(x, -1, 8)
        alpha = data.draw(st.sampled_from([1.0, 0.5]))
        y = net.op("Gemm", rows, weight, bias, transB=data.draw(st.integers(0, 1)), alpha=alpha)
    held = [y]
    steps = st.sampled_from(["turn", "view", "number", "number", "number", "bend"])
    for step in data.draw(st.lists(steps, min_size=1, max_size=4)):
        if step == "turn":
            # As many axes as there are now, of which nothing else is said.
            y = net.op("Transpose", y)
        elif step == "view":
            y = net.reshape(y, -1)
        elif step == "bend":
            y = net.op("Relu", y)
        else:
            value = data.draw(st.sampled_from([0.25, -2.0, 3.0]))
            pair = data.draw(st.permutations([y, number(net, data, value, kind)]))
            y = net.op("Mul", *pair)
            if data.draw(st.booleans()):
                y = net.op("Div", y, number(net, data, 0.5, kind))
        held.append(y)
    return shown(net, data, held[:-1], net.op("Cast", y, to=TensorProto.FLOAT))


def gains(data: st.DataObject) -> Net:
    """A gain of channels that several linears read."""
    net = Net(opset=data.draw(OPSETS))
    flat = data.draw(st.booleans())
    x, kind = halved(net, data, bent(net, data, net.input("x", ("s", 8) if flat else ("b", "s", 8))))
    gain = net.constant(net.numbers.standard_normal(8).astype(kind))
    scaled = net.op("Mul", *data.draw(st.permutations([x, gain])))
    outs: list[str] = []
    for _ in range(data.draw(st.integers(1, 3))):
        columns = data.draw(st.integers(1, 6))
        if flat and data.draw(st.booleans()):
            across = data.draw(st.booleans())
            weight = net.constant(net.numbers.standard_normal((columns, 8) if across else (8, columns)).astype(kind))
            outs.append(net.op("Gemm", scaled, weight, transB=int(across), alpha=0.5))
        else:
            outs.append(net.op("MatMul", scaled, net.constant(net.numbers.standard_normal((8, columns)).astype(kind))))
    whole = net.op("Concat", *outs, axis=-1)
    return shown(net, data, [scaled] if chance(data, 2) else [], net.op("Cast", whole, to=TensorProto.FLOAT))


def tables(data: st.DataObject) -> Net:
    """Rows of some tables, and one that never changes, added up in any order."""
    net = Net(opset=data.draw(OPSETS))
    ids = net.input("ids", ("b", "s"), TensorProto.INT64)
    sizes = data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=3))
    terms = [str(net.op("Gather", net.weight(rows, 8), ids)) for rows in sizes]
    held = list(terms)
    shape = data.draw(st.sampled_from([(8,), (1, 8), (1, 1, 8)]))
    terms.append(net.constant(net.numbers.standard_normal(shape).astype(np.float32)))
    terms = data.draw(st.permutations(terms))
    total = terms[0]
    for term in terms[1:]:
        total = net.op("Add", *data.draw(st.permutations([total, term])))
        held.append(total)
    return shown(net, data, held[:-1], bent(net, data, net.op("Relu", total)))


def clips(data: st.DataObject) -> Net:
    """A clip or a rectifier in front of a quantizer, whose integers mostly end where it does."""
    net = Net(opset=data.draw(OPSETS))
    x = net.op("Mul", net.input("x", ("b", 8)), net.constant(np.float32(5)))
    kind = data.draw(st.sampled_from([np.uint8, np.int8]))
    ends = np.iinfo(kind)
    top = data.draw(st.sampled_from([6.0, 4.0, 6.0, 7.0]))
    zero = int(ends.min) + data.draw(st.sampled_from([0, 0, 0, 20]))
    step, zero_point = net.constant(np.float32(top / (ends.max - zero))), net.constant(kind(zero))
    form = one_of(data, "Relu", "Clip", "low")
    low = net.constant(np.float32(0))
    bounds = {"Relu": [], "Clip": [low, net.constant(np.float32(6))], "low": [low]}[form]
    kept = net.op("Relu" if form == "Relu" else "Clip", x, *bounds)
    outs = []
    for _ in range(data.draw(st.integers(1, 2))):
        integers = net.op("QuantizeLinear", kept, step, zero_point)
        outs.append(net.op("DequantizeLinear", integers, step, zero_point))
    return shown(net, data, [kept], net.op("Concat", *outs, axis=0))


def gemms(data: st.DataObject) -> Net:
    """Linears with biases of many shapes, one behind the other, their sums now and then read twice."""
    net = Net(opset=data.draw(OPSETS))
    lead = data.draw(st.sampled_from([("b",), ("b", "s"), ("b", 3), ("b", "s", 2), (2, 3)]))
    x, kind = halved(net, data, bent(net, data, net.input("x", (*lead, 8))))
    held: list[str] = []
    for _ in range(data.draw(st.integers(1, 3))):
        product = net.op("MatMul", x, net.constant(net.numbers.standard_normal((8, 8)).astype(kind)))
        shape = data.draw(st.sampled_from([(8,), (8,), (1, 8), (1, 1, 8), (1,), (1, 1, 1, 1, 8)]))
        bias = net.constant(net.numbers.standard_normal(shape).astype(kind))
        held += [product, net.op("Add", *data.draw(st.permutations([product, bias])))]
        x = bent(net, data, held[-1], 1)
        if kind is np.float32 and len(shape) < 5 and data.draw(st.booleans()):
            x = net.op("Add", x, held[-1])
    return shown(net, data, held, net.op("Cast", x, to=TensorProto.FLOAT))


def movement(data: st.DataObject) -> Net:
    """Views and permutations in a row, with entry-wise operators among them."""
    net = Net(opset=data.draw(OPSETS))
    x, rank, held = net.input("x", ("b", "s", 4, 3)), 4, list[str]()
    for _ in range(data.draw(st.integers(2, 5))):
        kind = one_of(data, "turn", "turn", "wide", "flat", "bend", "apart")
        if kind == "turn":
            x = net.op("Transpose", x, perm=data.draw(st.permutations(range(rank))))
        elif kind == "wide" and rank < 6:
            x, rank = net.op("Unsqueeze", x, net.constant([data.draw(st.integers(0, rank))])), rank + 1
        elif kind == "flat":
            x, rank = net.op("Flatten", x, axis=data.draw(st.integers(0, rank))), 2
        elif kind == "apart" and rank < 6:
            # One entry more at the end.
            x, rank = net.reshape(x, *[0] * rank, 1), rank + 1
        else:
            x = net.op(str(data.draw(st.sampled_from(BENDS))), x)
        held.append(x)
    return shown(net, data, held[:-1], net.op("Relu", x))
