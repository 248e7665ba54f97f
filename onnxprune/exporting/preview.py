"""What the passes will find in a module's exports, which pruned units will really disappear, and what is left after."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.dead import Dead, DeadUnits
from onnxprune.dimensions import Dimension
from onnxprune.errors import OnnxPruneError
from onnxprune.exporting.capturing import Capture, capture
from onnxprune.graph import constants, numbers
from onnxprune.inspection import Inspection, inspect
from onnxprune.model import Model, load
from onnxprune.passes.simplify import Simplify
from onnxprune.pipeline import optimize
from onnxprune.protocol import Context
from onnxprune.runtime import observe, observe_shapes, open_session
from onnxprune.structure import Structure, read_structure
from onnxprune.synthetic import probes, synthesise

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray[Any, Any]
SIDES = ("outputs", "inputs")
# Of the cosine of two rows that float32 rounding alone tells apart.
_PARALLEL = 1e-5
_NOT_TRACED = "the exported graph does not show where these units go"


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Units of one weight that training has set to zero.

    Attributes:
        parameter: its name in the module.
        side: `outputs` (rows) or `inputs` (columns).
        zero: how many are zero throughout.
        units: how many there are.
        disappear: how many of the zero ones the pass `remove-dead` cuts; None where the export holds another weight.
        why: the reason for those that stay, or why it is not known; empty where none do.
    """

    parameter: str
    side: str
    zero: int
    units: int
    disappear: int | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The export before and after the default passes; both timed in alternation on `target`.

    Attributes:
        label: how the milliseconds came about.
    """

    size_bytes: tuple[int, int]
    macs: tuple[int | None, int | None]
    latency_ms: tuple[float, float]
    target: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Export:
    """One exporter's part of the answer.

    Attributes:
        failure: why there is nothing more, where there is not.
        inspection: sites, with pins and dead units, as `onnxprune inspect` gives them.
    """

    exporter: str
    path: Path | None
    dynamic: bool
    failure: str
    inspection: Inspection | None = None
    pruned: tuple[Pruned, ...] = ()
    predicted: Predicted | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        seen = None if self.inspection is None else self.inspection.to_json()
        after = self.predicted
        return {
            "exporter": self.exporter,
            "dynamic": self.dynamic,
            "failure": self.failure or None,
            "sites": [] if seen is None else seen["sites"],
            "pinned": [] if seen is None else seen["pinned"],
            "notes": [] if seen is None else seen["notes"],
            "pruned": [
                {
                    "parameter": one.parameter,
                    "side": one.side,
                    "zero": one.zero,
                    "units": one.units,
                    "disappear": one.disappear,
                    "why": one.why or None,
                }
                for one in self.pruned
            ],
            "predicted": None
            if after is None
            else {
                "size_bytes": {"before": after.size_bytes[0], "after": after.size_bytes[1]},
                "macs": {"before": after.macs[0], "after": after.macs[1]},
                "latency_ms": {"before": after.latency_ms[0], "after": after.latency_ms[1]},
                "target": after.target,
                "label": after.label,
            },
        }


@contextmanager
def preview(module: nn.Module, inputs: Any, *, target: str = "cpu:1") -> Iterator[tuple[Export, ...]]:
    """Both exports of a module, looked into and optimized; the files live as long as the block.

    Args:
        module: left as it is.
        inputs: an example call.
        target: where before and after are timed.
    """
    weights = dict(_weights(module))
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        yield tuple(_looked(made, weights, target) for made in capture(module, inputs, Path(folder)))


def _weights(module: nn.Module) -> Iterator[tuple[str, Array]]:
    """Weights of linears and convolutions as the module computes with them, masks applied.

    Tables that rows are looked up in are none: their zero row is that of the padding.
    """
    import torch

    from onnxprune.exporting.folding import fold

    ready = fold(module).module
    for name, part in ready.named_modules():
        weight = None if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag) else getattr(part, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim > 1 and weight.is_floating_point():
            yield f"{name}.weight".lstrip("."), weight.detach().float().numpy()


def _looked(made: Capture, weights: Mapping[str, Array], target: str) -> Export:
    if made.path is None:
        return Export(exporter=made.exporter, path=None, dynamic=False, failure=made.failure)
    try:
        seen = inspect(made.path)
        pruned = tuple(_pruned(made.path, weights))
        predicted = _predicted(made, target)
    except OnnxPruneError as error:
        failure = str(error)
        return Export(exporter=made.exporter, path=made.path, dynamic=made.dynamic, failure=failure)
    return Export(
        exporter=made.exporter,
        path=made.path,
        dynamic=made.dynamic,
        failure="",
        inspection=seen,
        pruned=pruned,
        predicted=predicted,
    )


def _predicted(made: Capture, target: str) -> Predicted:
    """Before and after: the export is really optimized, and both files are really timed."""
    path = made.path
    if path is None:
        raise OnnxPruneError(made.failure)
    result = optimize(path, output=path.with_name(f"{path.stem}.after.onnx"), target=target)
    return Predicted(
        size_bytes=(result.before.size_bytes, result.after.size_bytes),
        macs=(result.before.macs, result.after.macs),
        latency_ms=(result.timed_before.latency_ms.median, result.timed_after.latency_ms.median),
        target=result.target,
        label=f"measured on {result.target} by optimizing the {made.exporter} export with the default passes",
    )


def _pruned(path: Path, weights: Mapping[str, Array]) -> Iterator[Pruned]:
    """Zero rows and columns of each weight, and what becomes of them in one export."""
    zeros = {(name, side): _zero(weight, axis) for name, weight in weights.items() for axis, side in enumerate(SIDES)}
    if not any(flags.any() for flags in zeros.values()):
        return
    one = Simplify()
    loaded = load(path)
    model = one.apply(loaded, one.propose(loaded, (), Context()).edits)[0]
    session = open_session(path)
    feeds = probes(model, session, synthesise(loaded, session, count=1).feeds[0])
    structure = read_structure(model, observe_shapes(model, feeds))
    finder = DeadUnits(model, structure, lambda names: observe(model, feeds[0], names))
    for (name, side), flags in zeros.items():
        if flags.any():
            gone, why = _fate(model, structure, finder, weights[name], SIDES.index(side), flags)
            yield Pruned(
                parameter=name,
                side=side,
                zero=int(flags.sum()),
                units=len(flags),
                disappear=gone,
                why=why if gone is None or gone < int(flags.sum()) else "",
            )


def _zero(weight: Array, axis: int) -> Array:
    """[units] whether a row or column is zero; what a bias makes of a zero row is a constant, and folded away."""
    other = tuple(at for at in range(weight.ndim) if at != axis)
    return np.asarray(~np.any(weight, axis=other))


def _fate(
    model: Model, structure: Structure, finder: DeadUnits, weight: Array, axis: int, flags: Array
) -> tuple[int | None, str]:
    """How many of the flagged units `remove-dead` cuts, and why not the others."""
    place = _stored(model, weight, axis)
    if place is None:
        return None, "the export does not store this weight as it is"
    dimension, elements = _dimension(structure, *place)
    if dimension is None or elements is None:
        return 0, next((pin.why for pin in structure.dimensions.pinned if (pin.tensor, pin.axis) == place), _NOT_TRACED)
    if dimension.pinned:
        return 0, dimension.pinned[0]
    dead = finder.of(dimension)
    gone = {int(element) for unit in dead.units for element in elements[unit].ravel()}
    return sum(int(at) in gone for at in np.flatnonzero(flags)), _why(dead, elements)


def _why(dead: Dead, elements: Array) -> str:
    """Why zero units stay that nothing pins."""
    if dead.left:
        return next(iter(dead.left.values()))
    if dead.all:
        return "every unit is dead, and one must stay"
    if elements.shape[1] > 1:
        return f"a unit goes as a whole, with all its {elements.shape[1]} rows or columns"
    return "what reads them also reads a value that changes"


def _stored(model: Model, weight: Array, axis: int) -> tuple[str, int] | None:
    """The constant that holds a weight, as it is or transposed, and the units' axis in it."""
    for tensor in constants(model.graph):
        shape = tuple(tensor.shape)
        if shape == weight.shape and np.array_equal(numbers(tensor), weight):
            return str(tensor.name), axis
        if weight.ndim == 2 and shape == weight.shape[::-1] and np.array_equal(numbers(tensor), weight.T):
            return str(tensor.name), 1 - axis
    # A norm behind a convolution is made part of it: each row with a factor of its own.
    for tensor in constants(model.graph):
        if tuple(tensor.shape) == weight.shape and _proportional(numbers(tensor), weight):
            return str(tensor.name), axis
    return None


def _proportional(one: Array, other: Array) -> bool:
    """Whether each row of one is a multiple of the other's, zero rows of zero rows."""
    a, b = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (one, other))
    sizes = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    if not np.array_equal(sizes[0] > 0, sizes[1] > 0):
        return False
    products = np.abs(np.einsum("ij,ij->i", a, b))
    return bool(np.allclose(products, sizes[0] * sizes[1], rtol=_PARALLEL))


def _dimension(structure: Structure, tensor: str, axis: int) -> tuple[Dimension | None, Array | None]:
    """The dimension on an axis, one that can be cut before one that cannot, and which elements are which unit's."""
    found = [
        (dimension, np.asarray(member.elements))
        for dimension in structure.dimensions.all
        for member in dimension.members
        if (member.tensor, member.axis) == (tensor, axis)
    ]
    return min(found, key=lambda one: bool(one[0].pinned), default=(None, None))
