"""What a model's inputs are meant for, and how large its dynamic axes can be.

Names only help to choose between readings of the same shape (a mask or token ids); nothing else depends on them.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxprune.bounds import Uses, input_uses
from onnxprune.errors import ModelError, OptionError
from onnxprune.model import Model
from onnxprune.runtime import Port, Session

Role = Literal[
    "byte", "flag", "image", "length", "mask", "number", "position", "rate", "real", "state", "text", "token"
]
Kind = Literal["batch", "channel", "image", "past", "sequence", "sound"]
Sizes = Mapping[str, int]

_RATE = re.compile(r"(^|.*[._/])(sr|.*rate.*|.*freq.*)", re.IGNORECASE)
_STATE = re.compile(
    r"(?!.*hidden_states?)(.*(past|cache).*|(^|.*[._/])(states?|h_?0?|c_?0?|hx|cx|hidden)([._/]?\d*)?)", re.IGNORECASE
)
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        axes: a size or, where it is dynamic, a symbol or an expression of symbols; an unnamed axis gets its own.
        bounds: (least, one past the greatest) value of token ids and positions.
    """

    port: Port
    role: Role
    axes: tuple[int | str, ...]
    bounds: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The input's name."""
        return self.port.name

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The sizes of all axes once the symbols have some."""
        return tuple(axis if isinstance(axis, int) else max(0, _value(axis, sizes)) for axis in self.axes)


@dataclass(frozen=True)
class Signature:
    """All inputs, and what kind of axis each symbol is."""

    inputs: tuple[Input, ...]
    kinds: Mapping[str, Kind]

    def bound(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Sizes of the symbols that `shapes`, by input name, decide.

        Raises:
            OptionError: no such input, another rank, a fixed axis, or two sizes for one symbol.
        """
        inputs = {one.name: one for one in self.inputs}
        sizes: dict[str, int] = {}
        for name, shape in shapes.items():
            if name not in inputs:
                raise OptionError(f"--shape: no input named {name!r}. The model's inputs: {', '.join(sorted(inputs))}.")
            port, axes = inputs[name].port, inputs[name].axes
            given = "x".join(map(str, shape))
            if len(shape) != len(axes):
                raise OptionError(f"--shape: {port} has {len(axes)} axes, got {given}. Give a size for each.")
            for axis, size in zip(axes, shape, strict=True):
                if isinstance(axis, int) and axis != size:
                    raise OptionError(f"--shape: {port} is fixed at {axis}, got {given}. Change its dynamic axes only.")
                if isinstance(axis, str) and axis in self.kinds and sizes.setdefault(axis, size) != size:
                    raise OptionError(
                        f"--shape: {axis} is {sizes[axis]} in one place and {size} in {name}={given}. Give equal sizes."
                    )
        return sizes

    def of_kind(self, kind: Kind) -> list[str]:
        """Symbols of a kind."""
        return [symbol for symbol, one in self.kinds.items() if one == kind]


def read_signature(model: Model, session: Session) -> Signature:
    """Roles and symbols of the inputs that must be given."""
    uses = input_uses(model.graph)
    for port in session.inputs:
        if port.dtype is None:
            raise ModelError(
                f"{session.name}: input {port.name!r} is of a type that arrays do not have. Export float32."
            )
    lonely = len(session.inputs) == 1
    inputs = tuple(_input(port, uses) for port in session.inputs)
    kinds: dict[str, Kind] = {}
    # States come last: what their axes are follows from the other inputs.
    for one in sorted(inputs, key=lambda one: one.role == "state"):
        for at, axis in enumerate(one.axes):
            for symbol in _symbols(axis):
                kinds.setdefault(symbol, _kind(one, at, symbol, lonely=lonely))
    return Signature(inputs, kinds)


def _input(port: Port, uses: Uses) -> Input:
    # Paddle's exporter names every dynamic axis "?", equal or not.
    axes = tuple(f"{port.name}.{at}" if size in {None, "", "?"} else size for at, size in enumerate(port.shape))
    return Input(port, _role(port, uses), axes, uses.bounds.get(port.name))


def _role(port: Port, uses: Uses) -> Role:  # noqa: PLR0911 - a list of decisions, the first that fits
    kind, rank, name = port.dtype.kind if port.dtype else "", len(port.shape), port.name.lower()
    if kind == "b":
        return "flag"
    if kind == "O":
        return "text"
    if "mask" in name and rank > 1:
        return "mask"
    if kind == "f":
        return _float_role(port, uses)
    if "position" in name and rank:
        return "position"
    if port.name in uses.bounds:
        return "token"
    if port.shape in {(), (1,)}:
        return "rate" if _RATE.fullmatch(port.name) else "number"
    if port.dtype is not None and port.dtype.itemsize == 1:
        return "byte"
    if rank == 1:
        return "length"
    return "mask"


def _float_role(port: Port, uses: Uses) -> Role:
    rank = len(port.shape)
    if rank and (port.name in uses.states or _STATE.fullmatch(port.name)):
        return "state"
    if port.shape in {(), (1,)}:
        return "rate" if _RATE.fullmatch(port.name) else "number"
    if rank == 4 and (port.shape[1] in {1, 3} or port.shape[3] in {1, 3}):
        return "image"
    return "real"


def _kind(one: Input, at: int, symbol: str, *, lonely: bool) -> Kind:
    # The name of an unnamed axis is the input's, which says nothing of the axis.
    rank, name = len(one.axes), "" if symbol == f"{one.name}.{at}" else symbol.lower()
    if one.role == "state":
        if "past" in name or "cache" in name or (rank == 4 and at == 2):
            return "past"
        return "batch"
    if "past" in name:
        return "past"
    if "batch" in name or (at == 0 and not (lonely and rank == 1 and one.role == "real")):
        return "batch"
    if rank == 4 and one.role in {"byte", "image", "real"}:
        return "channel" if one.role == "real" and at == 1 else "image"
    return "sound" if one.role == "real" and at == rank - 1 else "sequence"


def _symbols(axis: int | str) -> Iterator[str]:
    if isinstance(axis, int):
        return
    tree = _parsed(axis)
    if tree is None:
        yield axis
        return
    yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _parsed(axis: str) -> ast.expr | None:
    """An exporter's expression such as `past_length + 1`; None for what is merely a name."""
    if axis.isidentifier() or len(axis) > 200:
        return None
    try:
        tree = ast.parse(axis, mode="eval").body
        _evaluated(tree, dict.fromkeys((node.id for node in ast.walk(tree) if isinstance(node, ast.Name)), 1))
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError):
        return None
    return tree


def _value(axis: str, sizes: Sizes) -> int:
    tree = None if axis in sizes else _parsed(axis)
    return sizes[axis] if tree is None else _evaluated(tree, sizes)


def _evaluated(tree: ast.expr, sizes: Sizes) -> int:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        return int(_OPERATORS[type(tree.op)](_evaluated(tree.left, sizes), _evaluated(tree.right, sizes)))
    raise ValueError(ast.dump(tree))


def sizes_of(signature: Signature, feeds: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Sizes of the symbols in feeds of these shapes, by input name."""
    return {
        axis: size
        for one in signature.inputs
        if len(feeds[one.name]) == len(one.axes)
        for axis, size in zip(one.axes, feeds[one.name], strict=True)
        if isinstance(axis, str) and axis in signature.kinds
    }
