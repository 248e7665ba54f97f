"""What an edit falls back to where the floor or the clock refuses it."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.model import Model
from onnxprune.plan import Edit
from onnxprune.quantizing.recipes import Recipe
from onnxprune.quantizing.solving import solve_weight
from onnxprune.weights import find_weights

# Forms that are there for speed, as reports name them.
_GIVEN_UP = {
    "dynamic": "integer products",
    "ranged": "integer products",
    "static": "integer convolutions",
    "weight-only": "packed products",
}


# What an edit of few bits or many zeros has that one of eight bits has not.
_FEW = {"bits", "blind", "block", "layout", "seven", "sparse", "transposed"}
# The forms of eight bits.
_WHOLE = {"block-rows": "gather", "packed-rows": "gather", "weight-only": "dynamic"}


def finer(edit: Edit, model: Model) -> tuple[str, Edit] | None:
    """Eight bits without zeros, rounded to the nearest, in place of fewer bits or zeros; then decoded at load.

    Returns:
        What is given up and the finer edit; None where nothing is left but the float weight.
    """
    few = [words for key, words in (("sparse", "zeros"), ("bits", "few bits")) if key in edit.args]
    if not few:
        return decoded_at_load(edit)
    weights = {weight.constant.name: weight for weight in find_weights(model.graph, model.overridable)}
    forms = {name: _WHOLE.get(form, form) for name, form in edit.args["forms"].items()}
    solved = solve_weight(weights[edit.args["weight"]], forms, Recipe())
    args = {key: value for key, value in edit.args.items() if key not in _FEW}
    return " and ".join(few), replace(edit, args={**args, "forms": forms, **solved.args}, tensors=solved.tensors)


def decoded_at_load(edit: Edit) -> tuple[str, Edit] | None:
    """The same integers, decoded at load instead of multiplied: as small a file, products in float.

    Returns:
        What is given up and the milder edit; None where nothing is multiplied with integers.
    """
    forms: dict[str, str] = edit.args.get("forms", {})
    given_up = sorted({_GIVEN_UP[form] for form in forms.values() if form in _GIVEN_UP})
    if not given_up:
        return None
    # Blocks of inputs are told apart in the product's layout only.
    dropped = {"ranges", "signs"} if "block" in edit.args else {"layout", "ranges", "signs", "transposed"}
    args = {key: value for key, value in edit.args.items() if key not in dropped}
    args["forms"] = {name: "stored" if form in _GIVEN_UP else form for name, form in forms.items()}
    turned = bool(edit.args.get("transposed")) and "transposed" in dropped
    kept = {name: array for name, array in edit.tensors.items() if name != "shift"}
    tensors = {name: array.T if turned else array for name, array in kept.items()}
    return " and ".join(given_up), replace(edit, args=args, tensors=tensors, depends_on=())
