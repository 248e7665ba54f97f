"""The integers and scales of one weight, as its readers want them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxprune.errors import Declined
from onnxprune.int8_weights import scale_axes
from onnxprune.plan import Tensors
from onnxprune.quantizing.matrices import layout_of
from onnxprune.quantizing.portable import MULTIPLIED
from onnxprune.quantizing.recipes import Recipe
from onnxprune.quantizing.rounding import Problem, Rounded, decoded, rounded
from onnxprune.weights import Weight

Array = np.ndarray[Any, Any]

_ROW_FORMS = {"block-rows", "packed-rows"}


@dataclass(frozen=True, eq=False)
class Integers:
    """A solved weight.

    Attributes:
        tensors: `weight`, int8, and `scale`, which broadcasts against it; `gain` [n], what the bias behind it gains.
        args: in which layout they are, for the edit.
        decode: gives what they stand for, in the stored shape and type; not held, since it takes as much as the weight.
    """

    tensors: Tensors
    args: dict[str, Any]
    decode: Callable[[], Array]

    @property
    def values(self) -> Array:
        """What the integers stand for, in the stored shape and type; computed anew each time."""
        return self.decode()


def solve_weight(weight: Weight, forms: Mapping[str, str], recipe: Recipe) -> Integers:
    """Integers of one weight for the forms of its readers, by a recipe that looks at no inputs.

    Args:
        weight: with its readers.
        forms: of each reader, by name.
        recipe: what is wanted.

    Raises:
        Declined: the readers want different scales.
    """
    problem = problem_of(weight, forms, recipe)
    return integers_of(weight, forms, problem, rounded(problem))


def problem_of(weight: Weight, forms: Mapping[str, str], recipe: Recipe) -> Problem:
    """What there is to solve.

    Raises:
        Declined: the readers want different scales.
    """
    axes = {scale_axes(use, form, weight) for use, form in zip(weight.uses, forms.values(), strict=True)}
    if len(axes) > 1:
        raise Declined("its readers need their scales on different axes")
    (kept,) = axes
    taken = set(forms.values())
    return Problem(
        stored=weight.constant.values,
        layout=layout_of(weight),
        kept=kept,
        recipe=recipe,
        halves=taken <= {"block-rows", "gather", "packed-rows"},
        rows=taken <= _ROW_FORMS,
        multiplied=bool(MULTIPLIED & taken),
        convolved=any(use.role == "conv" for use in weight.uses),
        turned=_as_products(weight, forms) and weight.uses[0].reads_transposed,
    )


def integers_of(weight: Weight, forms: Mapping[str, str], problem: Problem, solved: Rounded) -> Integers:
    """What an edit holds of a solved weight."""
    recipe, scale = problem.recipe, solved.scale
    args: dict[str, Any] = {}
    if _as_products(weight, forms):
        args["layout"] = "product"
    if problem.turned:
        args["transposed"] = True
        scale = scale if recipe.block else scale.T
    if recipe.block:
        args["block"] = recipe.block
        scale = scale.T if problem.rows else scale
    if recipe.bits != 8:
        args["bits"] = recipe.bits
    if solved.seven:
        args["seven"] = solved.seven
    if recipe.sparse:
        args["sparse"] = True
    tensors = {"weight": solved.integers, "scale": scale}
    if solved.gain is not None:
        tensors["gain"] = solved.gain
    # Without the problem, which holds the float weight.
    decode = partial(
        decoded, problem.layout, recipe.block, solved, turned=problem.turned, dtype=problem.stored.dtype
    )  # fmt: skip
    return Integers(tensors, args, decode)


def _as_products(weight: Weight, forms: Mapping[str, str]) -> bool:
    """Whether integers are stored in the product's own layout, so that no Transpose is left to run."""
    return {*forms.values()} <= {"dynamic", "weight-only"} and len({u.reads_transposed for u in weight.uses}) == 1
