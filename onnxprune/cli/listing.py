"""Commands that show what there is: `inspect`, `passes`, `targets`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import click

from onnxprune.cli.command import console, page_possible, quietly
from onnxprune.cli.options import HTML, JSON, MODEL, SHAPE


@click.command()
@MODEL
@SHAPE
@HTML
@JSON
@quietly
def inspect(model: Path, shape: tuple[str, ...], as_json: bool, html: Path | None) -> None:
    """Show what is in MODEL: sites, parameters, multiply-accumulates."""
    from onnxprune.inspection import inspect as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_inspection

    page_possible(html)
    result = run(model, shape=shape)
    if html is not None:
        from onnxprune.report.page import command_of, inspection_page, write_page

        write_page(inspection_page(result, command_of(sys.argv)), html)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_inspection(result, console())


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
