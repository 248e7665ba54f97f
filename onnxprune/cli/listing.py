"""Commands that show what there is: `inspect`, `passes`, `methods`, `targets`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, page_possible, progress_of, quietly, say
from onnxprune.cli.options import HTML, JSON, MAX_MEMORY, MODEL, SHAPE


@click.command()
@MODEL
@SHAPE
@click.option("--heads", is_flag=True, help="Show what each attention head looks at, and how much it matters.")
@click.option("--data", help="Sample inputs for --heads: an .npz, a folder of .npz files, or module:function.")
@click.option("--picture", type=click.Path(path_type=Path), help="With --heads: write the table as a picture, too.")
@click.option("--mask", metavar="NAME", help="With --heads: the input that is 0 at padded tokens.")
@click.option("--loss", help="With --heads: what gradients are of: next-token, labels or divergence.")
@click.option("--allow-synthetic", is_flag=True, help="With --heads: look at made-up inputs.")
@MAX_MEMORY
@HTML
@JSON
@quietly
def inspect(
    model: Path,
    shape: tuple[str, ...],
    as_json: bool,
    html: Path | None,
    heads: bool,
    picture: Path | None,
    max_memory: str | None,
    **options: Any,
) -> None:
    """Show what is in MODEL: sites, parameters, multiply-accumulates; or its attention heads."""
    if heads:
        _inspect_heads(model, picture, as_json=as_json, **options)
        return
    from onnxprune.inspection import inspect as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_inspection

    page_possible(html, model)
    with progress_of(quiet=as_json) as progress:
        progress("look for sites")
        result = run(model, shape=shape, max_memory=max_memory)
        if html is not None:
            from onnxprune.report.page import command_of, inspection_page, write_page

            progress("draw the page")
            write_page(inspection_page(result, command_of(sys.argv)), html)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_inspection(result, console())


def _inspect_heads(model: Path, picture: Path | None, *, as_json: bool, **options: Any) -> None:
    from onnxprune.heads import heads as run
    from onnxprune.report.heads import draw_heads, print_heads
    from onnxprune.report.json import dumps

    with progress_of(quiet=as_json) as progress:
        progress("look at every head")
        result = run(model, **options)
    if picture is not None:
        draw_heads(result, picture)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_heads(result, console())


@click.command()
@click.argument("names", nargs=-1)
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FOLDER", help="Write one page a pass.")
@JSON
def passes(names: tuple[str, ...], markdown: Path | None, as_json: bool) -> None:
    """List the passes with their options and defaults; of those NAMED, tell all that there is to say."""
    from onnxprune import spec
    from onnxprune.passes import known
    from onnxprune.report.json import dumps
    from onnxprune.report.manual import manual_of, print_manual, write_manuals
    from onnxprune.report.terminal import print_passes

    for name in names:
        spec.parse(name, known())
    chosen = {name: kind for name, kind in known().items() if not names or name in names}
    if markdown is not None:
        for path in write_manuals(chosen, markdown):
            say(f"{path}: written")
    elif as_json:
        click.echo(dumps({n: {f.name: f.default for f in fields(kind)} for n, kind in chosen.items()}))  # type: ignore[arg-type]
    elif names:
        for kind in chosen.values():
            print_manual(manual_of(kind), console())
    else:
        print_passes(chosen, console())


@click.command()
@click.argument("name", required=False)
@JSON
@quietly
def methods(name: str | None, as_json: bool) -> None:
    """List the published methods with what each needs and what runs it; or all about the one of this NAME."""
    from onnxprune.report.json import dumps
    from onnxprune.report.systems import print_system, print_systems
    from onnxprune.systems import options_of, system_of, systems

    one = None if name is None else system_of(name)
    if as_json:
        shown = systems() if one is None else (one,)
        held = [{**each.to_json(), "options": list(options_of(each))} for each in shown]
        click.echo(dumps(held if one is None else held[0]))
    elif one is not None:
        print_system(one, console())
    else:
        print_systems(systems(), console())


@click.command()
@JSON
def targets(as_json: bool) -> None:
    """List the targets: which can be used here, and the command that sets up the others."""
    from onnxprune.report.json import dumps
    from onnxprune.report.targets import print_targets
    from onnxprune.targets.target import describe, known_targets

    if as_json:
        click.echo(dumps([describe(target) for target in known_targets()]))
    else:
        print_targets(known_targets(), console())
