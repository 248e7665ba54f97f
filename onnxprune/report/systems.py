"""Published systems as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from onnxprune.recipes import RECIPES
from onnxprune.report.marking import marked
from onnxprune.systems import NEEDS, System, options_of


def print_systems(found: Sequence[System], console: Console) -> None:
    """Print a paragraph a system: what it is, where from, what it needs and what runs it."""
    for one in found:
        number = f"{one.number}. " if one.number else "baseline: "
        console.print(marked("{}[bold]{}[/]: {}", number, one.name, one.about), soft_wrap=True)
        lines = [one.source, f"needs: {', '.join(NEEDS[need] for need in one.needs) or 'nothing'}", one.command]
        if one.one_shot:
            lines.append(f"without training: onnxprune optimize MODEL --recipe {one.one_shot}")
        if one.reconstruction:
            lines.append(f"ours: {one.reconstruction}")
        for line in lines:
            console.print(f"    {line}", soft_wrap=True, markup=False, highlight=False)


def print_system(one: System, console: Console) -> None:
    """Print a system with the passes of its recipes, or with the options of its training."""
    print_systems([one], console)
    what = "passes" if one.name in RECIPES else "options"
    console.print(f"    {what}:", markup=False)
    for line in options_of(one):
        console.print(f"        {line}", soft_wrap=True, markup=False, highlight=False)
    if one.one_shot:
        console.print(f"    passes of {one.one_shot}:", soft_wrap=True, markup=False)
        for line in RECIPES[one.one_shot].specs:
            console.print(f"        {line}", soft_wrap=True, markup=False, highlight=False)
