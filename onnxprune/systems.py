"""The thirteen systems that are covered, with what each needs and which command runs it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from onnxprune import spec
from onnxprune.errors import OptionError
from onnxprune.learn.methods import METHODS
from onnxprune.recipes import RECIPES

# What may be needed besides the model, in the order in which it is told.
NEEDS = {
    "calibration": "sample inputs",
    "samples": "samples to train on",
    "gradients": "gradients (torch)",
    "labels": "labels",
    "pretrained": "a pre-trained file",
}


@dataclass(frozen=True, kw_only=True)
class System:
    """One published system, or a baseline beside them.

    Attributes:
        number: 1 … 13; 0 for a baseline.
        name: as it is typed.
        about: one line.
        source: authors, year, title.
        needs: besides the model, names of `NEEDS`.
        command: that runs it.
        reconstruction: what of it is ours rather than published; empty where nothing is.
        one_shot: a recipe of its calibration-only half; empty where there is none.
    """

    number: int
    name: str
    about: str
    source: str
    needs: tuple[str, ...]
    command: str
    reconstruction: str
    one_shot: str = ""

    def to_json(self) -> dict[str, Any]:
        """The keys are stable."""
        return {**vars(self), "needs": list(self.needs)}


# Training methods in the order of their systems; what they are stands with them.
_TRAINED = {
    1: "gradual-magnitude",
    2: "flop",
    3: "head-gates",
    4: "cap",
    5: "minitron",
    8: "peer-distillation",
    9: "ziplm",
    13: "mask-only",
}
# Recipes that are whole systems: number, source, what is ours.
_RECIPES = {
    "wanda": (
        6,
        "Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models",
        "zeros are stored with int8 weights; in the paper weights stay float",
    ),
    "shortened-llama": (
        7,
        "Kim et al. 2024, Shortened LLaMA",
        "recovery distils from the original with low-rank changes; in the paper LoRA learns tokens of Alpaca",
    ),
    "laco": (
        10,
        "Yang et al. 2024, LaCo: Large Language Model Pruning via Layer Collapse",
        "the released code's rule, not the printed one (rule=sum-of-differences); recovery, which distils",
    ),
    "llm-pruner": (
        11,
        "Ma et al. 2023, LLM-Pruner: On the Structural Pruning of Large Language Models",
        "every layer is cut, the paper spares the first and last; recovery distils, LoRA learns tokens of Alpaca",
    ),
    "ngram": (
        12,
        "Goodman and Gao 2000, Language Model Size Reduction by Pruning and Clustering",
        "classes rewrite a finished model exactly, where the paper counts both parts from text; vectorizers are ours",
    ),
}


def systems() -> tuple[System, ...]:
    """All systems by number, then the baselines; a training method that this version lacks is not among them."""
    found = [_trained(number, name) for number, name in _TRAINED.items() if name in METHODS]
    found += [_one_shot(name) for name in _RECIPES]
    others = [_trained(0, name) for name in METHODS if name not in _TRAINED.values()]
    return (*sorted(found, key=lambda one: one.number), *others)


def system_of(name: str) -> System:
    """The system of this name.

    Raises:
        OptionError: there is none.
    """
    for one in systems():
        if one.name == name:
            return one
    known = ", ".join(sorted(one.name for one in systems()))
    raise OptionError(f"No method named {name!r}. Known: {known}.")


def options_of(one: System) -> tuple[str, ...]:
    """How a system is set: the passes of its recipe, or the options of its training with their defaults."""
    if one.name in RECIPES:
        return RECIPES[one.name].specs
    method: Any = METHODS[one.name]
    own = [f"{field.name}={spec.option_text(field.default)}" for field in fields(method)]
    shared = method.training
    return (*own, *(f"{f.name}={spec.option_text(getattr(shared, f.name))}" for f in fields(shared)))


def _trained(number: int, name: str) -> System:
    method = METHODS[name]
    halves = [recipe.name for recipe in RECIPES.values() if recipe.method == name]
    return System(
        number=number,
        name=name,
        about=method.summary,
        source=method.source,
        needs=tuple(need for need in NEEDS if need in method.needs),
        command=f"onnxprune train MODEL --method {name} --data DATA",
        reconstruction=method.reconstruction,
        one_shot=halves[0] if halves else "",
    )


def _one_shot(name: str) -> System:
    recipe = RECIPES[name]
    number, source, ours = _RECIPES[name]
    data = " --data DATA" if recipe.needs else ""
    return System(
        number=number,
        name=name,
        about=recipe.about,
        source=source,
        needs=tuple(need for need in NEEDS if need in recipe.needs),
        command=f"onnxprune optimize MODEL --recipe {name}{data}",
        reconstruction=ours,
    )
