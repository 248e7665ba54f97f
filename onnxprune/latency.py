"""What one linear costs in each of its forms: cut out of the model, alone, timed in alternation on the target."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import Declined
from onnxprune.model import Model, load, save
from onnxprune.observer import shapes_of
from onnxprune.plan import Edit
from onnxprune.protocol import Level
from onnxprune.quantizing.applying import apply_edits
from onnxprune.runtime import Feeds
from onnxprune.sites import Site
from onnxprune.store import Tables
from onnxprune.targets.target import Timer
from onnxprune.weights import Use, Weight, find_weights

Array = np.ndarray[Any, Any]

# Seconds of alternated runs behind one figure: some hundred runs of a product of half a millisecond.
BUDGET_S = 0.2
_OPSET, _IR = 13, 8
_FLOAT = TensorProto.FLOAT
# Forms that are written as `sparse-int8` writes them.
_WRITTEN = {"weight-only", "packed-rows", "block-rows"}
# Of a table that is timed; more look alike.
_MOST_ROWS = 1 << 15
# Inputs that share a scale.
_BLOCK = 32


@dataclass(frozen=True)
class Product:
    """A linear or a table as the clock sees it: two of the same cost the same.

    Attributes:
        operator: `MatMul`, `Conv` or `Gather`.
        shape: of its input in the timed run; of a table, of the rows' numbers.
        width: k, what it sums over; of a table, of a row.
        columns: n, what it gives out; of a table its rows.
        dtype: of weights and activations.
        strides: of a convolution.
    """

    operator: str
    shape: tuple[int, ...]
    width: int
    columns: int
    dtype: str = "float32"
    strides: tuple[int, ...] = ()


class Clock:
    """Times forms on one target, each only once.

    Attributes:
        timed_ms: what was measured, by product and level; kept in `tables`, where there are some, for the next run.
    """

    def __init__(self, target: Timer, *, budget_s: float = BUDGET_S, tables: Tables | None = None) -> None:
        self.target = target
        self.budget_s = budget_s
        self._tables = tables
        self.timed_ms: dict[tuple[Product, Level], float] = {}

    def of(self, model: Model, feeds: Feeds) -> Callable[[Site, Level], float]:
        """Milliseconds of a model's sites at the sizes that one input gives them, summed over a weight's readers.

        Raises (when called):
            Declined: no product reads the site's weight, or the runtime does not tell the product's size.
        """
        weights: dict[str, Weight] = {}
        shapes: dict[str, tuple[int, ...]] = {}

        def latency(site: Site, level: Level) -> float:
            if not weights:
                # Once, and only where a pass asks.
                weights.update({one.constant.name: one for one in find_weights(model.graph, model.overridable)})
                names = {_input_of(use) for one in weights.values() for use in one.uses if _plain(use)}
                shapes.update(shapes_of(model, sorted(names), feeds))
            uses = _products(site, weights)
            weight = weights[site.weight]
            return sum(self.time(_product(use, weight, shapes[_input_of(use)]), level) for use in uses)

        return latency

    def time(self, product: Product, level: Level) -> float:
        """Milliseconds of a product in some form.

        Every other form runs in alternation with the float one; what is kept is the float form's median over the median
        ratio, so that forms compare although they were not timed together.
        """
        plain = Level(columns=level.columns)
        for known in (plain, level):
            self._recall(product, known)
        if (product, level) not in self.timed_ms:
            levels = (plain,) if level == plain else (plain, level)
            numbers = _input(product)
            with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
                paths = [Path(folder) / f"{each.form}.onnx" for each in levels]
                for path, each in zip(paths, levels, strict=True):
                    onnx.save(small_model(product, each), path)
                    if each.form in _WRITTEN:
                        save(written_as(load(path), each.form), path)
                timed = self.target.time(paths, {"x": numbers}, budget_s=self.budget_s)
            self.timed_ms.setdefault((product, plain), timed[0].cost)
            if level != plain:
                self.timed_ms[product, level] = self.timed_ms[product, plain] / timed[1].speedup.ratio
            for known in levels:
                self._keep(product, known)
        return self.timed_ms[product, level]

    def _recall(self, product: Product, level: Level) -> None:
        """Take over what an earlier run measured."""
        if self._tables is not None and (product, level) not in self.timed_ms:
            value = self._tables.load(_key(product, level))
            if isinstance(value, float) and math.isfinite(value) and value > 0:
                self.timed_ms[product, level] = value

    def _keep(self, product: Product, level: Level) -> None:
        if self._tables is not None:
            self._tables.save(_key(product, level), self.timed_ms[product, level])


def _key(product: Product, level: Level) -> str:
    return json.dumps([asdict(product), asdict(level)], sort_keys=True)


def _plain(use: Use) -> bool:
    return (use.node.op in {"MatMul", "Gemm", "FusedGemm", "Conv"} and use.slot == 1) or _looked_up(use)


def _looked_up(use: Use) -> bool:
    return use.node.op == "Gather" and not use.views and len(use.node.inputs[0].shape or ()) == 2


def _input_of(use: Use) -> str:
    return str(use.node.inputs[1 if _looked_up(use) else 0].name)


def _input(product: Product) -> Array:
    numbers = np.random.default_rng(0)
    if product.operator == "Gather":
        return numbers.integers(0, product.columns, product.shape)
    return numbers.standard_normal(product.shape).astype(product.dtype)


def written_as(model: Model, form: str) -> Model:
    """A small model with its weight in a form that `sparse-int8` writes; the integers are random."""
    (weight,) = find_weights(model.graph)
    values = np.random.default_rng(1).integers(-7, 8, weight.constant.shape).astype(np.int8)
    rows, columns = values.shape
    # A scale a row, or one for every 32 inputs where they are cut into such.
    blocks = rows // _BLOCK if rows % _BLOCK == 0 else 1
    scale = np.full((blocks, columns) if form == "weight-only" else (rows, 1), 0.05, np.float32)
    args = {"weight": weight.constant.name, "forms": {weight.uses[0].name: form}, "bits": 4}
    args |= {"layout": "product", "block": rows // blocks} if form == "weight-only" else {}
    edit = Edit(id="", pass_name="", site="", kind="quantize-weight", args=args)
    return apply_edits(model, [replace(edit, tensors={"weight": values, "scale": scale})])[0]


def _products(site: Site, weights: Mapping[str, Weight]) -> tuple[Use, ...]:
    weight = weights.get(site.weight)
    uses = weight.uses if weight is not None else ()
    if not uses or not all(_plain(use) and len(use.node.inputs[1].shape or ()) != 3 for use in uses):
        raise Declined(f"{site.id}: no product of it can be timed alone")
    return uses


def _product(use: Use, weight: Weight, shape: tuple[int, ...]) -> Product:
    stored, node = weight.constant.shape, use.node
    dtype = str(np.dtype(weight.constant.dtype))
    if node.op == "Conv":
        if any(size != 1 for size in stored[2:]):
            raise Declined(f"{node.outputs[0].name}: only 1x1 convolutions are timed alone")
        strides = tuple(int(step) for step in node.attrs.get("strides", ()))
        return Product("Conv", shape, int(stored[1]), int(stored[0]), dtype, strides)
    if _looked_up(use):
        return Product("Gather", shape, int(stored[1]), min(int(stored[0]), _MOST_ROWS), dtype)
    width, columns = stored[::-1] if use.reads_transposed else stored
    return Product("MatMul", shape, int(width), int(columns), dtype)


def small_model(product: Product, level: Level) -> onnx.ModelProto:
    """A model of one product in some form; its weights are random, since dense products take as long with any."""
    columns = level.columns or product.columns
    widths = (product.width, columns) if level.rank is None else (product.width, level.rank, columns)
    make = _Small(product)
    name = "x"
    for at, (width, out) in enumerate(pairwise(widths)):
        strides = product.strides if at == 0 else ()
        if product.operator == "Gather":
            name = make.looked_up(name)
            continue
        name = (
            make.integers(name, width, out, strides) if "int8" in level.form else make.floats(name, width, out, strides)
        )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(product.dtype))
    fed = TensorProto.INT64 if product.operator == "Gather" else kind
    inputs = [helper.make_tensor_value_info("x", fed, product.shape)]
    rank = len(product.shape) + (product.operator == "Gather")
    outputs = [helper.make_tensor_value_info(name, kind, [None] * rank)]
    graph = helper.make_graph(make.nodes, level.form, inputs, outputs, make.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


class _Small:
    """Collects the nodes of a small model."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = np.random.default_rng(1)

    def floats(self, name: str, width: int, out: int, strides: Sequence[int]) -> str:
        """One product in the model's own type."""
        weight = self._constant(self._drawn(width, out).astype(self.product.dtype))
        if self.product.operator == "Conv":
            return self._node("Conv", [name, weight], **({"strides": strides} if strides else {}))
        return self._node("MatMul", [name, weight])

    def looked_up(self, name: str) -> str:
        """Rows of a table of the model's own type."""
        table = self._numbers.standard_normal((self.product.columns, self.product.width)).astype(self.product.dtype)
        return self._node("Gather", [self._constant(table), name])

    def integers(self, name: str, width: int, out: int, strides: Sequence[int]) -> str:
        """One product of integers, from floats to floats."""
        weight = self._constant(np.clip(self._drawn(width, out) * 42, -127, 127).astype(np.int8))
        half = self.product.dtype != "float32"
        source = self._node("Cast", [name], to=_FLOAT) if half else name
        step = self._constant(np.float32(0.05))
        if self.product.operator == "Conv":
            zero, none = self._constant(np.uint8(128)), self._constant(np.int8(0))
            quantized = self._node("QuantizeLinear", [source, step, zero])
            attrs = {"strides": strides} if strides else {}
            product = self._node("QLinearConv", [quantized, step, zero, weight, step, none, step, zero], **attrs)
            scaled = self._node("DequantizeLinear", [product, step, zero])
        else:
            names = [f"{part}{len(self.nodes)}" for part in ("uint8", "step", "zero")]
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [source], names))
            product = self._node("MatMulInteger", [names[0], weight, names[2]])
            steps = self._node("Mul", [names[1], self._constant(np.full(out, 0.05, np.float32))])
            scaled = self._node("Mul", [self._node("Cast", [product], to=_FLOAT), steps])
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.product.dtype))
        return self._node("Cast", [scaled], to=kind) if half else scaled

    def _drawn(self, width: int, out: int) -> Array:
        """Weights of unit gain, [width, out], of a convolution [out, width, 1, …]."""
        values: Array = self._numbers.standard_normal((width, out)) / np.sqrt(width)
        spatial = len(self.product.shape) - 2
        return values.T.reshape(out, width, *(1,) * spatial) if self.product.operator == "Conv" else values

    def _constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _node(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name


__all__ = ["Clock", "Product", "small_model"]
