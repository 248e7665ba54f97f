"""Store weights as int8, and multiply with integers where that is what the runtime is fast at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxprune import int8
from onnxprune.calibration import Needs
from onnxprune.errors import Declined, OptionError
from onnxprune.graph import constants, elements, storage, stored_bytes, walk
from onnxprune.int8_weights import scale_axes, write_weight
from onnxprune.model import Model, raise_opset
from onnxprune.plan import Change, Edit, Skip
from onnxprune.protocol import Context, Proposal
from onnxprune.sites import GRAPH, Site
from onnxprune.solvers.quantize import round_to_grid, symmetric_scale
from onnxprune.weights import Use, Weight, find_weights

Array = np.ndarray[Any, Any]
Form = Literal["dynamic", "gather", "static", "stored"]

# Nodes that hold integers already; quantizing twice loses twice.
_QUANTIZED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
# Forms that are there for speed, as reports name them.
_GIVEN_UP = {"dynamic": "integer products", "static": "integer convolutions"}
# Below this many inputs or outputs the integer product loses to the float one (TRAPS: measured for K or N < 16).
_SMALLEST_PRODUCT = 16
# Below this many numbers a weight saves less than its scales and nodes cost.
_SMALLEST_WEIGHT = 1024
# The opsets that have per-channel DequantizeLinear, and DynamicQuantizeLinear.
_OPSETS: dict[Form, int] = {"static": 13, "dynamic": 11}


@dataclass(frozen=True, kw_only=True)
class SparseInt8:
    """Int8 weights with one scale a channel, zeros exact; products of integers where activations allow.

    Attributes:
        linears: `dynamic` quantizes activations at run time and multiplies integers; `stored` keeps the product in
            float and only the file small; `float` leaves linears alone.
        convs: `static` multiplies integers between calibrated ranges (needs sample inputs), `stored` keeps the
            product in float; `auto` is static where there are sample inputs; `float` leaves convolutions alone.
        embeddings: whether embedding tables become int8 with one scale a row.
        quantized: what to do with a graph that holds integer operators already: `leave` it alone as its maker chose,
            or `extend` them to what is still in float.
    """

    name: ClassVar[str] = "sparse-int8"
    lossless: ClassVar[bool] = False
    linears: Literal["dynamic", "stored", "float"] = "dynamic"
    convs: Literal["auto", "static", "stored", "float"] = "auto"
    embeddings: bool = True
    quantized: Literal["leave", "extend"] = "leave"

    def __post_init__(self) -> None:
        """Reject values that no form stands for."""
        if self.linears not in {"dynamic", "stored", "float"}:
            raise OptionError(f"{self.name}: linears must be one of dynamic, stored, float, got {self.linears!r}.")
        if self.convs not in {"auto", "static", "stored", "float"}:
            raise OptionError(f"{self.name}: convs must be one of auto, static, stored, float, got {self.convs!r}.")
        if self.quantized not in {"leave", "extend"}:
            raise OptionError(f"{self.name}: quantized must be one of leave, extend, got {self.quantized!r}.")

    def needs(self, model: Model, sites: Sequence[Site]) -> Needs:
        """Ranges around every convolution, where they may become static."""
        del sites
        if self.convs not in {"auto", "static"}:
            return Needs()
        names: set[str] = set()
        for weight in find_weights(model.graph, model.overridable):
            for use in weight.uses:
                if _can_be_static(use, model.overridable):
                    names |= {use.node.inputs[0].name, _result(use.node).name}
        return Needs(ranges=frozenset(names))

    def propose(self, model: Model, sites: Sequence[Site], context: Context) -> Proposal:
        """One edit a weight, each with all its readers; readers that cannot follow keep the weight in float."""
        edits: list[Edit] = []
        skips: list[Skip] = list(_left_alone(model))
        held = sorted({node.op for _, node in walk(model.graph) if node.op in _QUANTIZED})
        if held and self.quantized == "leave":
            why = f"the graph is quantized already ({', '.join(held)}); option quantized=extend takes the rest too"
            return Proposal((), (*skips, Skip(site=GRAPH, why=why)))
        weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
        for site in sites:
            if site.weight not in weights:
                continue
            try:
                edits.append(self._edit(site, weights[site.weight], context, model.overridable))
            except Declined as reason:
                skips.append(Skip(site=site.id, why=str(reason)))
        return Proposal(tuple(self._with_opset(edits, model.graph.opset)), tuple(skips))

    def _with_opset(self, edits: list[Edit], opset: int) -> list[Edit]:
        wanted = {edit.id: max(_OPSETS.get(form, 0) for form in edit.args["forms"].values()) for edit in edits}
        needed = max(wanted.values(), default=0)
        if needed <= opset:
            return edits
        first = Edit(id=f"{self.name}.opset", pass_name=self.name, site=GRAPH, kind="raise-opset", args={"to": needed})
        return [first, *(replace(edit, depends_on=(first.id,)) if wanted[edit.id] > opset else edit for edit in edits)]

    def _edit(self, site: Site, weight: Weight, context: Context, overridable: frozenset[str]) -> Edit:
        if elements(weight.constant) < _SMALLEST_WEIGHT:
            raise Declined(f"fewer than {_SMALLEST_WEIGHT} numbers: its scales would outweigh what int8 saves")
        if isinstance(weight.constant._values, SparseValues):  # noqa: SLF001 - not read
            raise Declined("stored sparse already")
        if weight.given_out:
            raise Declined("an output of the graph too, which wants it in float")
        if weight.others:
            reader = weight.others[0]
            raise Declined(f"also read by {reader.op} {reader.outputs[0].name!r}, which wants it in float")
        if not np.isfinite(weight.constant.values).all():
            raise Declined("it holds infinite numbers")
        forms = {use.name: self._form(use, weight, context, overridable) for use in weight.uses}
        axes = {scale_axes(use, form, weight) for use, form in zip(weight.uses, forms.values(), strict=True)}
        if len(axes) > 1:
            raise Declined("its readers need their scales on different axes")
        (kept,) = axes
        args: dict[str, Any] = {"weight": weight.constant.name, "forms": forms}
        values = weight.constant.values
        if set(forms.values()) == {"dynamic"} and len({use.reads_transposed for use in weight.uses}) == 1:
            # The product's own layout, so that no Transpose is left to run.
            if weight.uses[0].reads_transposed:
                values, kept = values.T, tuple(1 - axis for axis in kept)
                args["transposed"] = True
            args["layout"] = "product"
        if "static" in forms.values():
            args["ranges"] = {
                use.name: _ranges(use, context) for use in weight.uses if forms[use.name] == "static"
            }  # fmt: skip
        # A row's scale is looked up with the row; half precision halves its cost and is rounded before the weights.
        small = set(forms.values()) == {"gather"} and _fits_half(values, kept)
        scale = symmetric_scale(values, kept, dtype=np.float16 if small else np.float32)
        return Edit(
            id=f"{self.name}.{site.id}",
            pass_name=self.name,
            site=site.id,
            kind="quantize-weight",
            args=args,
            tensors={"weight": round_to_grid(values, scale), "scale": scale},
        )

    def _form(self, use: Use, weight: Weight, context: Context, overridable: frozenset[str]) -> Form:
        if use.role == "embedding":
            return self._embedding_form(use)
        if use.role == "linear":
            return self._linear_form(use, weight, overridable)
        if use.role == "recurrent":
            return "stored"
        if self.convs == "float":
            raise Declined("option convs=float")
        ranged = context.statistics is not None and _can_be_static(use, overridable) and _has_ranges(use, context)
        if self.convs in {"auto", "static"} and ranged:
            return "static"
        if self.convs == "static":
            raise Declined(
                "option convs=static: needs sample inputs, and a float32 Conv of constants whose output others read"
            )
        return "stored"

    def _embedding_form(self, use: Use) -> Form:
        if not self.embeddings:
            raise Declined("option embeddings=no")
        if use.node.op != "Gather":
            return "stored"
        if use.node.attrs.get("axis", 0) != 0 or use.views:
            raise Declined("rows are not looked up on the table's first axis")
        return "gather"

    def _linear_form(self, use: Use, weight: Weight, overridable: frozenset[str]) -> Form:
        if self.linears == "float":
            raise Declined("option linears=float")
        if use.node.op not in {"MatMul", "Gemm"} or self.linears == "stored":
            return "stored"
        if use.slot != 1:
            raise Declined("the weight is the left operand of the product")
        if use.permutation is None or len(weight.constant.shape) != 2:
            return "stored"
        if use.node.attrs.get("transA", 0):
            raise Declined("the activations are transposed by the product (transA)")
        if use.node.attrs.get("beta", 1.0) != 1.0 and use.node.inputs[2:] and use.node.inputs[2].name in overridable:
            raise Declined("the bias is a graph input too: a caller may override it")
        if weight.constant.dtype not in (np.float32, np.float16):
            raise Declined(f"{weight.constant.dtype} products have no integer form")
        rows, columns = weight.constant.shape
        if min(rows, columns) < _SMALLEST_PRODUCT:
            raise Declined(f"narrower than {_SMALLEST_PRODUCT}: such a product is slower with integers")
        return "dynamic"

    def milder(self, edit: Edit) -> tuple[str, Edit] | None:
        """The same integers, decoded at load instead of multiplied: as small a file, products in float.

        Returns:
            What is given up and the milder edit; None where nothing is multiplied with integers.
        """
        forms: dict[str, str] = edit.args.get("forms", {})
        given_up = sorted({_GIVEN_UP[form] for form in forms.values() if form in _GIVEN_UP})
        if not given_up:
            return None
        args = {key: value for key, value in edit.args.items() if key not in {"layout", "ranges", "transposed"}}
        args["forms"] = {name: "stored" if form in _GIVEN_UP else form for name, form in forms.items()}
        turned = bool(edit.args.get("transposed"))
        tensors = {name: array.T if turned else array for name, array in edit.tensors.items()}
        return " and ".join(given_up), replace(edit, args=args, tensors=tensors, depends_on=())

    def apply(self, model: Model, edits: Sequence[Edit]) -> tuple[Model, tuple[Change, ...]]:
        """The model with its weights replaced; tensors of the edits are written as they are."""
        changes = []
        result = model
        for edit in edits:
            if edit.kind == "raise-opset":
                result = raise_opset(result, int(edit.args["to"]))
                changes.append(_opset_change(edit, model, result))
        result = result.copy()
        weights = {weight.constant.name: weight for weight in find_weights(result.graph, result.overridable)}
        writer = int8.Int8Writer(result.graph)
        replaced: list[tuple[Change, list[gs.Constant]]] = []
        for edit in edits:
            if edit.kind == "quantize-weight":
                weight = weights.get(edit.args["weight"])
                if weight is None:
                    raise Declined(f"{edit.site}: the model has no weight {edit.args['weight']!r}")
                read = [tensor for use in weight.uses for tensor in (weight.constant, *use.node.inputs)]
                change = write_weight(writer, weight, edit)
                replaced.append((change, [tensor for tensor in read if isinstance(tensor, gs.Constant)]))
        writer.finish()
        result.graph.cleanup(remove_unused_graph_inputs=False)
        alive = {id(tensor) for tensor in constants(result.graph)}
        for change, read in replaced:
            gone = {id(tensor): stored_bytes(tensor) for tensor in read if id(tensor) not in alive}
            alive |= gone.keys()
            changes.append(replace(change, bytes_before=sum(gone.values())))
        return result, tuple(changes)


def _opset_change(edit: Edit, before: Model, after: Model) -> Change:
    (params, size), (params_after, size_after) = storage(before.graph), storage(after.graph)
    return Change(
        site=edit.site,
        what=f"opset {before.graph.opset} became {after.graph.opset}",
        params_before=params,
        params_after=params_after,
        bytes_before=size,
        bytes_after=size_after,
    )


def _fits_half(values: Array, kept: tuple[int, ...]) -> bool:
    """Whether every scale is a normal half-precision number, so that rounding it costs less than 0.05 %."""
    scale = symmetric_scale(values, kept)
    return bool(scale.min() > np.finfo(np.float16).tiny and scale.max() < np.finfo(np.float16).max)


def _can_be_static(use: Use, overridable: frozenset[str]) -> bool:
    node = use.node
    plain = node.op == "Conv" and not node.domain and not use.views and node.inputs[1].dtype == np.float32
    biased = len(node.inputs) > 2 and bool(node.inputs[2].name)
    if biased and node.inputs[2].name in overridable:
        return False
    # An output of the graph stays in float, and the runtime merges a convolution only between integers.
    read = bool(_result(node).outputs)
    return plain and read and (not biased or isinstance(node.inputs[2], gs.Constant))


def _result(node: gs.Node) -> gs.Tensor:
    """The convolution's output, behind the activation that the runtime merges into it."""
    out = node.outputs[0]
    if len(out.outputs) == 1 and out.outputs[0].op in {"Relu", "Clip"}:
        return out.outputs[0].outputs[0]
    return out


def _has_ranges(use: Use, context: Context) -> bool:
    ranges = context.statistics.ranges if context.statistics is not None else {}
    return use.node.inputs[0].name in ranges and _result(use.node).name in ranges


def _ranges(use: Use, context: Context) -> dict[str, Any]:
    if context.statistics is None:
        raise Declined("no sample inputs, so no ranges")
    ranges = context.statistics.ranges
    result = _result(use.node).name
    return {
        "input": [float(value) for value in ranges[use.node.inputs[0].name]],
        "output": [float(value) for value in ranges[result]],
        "result": result,
    }


def _left_alone(model: Model) -> list[Skip]:
    """Readers of weights that are no site: quantized already, inside a body, or open to the caller."""
    skips = []
    for graph, node in walk(model.graph):
        name = node.outputs[0].name
        if node.op in _QUANTIZED:
            skips.append(Skip(site=name, why=f"already quantized: {node.op}"))
        elif graph is not model.graph and node.op in {"MatMul", "Gemm", "Conv", "LSTM", "GRU"}:
            skips.append(Skip(site=name, why=f"{node.op} inside the body of a control-flow operator"))
        elif any(tensor.name in model.overridable for tensor in node.inputs[1:2]):
            skips.append(Skip(site=name, why="the weight is a graph input too: a caller may override it"))
    return skips
