"""Writing one quantized weight into a graph, each reader in its form, and the layouts that forms ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune import int8
from onnxprune.errors import Declined
from onnxprune.graph import elements
from onnxprune.plan import Change, Edit
from onnxprune.weights import Use, Weight

Array = np.ndarray[Any, Any]


def write_weight(writer: int8.Int8Writer, weight: Weight, edit: Edit) -> Change:
    """Replace a weight by the integers of an edit, for each reader in its form; say what it was and is.

    Raises:
        Declined: the readers or the shape are not those of the edit.
    """
    numbers, scale = edit.tensors["weight"], edit.tensors["scale"]
    forms = edit.args["forms"]
    constant = weight.constant
    dtype = constant.dtype
    make, name = writer.rewriter, f"{constant.name}.scale"
    already = make.added_bytes
    _refuse_misfits(weight, edit)
    if forms.keys() != {use.name for use in weight.uses}:
        raise Declined(f"{edit.site}: the readers of {constant.name!r} are not those of the plan")
    integers = make.constant(f"{constant.name}.int8", numbers)
    stored = [use for use in weight.uses if forms[use.name] == "stored"]
    if stored:
        writer.stored(integers, make.shared(name, scale.astype(dtype)), stored, dtype)
    for use in weight.uses:
        form = forms[use.name]
        if form == "gather":
            writer.gathered(use, integers, make.shared(name, scale), dtype)
        elif form == "dynamic":
            product, alpha = _product_operand(writer, use, integers, edit), float(use.node.attrs.get("alpha", 1.0))
            flat = (scale.astype(np.float64).ravel() * alpha).astype(np.float32)
            writer.dynamic(use, product, make.shared(name, flat), dtype)
        elif form == "static":
            steps = make.shared(name, scale.astype(np.float32).ravel())
            writer.static_convolution(use, integers, steps, _bias(use.node), edit.args["ranges"][use.name])
    return Change(
        site=edit.site,
        what=f"{form_words(forms)}: {'x'.join(map(str, numbers.shape))} {_number_words(edit)}",
        params_before=elements(constant),
        params_after=elements(constant),
        bytes_after=make.added_bytes - already,
    )


def _refuse_misfits(weight: Weight, edit: Edit) -> None:
    """Raise Declined where a plan's tensors are not those of the weight."""
    numbers, scale, constant = edit.tensors["weight"], edit.tensors["scale"], weight.constant
    turned = edit.args.get("layout") == "product" and weight.uses[0].reads_transposed
    expected = tuple(constant.shape)[::-1] if turned else tuple(constant.shape)
    if numbers.dtype != np.int8 or numbers.shape != expected:
        raise Declined(
            f"{edit.site}: {constant.name!r} must be int8 {list(expected)}, got {numbers.dtype} {list(numbers.shape)}"
        )
    if scale.ndim != numbers.ndim or any(a not in (1, b) for a, b in zip(scale.shape, numbers.shape, strict=True)):
        raise Declined(f"{edit.site}: scales {list(scale.shape)} do not fit {constant.name!r} {list(numbers.shape)}")


def form_words(forms: dict[str, str]) -> str:
    """The forms of an edit as the report says them."""
    words = {
        "dynamic": "integer product",
        "gather": "embedding rows",
        "static": "integer convolution",
        "stored": "weights decoded at load",
    }
    return ", ".join(words[form] for form in sorted(set(forms.values())))


def _number_words(edit: Edit) -> str:
    """What the numbers are, as the report says it."""
    bits, blind = edit.args.get("bits", 8), edit.args.get("blind", "")
    words = "as int8" if bits == 8 else f"in {bits} bits"
    if edit.args.get("sparse"):
        words += f", {100 * float(np.mean(edit.tensors['weight'] == 0)):.1f} % zeros"
    return f"{words}; its inputs are not looked at: {blind}" if blind else words


def _product_operand(writer: int8.Int8Writer, use: Use, integers: gs.Constant, edit: Edit) -> gs.Tensor:
    if edit.args.get("layout") == "product" or not use.reads_transposed:
        return integers
    out = writer.rewriter.variable(f"{integers.name}.transposed")
    writer.rewriter.after(integers, [writer.rewriter.node("Transpose", [integers], [out], perm=[1, 0])])
    return out


def scale_axes(use: Use, form: str, weight: Weight) -> tuple[int, ...]:
    """Axes of the stored weight that keep a scale of their own: those of the output features."""
    rank = len(weight.constant.shape)
    if use.role == "embedding":
        return (0,)
    if use.role == "conv":
        return (1,) if use.node.op == "ConvTranspose" and use.node.attrs.get("group", 1) == 1 else (0,)
    if use.role == "recurrent":
        return (0, 1)
    if form == "dynamic":
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
