"""A node as its operator sees it, and what a table entry is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor
Run = Callable[..., Any]


class UnsupportedError(Exception):
    """An operator is used in a way that its entry does not cover; the message says which."""


@dataclass(frozen=True)
class Call:
    """One node.

    Attributes:
        name: of its first output.
        opset: of its domain.
        wanted: which outputs have readers or names.
        types: of the inputs in the file, `uint4` where torch holds uint8; empty where it is not said.
        floating: the type that all floats of the graph are computed in.
    """

    op: str
    name: str
    opset: int
    attrs: Mapping[str, Any]
    wanted: tuple[bool, ...]
    floating: torch.dtype
    types: tuple[str, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default."""
        value = self.attrs.get(name)
        return default if value is None else value

    def listed(self, name: str, given: Tensor | None) -> list[int] | None:
        """Whole numbers that are an input in newer opsets and an attribute in older ones."""
        if given is not None:
            return ints(given)
        held = self.attrs.get(name)
        return None if held is None else [int(value) for value in held]

    def wants(self, index: int) -> bool:
        """Whether an output is asked for."""
        return index < len(self.wanted) and self.wanted[index]

    def type_of(self, index: int) -> str:
        """The type of an input in the file, empty where it is not said."""
        return self.types[index] if index < len(self.types) else ""

    def refuse(self, why: str) -> UnsupportedError:
        """What to raise for a form that is not covered."""
        return UnsupportedError(f"{self.op} {self.name!r}: {why}")


@dataclass(frozen=True)
class Operator:
    """A row of the table.

    Attributes:
        run: (call, inputs…) -> a tensor or a tuple of them; left-out inputs are None.
        host: inputs that are sizes, axes or bounds: read as numbers, never trained, kept on the CPU.
    """

    run: Run
    host: tuple[int, ...] = ()


def entry(run: Run, *host: int) -> Operator:
    """A row of the table."""
    return Operator(run, host)


def ints(given: Tensor) -> list[int]:
    """A tensor of whole numbers as a list; a scalar as a list of one."""
    return [int(value) for value in given.reshape(-1).tolist()]


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis
