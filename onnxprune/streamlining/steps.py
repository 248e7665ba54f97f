"""Activations in fixed steps where samples show that they need no others: nobody looks for their ends at every run.

A product whose input is quantized at run time scans it for the least and the greatest value first. Where these are the
same for all inputs, but for little, as behind a norm with channels that stand out, a fixed grid does as well. Whether
they are is asked of each activation alone: the grid reaches beyond the outermost ends that samples showed by as much as
samples' ends lie apart, and its step may be so much coarser than a typical sample's own and no more.

What multiplies is the runtime's own operator: forms of standard operators with fixed steps run slower than those with
steps of run time, which runtimes fuse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxprune.calibration import Needs
from onnxprune.graph import producer
from onnxprune.model import Model
from onnxprune.protocol import Context
from onnxprune.rewrite import Rewriter
from onnxprune.solvers.quantize import affine_uint8
from onnxprune.streamlining.rewrite import Done, Rewrite, Wish

Array = np.ndarray[Any, Any]

# Rounding's share of the error grows with the square of the step: by half at most.
COARSEST = 1.25
# From fewer samples nothing is known of how far ends lie apart.
FEWEST_SAMPLES = 8
# Room beyond the outermost ends at least, as a share of the span.
_ROOM = 0.01
# Of fidelity, in all.
MOST_LOST = 1e-3
# Ranges that the report spells out; a plan holds all.
_SPELLED = 3


@dataclass(frozen=True)
class Grid:
    """Ends of a fixed grid, and how much coarser it is than one between the median sample's own ends."""

    low: float
    high: float
    coarser: float


def grid_of(spans: Array) -> Grid | None:
    """The fixed grid of an activation; None where all that samples showed is zero, or not finite.

    Args:
        spans: [samples, 2] the least and the greatest value in each sample.
    """
    ends = np.stack([np.minimum(spans[:, 0], 0), np.maximum(spans[:, 1], 0)], axis=1).astype(np.float64)
    if not np.isfinite(ends).all() or not ends.any():
        return None
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    least = _ROOM * (high - low)
    # As far beyond the outermost end as the ends lie apart; an end at zero stays there, where it is one of the values'.
    low -= max(float(np.ptp(ends[:, 0])), least) if low < 0 else 0.0
    high += max(float(np.ptp(ends[:, 1])), least) if high > 0 else 0.0
    own = float(np.median(ends[:, 1] - ends[:, 0]))
    return Grid(low, high, (high - low) / own if own > 0 else np.inf)


def needs(model: Model) -> Needs:
    """Spans of what is quantized at run time."""
    return Needs(spans=frozenset(node.inputs[0].name for node in _quantizers(model.graph) if _computed(node.inputs[0])))


def _computed(tensor: gs.Tensor) -> bool:
    return bool(tensor.name) and not isinstance(tensor, gs.Constant)


def _quantizers(graph: gs.Graph) -> list[gs.Node]:
    return [node for node in graph.nodes if node.op == "DynamicQuantizeLinear" and not node.domain]


def _wish(model: Model, context: Context) -> Wish | None:
    spans = context.statistics.spans if context.statistics is not None else {}
    steady: list[tuple[float, str, float, float]] = []
    loose: dict[str, str] = {}
    for node in _quantizers(model.graph):
        name = node.inputs[0].name
        if name not in spans:
            continue
        grid = grid_of(spans[name])
        if len(spans[name]) < FEWEST_SAMPLES:
            loose[name] = f"{len(spans[name])} samples say too little of its range, {FEWEST_SAMPLES} are needed"
        elif grid is None:
            loose[name] = "samples show no range of it"
        elif grid.coarser > COARSEST:
            loose[name] = (
                f"one step for all inputs would be {grid.coarser:.3g} x as coarse as a typical sample's own, "
                f"{COARSEST:g} x is allowed"
            )
        else:
            steady.append((grid.coarser, name, grid.low, grid.high))
    if not steady and not loose:
        return None
    # The steadiest first: where some must go, the others do.
    return Wish({"steps": [[name, low, high] for _, name, low, high in sorted(steady)], "loose": loose})


def _fewer(wish: Wish) -> Wish | None:
    steps = wish.args["steps"]
    return replace(wish, args={**wish.args, "steps": steps[: len(steps) // 2]}) if len(steps) > 1 else None


@dataclass(frozen=True)
class _Product:
    """MatMulInteger, Cast, Mul and a bias where one follows: an integer product as passes write it.

    Attributes:
        scaler: multiplies the step of run time and `scale`, the weight's.
        last: gives out the result.
    """

    product: gs.Node
    scaler: gs.Node
    scale: gs.Tensor
    last: gs.Node
    bias: gs.Tensor | None = None


def _carry_out(model: Model, wish: Wish) -> Done:
    ends = {str(name): (float(low), float(high)) for name, low, high in wish.args.get("steps", ())}
    kept = [(str(name), f"quantized at every run: {why}") for name, why in wish.args.get("loose", {}).items()]
    finder = _Finder(model)
    make = Rewriter(model.graph)
    done: list[str] = []
    for node in _quantizers(model.graph):
        source = node.inputs[0]
        if source.name not in ends:
            continue
        found = finder.products(node)
        if found is None:
            kept.append((source.name, "quantized at every run: not all that reads it are integer products of weights"))
            continue
        _write(make, node, found, *ends[source.name])
        done.append(source.name)
    make.finish()
    return Done(len(done), tuple(kept), _told({name: ends[name] for name in done}))


def _told(ends: dict[str, tuple[float, float]]) -> str:
    if not ends:
        return ""
    words = [f"{name} {low:.4g} … {high:.4g}" for name, (low, high) in list(ends.items())[:_SPELLED]]
    words += [f"{len(ends) - _SPELLED} more in the plan"] if len(ends) > _SPELLED else []
    return f"what lies beyond saturates: {', '.join(words)}"


class _Finder:
    """Looks for integer products behind a quantizer."""

    def __init__(self, model: Model) -> None:
        self._overridable = model.overridable
        self._given_out = {id(tensor) for tensor in model.graph.outputs}

    def products(self, quantizer: gs.Node) -> list[_Product] | None:
        """All that reads a quantizer's integers; None where something else does, too."""
        integers, step, zero = quantizer.outputs
        if any(id(tensor) in self._given_out for tensor in quantizer.outputs) or not integers.outputs:
            return None
        found = [self._product(reader, integers, step, zero) for reader in integers.outputs]
        products = [one for one in found if one is not None]
        known = {id(node) for one in products for node in (one.product, one.scaler)}
        readers = [*integers.outputs, *step.outputs, *zero.outputs]
        return products if all(id(reader) in known for reader in readers) else None

    def _product(self, node: gs.Node, integers: gs.Tensor, step: gs.Tensor, zero: gs.Tensor) -> _Product | None:
        takes = node.op == "MatMulInteger" and not node.domain and len(node.inputs) > 2
        if not takes or node.inputs[0] is not integers or node.inputs[2] is not zero:
            return None
        cast = self._only(node.outputs[0], "Cast")
        if cast is None:
            return None
        scaled = self._only(cast.outputs[0], "Mul")
        steps = None if scaled is None else next((t for t in scaled.inputs if t is not cast.outputs[0]), None)
        scaler = None if steps is None or id(steps) in self._given_out else producer(steps)
        if (
            scaled is None
            or scaler is None
            or scaler.op != "Mul"
            or scaler.domain
            or int(cast.attrs["to"]) != onnx.TensorProto.FLOAT
        ):
            return None
        scale = next((tensor for tensor in scaler.inputs if tensor is not step), step)
        if not all(self._fixed(tensor) for tensor in (node.inputs[1], scale, *node.inputs[3:])):
            return None
        columns = int(node.inputs[1].shape[-1])
        fits = _scales(scale, node.inputs[1])
        return self._biased(_Product(node, scaler, scale, scaled), columns) if fits else None

    def _biased(self, one: _Product, columns: int) -> _Product:
        """With the bias behind it, which the operator adds, too."""
        add = self._only(one.last.outputs[0], "Add")
        if add is None:
            return one
        biases = [tensor for tensor in add.inputs if tensor is not one.last.outputs[0]]
        fits = len(biases) == 1 and self._fixed(biases[0]) and tuple(biases[0].shape) == (columns,)
        return replace(one, last=add, bias=biases[0]) if fits and biases[0].dtype == np.float32 else one

    def _fixed(self, tensor: gs.Tensor) -> bool:
        return isinstance(tensor, gs.Constant) and tensor.name not in self._overridable

    def _only(self, tensor: gs.Tensor, op: str) -> gs.Node | None:
        """The one reader of a tensor, where it is such an operator."""
        node = tensor.outputs[0] if len(tensor.outputs) == 1 and id(tensor) not in self._given_out else None
        return node if node is not None and node.op == op and not node.domain else None


def _scales(scale: gs.Tensor, weight: gs.Tensor) -> bool:
    """Whether a weight [k, n] has one scale, or one a column."""
    one = tuple(scale.shape) in {(), (1,)}
    return scale.dtype == np.float32 and len(weight.shape) == 2 and (one or tuple(scale.shape) == (weight.shape[1],))


def _write(make: Rewriter, quantizer: gs.Node, products: list[_Product], low: float, high: float) -> None:
    source, integers = quantizer.inputs[0], quantizer.outputs[0]
    scale, zero_point = affine_uint8(low, high)
    step = make.constant(f"{source.name}.step", np.array(scale, np.float32))
    zero = make.constant(f"{source.name}.zero_point", np.array(zero_point, np.uint8))
    for one in products:
        weight, further = one.product.inputs[1], one.product.inputs[3:]
        inputs = [integers, weight, step, one.scale, zero, *(further or [gs.Variable.empty()])]
        inputs = [*inputs, one.bias] if one.bias is not None else inputs
        out = make.variable(f"{one.last.outputs[0].name}.product")
        make.replace(one.last, [make.node("MatMulIntegerToFloat", inputs, [out], "com.microsoft")])
    # Nothing else reads the step and the zero of run time.
    quantizer.outputs = [integers]
    make.replace(quantizer, [make.node("QuantizeLinear", [source, step, zero], [make.variable(integers.name)])])


FIXED_STEPS = Rewrite(
    name="fixed-steps",
    what=("activation quantized in fixed steps", "activations quantized in fixed steps"),
    carry_out=_carry_out,
    wish=_wish,
    rival=True,
    needs=needs,
    fewer=_fewer,
    may_lose=MOST_LOST,
    domain="com.microsoft",
)
