"""A model's dimensions together with the shapes they were read from, in a form that a plan can store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.dimensions import Dimensions, trace
from onnxprune.errors import PlanError
from onnxprune.model import Model

Shapes = Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, eq=False)
class Structure:
    """What can be cut in a model.

    Attributes:
        shapes: of every tensor in every probe run.
        interface: whether key-value caches among inputs and outputs may be cut.
    """

    shapes: Shapes
    dimensions: Dimensions
    interface: bool


def read_structure(model: Model, shapes: Shapes, *, interface: bool = False) -> Structure:
    """Trace the dimensions of a model."""
    found = trace(model.graph, shapes, overridable=model.overridable, cut_interface=interface)
    return Structure(shapes, found, interface)


def pack_shapes(shapes: Shapes) -> dict[str, Any]:
    """Shapes as JSON; one list where all runs agree, which is how most tensors are."""
    return {
        name: list(runs[0]) if len(set(runs)) == 1 else [list(shape) for shape in runs]
        for name, runs in shapes.items()
    } | {"": len(next(iter(shapes.values()), ()))}  # fmt: skip


def unpack_shapes(packed: Mapping[str, Any]) -> Shapes:
    """The inverse of `pack_shapes`.

    Raises:
        PlanError: not packed shapes.
    """
    try:
        runs = int(packed[""])
        return {
            name: tuple(tuple(int(n) for n in one) for one in shape)
            if shape and isinstance(shape[0], list)
            else (tuple(int(n) for n in shape),) * runs
            for name, shape in packed.items()
            if name
        }
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"The plan's shapes are damaged ({error!r}). Make the plan again with optimize.") from error
