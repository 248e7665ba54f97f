"""Recipes: what a published method does in one go, as specs of passes; `optimize --recipe NAME` carries them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune import spec
from onnxprune.errors import OptionError
from onnxprune.passes import known


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to compress, in data.

    Attributes:
        about: one line.
        passes: specs, in order.
        recovery: spec of the pass that trains what they left; empty where the method has none.
        method: whose calibration-only half it is; empty where it is a whole method.
        needs: besides the model: `calibration`, `gradients` of one pass over samples, `samples` to recover on.
    """

    name: str
    about: str
    passes: tuple[str, ...]
    recovery: str = ""
    method: str = ""
    needs: tuple[str, ...] = ("calibration",)

    @property
    def specs(self) -> tuple[str, ...]:
        """All of its passes."""
        return (*self.passes, self.recovery) if self.recovery else self.passes


# Low-rank changes merged at the end, as the papers recover with LoRA of rank 8 and this learning rate.
_LORA = "recover:lr=0.0001,rank=8"
_STORED = "linears=stored,convs=stored,embeddings=no"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="wanda",
            about="half of the weights to zero by size times their input's norm, nothing updated; int8 in the file",
            passes=(f"sparse-int8:{_STORED},sparsity=0.5,score=wanda,solver=round", "pack-weights"),
        ),
        Recipe(
            name="shortened-llama",
            about="a fifth of the layers out by what the model loses without each, then low-rank recovery",
            passes=("remove-blocks:keep=0.8,layers=yes,score=loss",),
            recovery=_LORA,
            needs=("calibration", "samples"),
        ),
        Recipe(
            name="laco",
            about="neighbouring layers merged until three quarters are left, then low-rank recovery",
            passes=("merge-blocks:keep=0.75",),
            recovery=_LORA,
            needs=("calibration", "samples"),
        ),
        Recipe(
            name="llm-pruner",
            about="a quarter of all heads and neurons out by first-order gradients, then low-rank recovery",
            passes=("remove-heads:keep=0.75,score=taylor,refit=no", "remove-neurons:keep=0.75,score=taylor,refit=no"),
            recovery=_LORA,
            needs=("calibration", "gradients", "samples"),
        ),
        Recipe(
            name="ngram",
            about="half of a back-off model's numbers out by Stolcke's criterion, or half of a vectorizer's columns",
            passes=("ngram:keep=0.5",),
            needs=(),
        ),
        Recipe(
            name="gradual-magnitude-one-shot",
            about="half of the weights to zero by size, at once; int8 in the file",
            passes=(f"sparse-int8:{_STORED},sparsity=0.5,score=magnitude,solver=round", "pack-weights"),
            method="gradual-magnitude",
            needs=(),
        ),
        Recipe(
            name="flop-one-shot",
            about="linears as low-rank pairs of half the numbers, by an SVD whitened with their inputs",
            passes=("factor-linear:ratio=0.5",),
            method="flop",
        ),
        Recipe(
            name="head-gates-one-shot",
            about="a third of all heads out by layer-wise relevance",
            passes=("remove-heads:keep=0.67,score=lrp,refit=no",),
            method="head-gates",
            needs=("calibration", "gradients"),
        ),
        Recipe(
            name="minitron-one-shot",
            about="a quarter of all heads and neurons out by activations, uniform widths",
            passes=(
                "remove-heads:keep=0.75,score=minitron,refit=no",
                "remove-neurons:keep=0.75,score=minitron,refit=no",
            ),
            method="minitron",
        ),
        Recipe(
            name="peer-distillation-one-shot",
            about="half of all heads out, what they gave refitted into those that stay",
            passes=("remove-heads:keep=0.5",),
            method="peer-distillation",
        ),
        Recipe(
            name="ziplm-one-shot",
            about="half of all heads and neurons out by structured optimal brain surgeon, refitted",
            passes=("remove-heads:keep=0.5", "remove-neurons:keep=0.5"),
            method="ziplm",
        ),
    )
}


def followed(
    name: str | None, passes: Sequence[str], recover: int | None, gradual: int
) -> tuple[Sequence[str], int | None]:
    """Passes and steps of recovery as a recipe has them; as given where there is none.

    Args:
        name: of the recipe.
        passes: given besides.
        recover: steps of the recipe's recovery; 0: none of it; None: as the recipe has it.
        gradual: rounds that were asked for.

    Returns:
        Specs of the passes, and steps of a recovery that is not among them.

    Raises:
        OptionError: no such recipe, or something beside it that says otherwise.
    """
    if name is None:
        return passes, recover
    if name not in RECIPES:
        raise OptionError(f"No recipe named {name!r}. Known: {', '.join(sorted(RECIPES))}.")
    if passes:
        raise OptionError("recipe and pass exclude each other: a recipe says which passes run.")
    if gradual != 1:
        raise OptionError("recipe and gradual exclude each other: a recipe runs once, in its own order.")
    recipe = RECIPES[name]
    if recover is None:
        return recipe.specs, None
    if recover < 0 or (recover and not recipe.recovery):
        raise OptionError(f"{name} has no recovery of {recover} steps. Leave --recover away, or give the passes.")
    if not recover:
        return recipe.passes, None
    whole: Any = spec.parse(recipe.recovery, known())
    return (*recipe.passes, spec.format(replace(whole, steps=recover))), None
