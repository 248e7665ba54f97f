"""Which form each reader of a weight gets, and why it cannot have another."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from onnxprune.errors import Declined, ModelError, TargetError
from onnxprune.model import Model
from onnxprune.protocol import Context, Level
from onnxprune.quantizing.ranges import Chosen, can_be_ranged, can_be_static
from onnxprune.sites import Site
from onnxprune.weights import Use, Weight

Timed = Literal["block-rows", "int8", "packed-rows", "weight-only"]
Form = Literal["block-rows", "dynamic", "gather", "packed-rows", "ranged", "static", "stored", "weight-only"]

# Below this many inputs or outputs the integer product loses to the float one (TRAPS: measured for K or N < 16).
_SMALLEST_PRODUCT = 16
# Of inputs that share a scale, for onnxruntime's own operator.
SMALLEST_BLOCK = 16
# The opsets that have per-channel DequantizeLinear, and DynamicQuantizeLinear.
OPSETS: dict[Form, int] = {"ranged": 13, "static": 13, "dynamic": 11}
# What activations are to be, as forms of linears and convolutions that are left to it.
_LINEARS = {"auto": "auto", "dynamic": "dynamic", "static": "static", "none": "stored"}
_CONVS = {"auto": "auto", "dynamic": "stored", "static": "static", "none": "stored"}


class Options(Protocol):
    """What a user may ask of forms; the pass declares and explains it."""

    @property
    def activations(self) -> str:
        """`auto`, `dynamic`, `static` or `none`."""

    @property
    def linears(self) -> str:
        """`auto`, `dynamic`, `static`, `weight-only`, `stored` or `float`."""

    @property
    def convs(self) -> str:
        """`auto`, `static`, `stored` or `float`."""

    @property
    def embeddings(self) -> int:
        """Bits of tables: 8, 4, true for 8 and false for none."""

    @property
    def bits(self) -> int:
        """Of products' weights."""


def linears_of(options: Options) -> str:
    """The form that linears are to have: `auto`, `dynamic`, `static`, `weight-only`, `stored` or `float`."""
    return _LINEARS[options.activations] if options.linears == "auto" else options.linears


def convs_of(options: Options) -> str:
    """The form that convolutions are to have: `auto`, `static`, `stored` or `float`."""
    return _CONVS[options.activations] if options.convs == "auto" else options.convs


def forms_of(
    site: Site, weight: Weight, options: Options, context: Context, chosen: Chosen, model: Model
) -> dict[str, Form]:
    """The form of each reader, by its name.

    Raises:
        Declined: one keeps the weight in float, and so do all that share it.
    """
    forms = {use.name: _form_of(use, weight, options, chosen, model) for use in weight.uses}
    if set(forms.values()) == {"gather"} and packs_rows(weight, options):
        return dict.fromkeys(forms, _faster_rows(site, context))
    if set(forms.values()) == {"dynamic"} and _may_be_weight_only(weight, options):
        form: Form = "weight-only" if linears_of(options) == "weight-only" else _faster_product(site, context)
        return dict.fromkeys(forms, form)
    return forms


def packs_rows(weight: Weight, options: Options) -> bool:
    """Whether rows of a table are asked for in 4 bits, and are whole bytes then."""
    return options.embeddings == 4 and len(weight.constant.shape) == 2 and weight.constant.shape[1] % 2 == 0


def block_of(asked: int | None, inputs: int) -> int | None:
    """The block that inputs are cut into: what was asked, or half as many and so on, until it divides them."""
    block = asked
    while block is not None and inputs % block:
        block = block // 2 if block > SMALLEST_BLOCK else None
    return block


def _may_be_weight_only(weight: Weight, options: Options) -> bool:
    wanted = linears_of(options)
    if wanted not in {"auto", "weight-only"} or (wanted == "auto" and options.bits == 8):
        return False
    turned = {use.reads_transposed for use in weight.uses}
    return len(turned) == 1 and inputs_of(weight) % SMALLEST_BLOCK == 0


def inputs_of(weight: Weight) -> int:
    """K of a product's weight."""
    return int(weight.constant.shape[1 if weight.uses[0].reads_transposed else 0])


def _faster_product(site: Site, context: Context) -> Form:
    """What the clock finds faster; integers where nothing is timed."""
    return "weight-only" if _faster(site, context, "weight-only", "int8") else "dynamic"


def _faster_rows(site: Site, context: Context) -> Form:
    """The runtime's own operator where the clock finds it faster; else what every runtime has."""
    return "block-rows" if _faster(site, context, "block-rows", "packed-rows") else "packed-rows"


def _faster(site: Site, context: Context, form: Timed, than: Timed) -> bool:
    """Whether the clock finds a form faster on the target; false where it has none, or nothing is timed."""
    if context.latency is None:
        return False
    try:
        return context.latency(site, Level(form=form)) < context.latency(site, Level(form=than))
    except (Declined, ModelError, TargetError):
        # The target's runtime may lack the operator.
        return False


def _form_of(use: Use, weight: Weight, options: Options, chosen: Chosen, model: Model) -> Form:
    if use.role == "embedding":
        return _embedding_form(use, options)
    if use.role == "linear":
        return _linear_form(use, weight, linears_of(options), chosen, model)
    if use.role == "recurrent":
        return "stored"
    return _convolution_form(use, convs_of(options), chosen, model)


def _convolution_form(use: Use, wanted: str, chosen: Chosen, model: Model) -> Form:
    if wanted == "float":
        raise Declined("option convs=float")
    if wanted == "stored":
        return "stored"
    if can_be_static(use, model) and chosen.has(use):
        # No processor's runtime multiplies transposed convolutions with integers; other targets' may.
        return "stored" if wanted == "auto" and use.node.op == "ConvTranspose" else "static"
    if wanted == "static":
        raise Declined(
            "option convs=static: needs sample inputs, and a float32 Conv of constants whose output others read"
        )
    return "stored"


def _embedding_form(use: Use, options: Options) -> Form:
    if not options.embeddings:
        raise Declined("option embeddings=no")
    if use.node.op != "Gather":
        return "stored"
    if use.node.attrs.get("axis", 0) != 0 or use.views:
        raise Declined("rows are not looked up on the table's first axis")
    return "gather"


def _linear_form(use: Use, weight: Weight, wanted: str, chosen: Chosen, model: Model) -> Form:
    if wanted == "float":
        raise Declined("option linears=float")
    if use.node.op not in {"MatMul", "Gemm"} or wanted == "stored":
        return "stored"
    _refuse_product(use, weight, model.overridable)
    if use.permutation is None or len(weight.constant.shape) != 2:
        return "stored"
    # A product whose range is not known has it taken at run time.
    return "ranged" if wanted == "static" and can_be_ranged(use, model) and chosen.has(use) else "dynamic"


def _refuse_product(use: Use, weight: Weight, overridable: frozenset[str]) -> None:
    """Raise Declined where a product has no integer form that gains."""
    if use.slot != 1:
        raise Declined("the weight is the left operand of the product")
    if use.permutation is None or len(weight.constant.shape) != 2:
        return
    if use.node.attrs.get("transA", 0):
        raise Declined("the activations are transposed by the product (transA)")
    if use.node.attrs.get("beta", 1.0) != 1.0 and use.node.inputs[2:] and use.node.inputs[2].name in overridable:
        raise Declined("the bias is a graph input too: a caller may override it")
    if weight.constant.dtype not in (np.float32, np.float16):
        raise Declined(f"{weight.constant.dtype} products have no integer form")
    rows, columns = weight.constant.shape
    if min(rows, columns) < _SMALLEST_PRODUCT:
        raise Declined(f"narrower than {_SMALLEST_PRODUCT}: such a product is slower with integers")
