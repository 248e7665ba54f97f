"""Recipes are lists of passes, and every published system says what it needs and what runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune import spec
from onnxprune.cli import main
from onnxprune.errors import OptionError
from onnxprune.learn.methods import METHODS
from onnxprune.passes import known
from onnxprune.recipes import RECIPES, followed
from onnxprune.systems import NEEDS, options_of, system_of, systems
from tests import graphs


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_list_of_passes_that_parse(name: str) -> None:
    recipe = RECIPES[name]
    for text in recipe.specs:
        one = spec.parse(text, known())
        assert spec.parse(spec.format(one), known()) == one
    assert recipe.method in {"", "ziplm", "flop", "head-gates", "minitron", "peer-distillation", *METHODS}
    assert set(recipe.needs) <= set(NEEDS)


def test_steps_of_a_recovery_are_the_recipes_own_unless_told() -> None:
    whole = RECIPES["laco"].specs
    assert followed("laco", (), None, 1) == (whole, None)
    assert followed("laco", (), 0, 1) == (("merge-blocks:keep=0.75",), None)
    assert followed("laco", (), 7, 1) == (("merge-blocks:keep=0.75", "recover:steps=7,lr=0.0001,rank=8"), None)
    assert followed(None, ("simplify",), 3, 2) == (("simplify",), 3)


@pytest.mark.parametrize(
    ("name", "passes", "recover", "gradual", "message"),
    [
        ("wandb", (), None, 1, f"No recipe named 'wandb'. Known: {', '.join(sorted(RECIPES))}."),
        ("wanda", ("simplify",), None, 1, "recipe and pass exclude each other: a recipe says which passes run."),
        ("laco", (), 4, 2, "recipe and gradual exclude each other: a recipe runs once, in its own order."),
        ("wanda", (), 5, 1, "wanda has no recovery of 5 steps. Leave --recover away, or give the passes."),
        ("laco", (), -1, 1, "laco has no recovery of -1 steps. Leave --recover away, or give the passes."),
    ],
)
def test_what_contradicts_a_recipe_is_told(
    name: str, passes: tuple[str, ...], recover: int | None, gradual: int, message: str
) -> None:
    with pytest.raises(OptionError) as error:
        followed(name, passes, recover, gradual)
    assert str(error.value) == message


def test_the_thirteen_systems_are_listed_by_their_numbers() -> None:
    numbers = [one.number for one in systems() if one.number]
    assert numbers == sorted(set(numbers))
    assert {6, 7, 10, 11, 12} <= set(numbers) <= set(range(1, 14))
    # What trains is a system or a baseline, and none is listed twice.
    names = [one.name for one in systems()]
    assert len(set(names)) == len(names)
    assert set(METHODS) <= set(names)
    for one in systems():
        assert (f"--method {one.name}" in one.command) == (one.name in METHODS)
        assert (f"--recipe {one.name}" in one.command) == (one.name in RECIPES)
        assert set(one.needs) <= set(NEEDS)
        assert options_of(one)
        assert not one.one_shot or RECIPES[one.one_shot].method == one.name


def test_methods_are_shown_to_people_and_machines() -> None:
    run = CliRunner().invoke
    listed = json.loads(run(main, ["methods", "--json"]).output)
    assert [one["name"] for one in listed] == [one.name for one in systems()]
    wanda = json.loads(run(main, ["methods", "wanda", "--json"]).output)
    assert wanda["options"] == list(RECIPES["wanda"].specs)
    assert wanda["needs"] == ["calibration"]
    text = run(main, ["methods"]).output
    assert "6. wanda: " in text
    assert "onnxprune optimize MODEL --recipe ngram\n" in text
    assert "baseline: movement: " in text
    shown = run(main, ["methods", "gradual-magnitude"]).output
    assert "sparsity=0.8" in shown
    assert RECIPES["gradual-magnitude-one-shot"].specs[0] in shown


def test_an_unknown_method_is_told() -> None:
    with pytest.raises(OptionError) as error:
        system_of("nothing")
    known_names = ", ".join(sorted(one.name for one in systems()))
    assert str(error.value) == f"No method named 'nothing'. Known: {known_names}."


def test_optimize_follows_a_recipe(tmp_path: Path) -> None:
    path = graphs.saved(graphs.compressible(), tmp_path)
    result = onnxprune.optimize(
        path, recipe="gradual-magnitude-one-shot", allow_synthetic=True, output=tmp_path / "out.onnx"
    )
    first, *specs = [report.pass_spec for report in result.reports]
    assert first == "simplify"
    assert [spec.parse(text, known()) for text in specs] == [
        spec.parse(text, known()) for text in RECIPES["gradual-magnitude-one-shot"].specs
    ]
