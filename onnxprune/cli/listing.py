"""Commands that show what there is: `inspect`, `passes`, `targets`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, page_possible, quietly
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

    page_possible(html)
    result = run(model, shape=shape, max_memory=max_memory)
    if html is not None:
        from onnxprune.report.page import command_of, inspection_page, write_page

        write_page(inspection_page(result, command_of(sys.argv)), html)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_inspection(result, console())


def _inspect_heads(model: Path, picture: Path | None, *, as_json: bool, **options: Any) -> None:
    from onnxprune.heads import heads as run
    from onnxprune.report.heads import draw_heads, print_heads
    from onnxprune.report.json import dumps

    result = run(model, **options)
    if picture is not None:
        draw_heads(result, picture)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_heads(result, console())


@click.command()
@JSON
def passes(as_json: bool) -> None:
    """List the passes with their options and defaults."""
    from onnxprune.passes import known
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_passes

    if as_json:
        click.echo(dumps({n: {f.name: f.default for f in fields(kind)} for n, kind in known().items()}))  # type: ignore[arg-type]
    else:
        print_passes(known(), console())


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
