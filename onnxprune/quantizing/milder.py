"""What an edit falls back to where the floor or the clock refuses it."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.plan import Edit

# Forms that are there for speed, as reports name them.
_GIVEN_UP = {"dynamic": "integer products", "static": "integer convolutions", "weight-only": "packed products"}


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
    dropped = {"ranges"} if "block" in edit.args else {"layout", "ranges", "transposed"}
    args = {key: value for key, value in edit.args.items() if key not in dropped}
    args["forms"] = {name: "stored" if form in _GIVEN_UP else form for name, form in forms.items()}
    turned = bool(edit.args.get("transposed")) and "transposed" in dropped
    tensors = {name: array.T if turned else array for name, array in edit.tensors.items()}
    return " and ".join(given_up), replace(edit, args=args, tensors=tensors, depends_on=())
