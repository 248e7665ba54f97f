"""Damage: bytes changed, put in and taken out; JSON values made into what no program wrote."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import onnx

# Hostile files by hand, and those that a run of the fuzzing has found: all are tried in every test run.
CORPUS = Path(__file__).parent / "corpus"
# What stands where something else is meant.
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, -(10**9), 0.5, float("nan"), float("inf"), 1e308, "", "x", "../../x",
    "/etc/passwd", "\0", "é" * 40, "9" * 400, [], [[]], {}, [-1], [0, 0], [10**9], ["a"], {"a": 1}, [None], [1.5],
)  # fmt: skip


def keep(name: str, data: bytes) -> None:
    """Put what broke something where `test_corpus` finds it."""
    (CORPUS / name).write_bytes(data)


def bytes_changed(data: bytes, chance: random.Random, *, near: int | None = None) -> bytes:
    """A few bytes set, flipped, taken out or put in; with `near`, most of them that close to either end."""
    changed = bytearray(data)
    if chance.random() < 0.15:
        return bytes(changed[: chance.randrange(len(changed))])
    for _ in range(chance.randint(1, 6)):
        edge = min(near or len(changed), max(1, len(changed) // 2))
        at = chance.choice([chance.randrange(edge), max(0, len(changed) - 1 - chance.randrange(edge))])
        kind = chance.choice(["set", "set", "flip", "flip", "delete", "insert"])
        if kind == "set":
            changed[at] = chance.randrange(256)
        elif kind == "flip":
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == "delete":
            del changed[at : at + min(chance.randint(1, 8), len(changed) - 1)]
        else:
            changed[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(changed)


def nodes_changed(proto: onnx.ModelProto, chance: random.Random) -> bytes:
    """A model whose nodes read too little, something else, or each other in a circle."""
    graph = proto.graph
    names = ["", *(name for node in graph.node for name in (*node.input, *node.output))]
    for _ in range(chance.randint(1, 3)):
        node = chance.choice(graph.node)
        kind = chance.choice(["less", "rewired", "operator", "attribute"])
        if kind == "less" and node.input:
            del node.input[chance.randrange(len(node.input)) :]
        elif kind == "rewired" and node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(names)
        elif kind == "operator":
            node.op_type = chance.choice(graph.node).op_type
        elif node.attribute:
            del node.attribute[chance.randrange(len(node.attribute))]
    return bytes(proto.SerializeToString())


def value_changed(document: Any, chance: random.Random) -> Any:
    """A JSON document with one value, somewhere, replaced, removed, doubled or exchanged; edited in place."""
    places = list(_places(document))
    holder, key = chance.choice(places)
    kind = chance.random()
    if kind < 0.6:
        holder[key] = chance.choice(_VALUES)
    elif kind < 0.75:
        del holder[key]
    elif kind < 0.85 and isinstance(holder, list):
        holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif kind < 0.95:
        other, place = chance.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif isinstance(holder[key], int | float):
        holder[key] = holder[key] * chance.choice([-1, 2, 1000])
    return document


def _places(document: Any) -> Any:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)
