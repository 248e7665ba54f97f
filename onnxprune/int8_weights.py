"""Writing one quantized weight into a graph, each reader in its form, and the layouts that forms ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import int4, int8
from onnxprune.errors import Declined
from onnxprune.graph import elements
from onnxprune.plan import Change, Edit
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]

# As the report says them.
_FORMS = {
    "block-rows": "embedding rows unpacked by onnxruntime's own operator",
    "dynamic": "integer product",
    "gather": "embedding rows",
    "packed-rows": "embedding rows unpacked as they are looked up",
    "ranged": "integer product on a fixed range",
    "static": "integer convolution",
    "stored": "weights decoded at load",
    "weight-only": "product with packed weights",
}


def write_weight(writer: int8.Int8Writer, weight: Weight, edit: Edit) -> Change:
    """Replace a weight by the integers of an edit, for each reader in its form; say what it was and is.

    Raises:
        Declined: the readers or the shape are not those of the edit.
    """
    _refuse_misfits(weight, edit)
    forms, constant = edit.args["forms"], weight.constant
    if forms.keys() != {use.name for use in weight.uses}:
        raise Declined(f"{edit.site}: the readers of {constant.name!r} are not those of the plan")
    already = writer.rewriter.added_bytes
    # A convolution without a bias gets one where its mean is to be kept.
    shift = edit.tensors.get("shift", ())
    biases = sum(len(shift) for use in weight.uses if len(shift) and _bias(use.node) is None)
    _Written(writer, weight, edit).readers(forms)
    return Change(
        site=edit.site,
        what=f"{form_words(forms)}: {'x'.join(map(str, edit.tensors['weight'].shape))} {_number_words(edit)}",
        params_before=elements(constant),
        params_after=elements(constant) + biases,
        bytes_after=writer.rewriter.added_bytes - already,
    )


class _Written:
    """One weight on its way into the graph; what several readers share is written once."""

    def __init__(self, writer: int8.Int8Writer, weight: Weight, edit: Edit) -> None:
        self.writer, self.weight, self.edit = writer, weight, edit
        self.numbers, self.scale = edit.tensors["weight"], edit.tensors["scale"]
        self.name, self.dtype = str(weight.constant.name), weight.constant.dtype
        self._made: dict[str, gs.Constant] = {}

    def readers(self, forms: dict[str, str]) -> None:
        """Write every reader in its form."""
        stored = [use for use in self.weight.uses if forms[use.name] == "stored"]
        if stored and "block" in self.edit.args:
            steps = self._steps(self.scale[:, None].astype(self.dtype))
            int4.stored_in_blocks(self.writer, self._integers(), steps, stored, self.dtype)
        elif stored:
            self.writer.stored(self._integers(), self._steps(self.scale.astype(self.dtype)), stored, self.dtype)
        for use in self.weight.uses:
            if forms[use.name] != "stored":
                getattr(self, f"_{forms[use.name].replace('-', '_')}")(use)

    def _gather(self, use: Use) -> None:
        self.writer.gathered(use, self._integers(), self._steps(self.scale), self.dtype)

    def _packed_rows(self, use: Use) -> None:
        int4.packed_rows(self.writer, use, self._packed(), self._steps(self.scale), self.dtype)

    def _block_rows(self, use: Use) -> None:
        int4.block_rows(self.writer, use, self._packed(), self._steps(self.scale), self.dtype)

    def _dynamic(self, use: Use) -> None:
        flat = (self.scale.astype(np.float64).ravel() * _alpha(use)).astype(np.float32)
        self.writer.dynamic(use, self._product_operand(use), self._steps(flat), self.dtype)

    def _weight_only(self, use: Use) -> None:
        steps = self._steps((self.scale.astype(np.float64).T * _alpha(use)).astype(np.float32))
        bits = 8 if int(self.edit.args.get("bits", 8)) == 8 else 4
        kind, values = "int4" if bits == 4 else "uint8", int4.columns(self.numbers, len(self.scale), bits)
        int4.weight_only(self.writer, use, self._once(kind, values), steps, bits, self.dtype)

    def _static(self, use: Use) -> None:
        self._between_grids(use, self.writer.grids.convolution)

    def _ranged(self, use: Use) -> None:
        self._between_grids(use, self.writer.grids.product)

    def _between_grids(self, use: Use, write: Callable[..., None]) -> None:
        """One reader between fixed grids, its bias moved by what rounding does to its mean."""
        scale = (self.scale.astype(np.float64).ravel() * _alpha(use)).astype(np.float32)
        bias = _bias(use.node)
        if bias is not None:
            bias = bias.astype(np.float64).ravel() * float(use.node.attrs.get("beta", 1.0))
        shift = self.edit.tensors.get("shift")
        if shift is not None:
            bias = (0 if bias is None else bias) - shift.astype(np.float64)
        write(use, self.numbers, scale, bias, self.edit.args["ranges"][use.name], self.edit.args.get("signs", "u8s8"))

    def _integers(self) -> gs.Constant:
        return self._once("int8", self.numbers)

    def _packed(self) -> gs.Constant:
        return self._once("int4", int4.packed(self.numbers))

    def _once(self, kind: str, values: Array) -> gs.Constant:
        if kind not in self._made:
            self._made[kind] = self.writer.rewriter.shared(f"{self.name}.{kind}", values)
        return self._made[kind]

    def _steps(self, values: Array) -> gs.Constant:
        return self.writer.rewriter.shared(f"{self.name}.scale", values)

    def _product_operand(self, use: Use) -> gs.Tensor:
        integers = self._integers()
        if self.edit.args.get("layout") == "product" or not use.reads_transposed:
            return integers
        out = self.writer.rewriter.variable(f"{integers.name}.transposed")
        self.writer.rewriter.after(integers, [self.writer.rewriter.node("Transpose", [integers], [out], perm=[1, 0])])
        return out


def _alpha(use: Use) -> float:
    return float(use.node.attrs.get("alpha", 1.0))


def _refuse_misfits(weight: Weight, edit: Edit) -> None:
    """Raise Declined where a plan's tensors are not those of the weight, or not what its forms take."""
    numbers, scale, constant = edit.tensors["weight"], edit.tensors["scale"], weight.constant
    unknown = {*edit.args["forms"].values()} - _FORMS.keys()
    if unknown:
        raise Declined(f"{edit.site}: no form named {min(map(str, unknown))!r}")
    turned = edit.args.get("layout") == "product" and weight.uses[0].reads_transposed
    expected = tuple(constant.shape)[::-1] if turned else tuple(constant.shape)
    if numbers.dtype != np.int8 or numbers.shape != expected:
        raise Declined(
            f"{edit.site}: {constant.name!r} must be int8 {list(expected)}, got {numbers.dtype} {list(numbers.shape)}"
        )
    if not _scale_fits(scale, numbers, edit):
        raise Declined(f"{edit.site}: scales {list(scale.shape)} do not fit {constant.name!r} {list(numbers.shape)}")
    halves = {"packed-rows", "block-rows"}.intersection(edit.args["forms"].values()) or edit.args.get("bits", 8) != 8
    if halves and numbers.size and not -8 <= int(numbers.min()) <= int(numbers.max()) <= 7:
        raise Declined(f"{edit.site}: {constant.name!r} must be integers of 4 bits, from -8 to 7")


def _scale_fits(scale: Array, numbers: Array, edit: Edit) -> bool:
    forms = {*edit.args["forms"].values()}
    parts = {"packed-rows": 1, "block-rows": 1, "weight-only": 0}
    if "block" in edit.args or forms & parts.keys():
        # Of a table [rows, blocks]; of a product [blocks, n], a block of its inputs each.
        split = 1 if forms & {"packed-rows", "block-rows"} else 0
        if numbers.ndim != 2 or scale.ndim != 2 or scale.shape[1 - split] != numbers.shape[1 - split]:
            return False
        blocks = scale.shape[split]
        return bool(blocks and numbers.shape[split] % (2 * blocks if split else blocks) == 0)
    return scale.ndim == numbers.ndim and all(a in (1, b) for a, b in zip(scale.shape, numbers.shape, strict=True))


def form_words(forms: dict[str, str]) -> str:
    """The forms of an edit as the report says them."""
    return ", ".join(_FORMS[form] for form in sorted(set(forms.values())))


def _number_words(edit: Edit) -> str:
    """What the numbers are, as the report says it."""
    bits, blind = edit.args.get("bits", 8), edit.args.get("blind", "")
    words = "as int8" if bits == 8 else f"in {bits} bits"
    if "seven" in edit.args:
        words += f", {edit.args['seven']} outputs in 7 bits"
    if edit.args.get("sparse"):
        words += f", {100 * float(np.mean(edit.tensors['weight'] == 0)):.1f} % zeros"
    return f"{words}; its inputs are not looked at: {blind}" if blind else words


def scale_axes(use: Use, form: str, weight: Weight) -> tuple[int, ...]:
    """Axes of the stored weight that keep a scale of their own: those of the output features."""
    rank = len(weight.constant.shape)
    if use.role == "embedding":
        return (0,)
    if use.role == "conv":
        # Between grids a transposed convolution's groups share the scales of their outputs.
        shared = form == "static" or use.node.attrs.get("group", 1) == 1
        return (1,) if use.node.op == "ConvTranspose" and shared else (0,)
    if use.role == "recurrent":
        return (0, 1)
    if form in {"dynamic", "ranged"}:
        return (0,) if use.reads_transposed else (1,)
    # A product of stacked matrices, or a weight behind a view that does more than permute.
    if use.permutation is None:
        return (0,)
    return tuple(range(rank - 2)) + ((rank - 2,) if use.reads_transposed else (rank - 1,))


def _bias(node: gs.Node) -> Array | None:
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return None
    values: Array = node.inputs[2].values
    return values
