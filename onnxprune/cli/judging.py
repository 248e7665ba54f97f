"""Commands that judge models: `validate`, `time`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, page_possible, progress_of, quietly, say
from onnxprune.cli.options import HTML, JSON, MAX_MEMORY, SHAPE, TARGETS
from onnxprune.progress import Turn


@click.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@click.option("--fidelity", default=0.95, show_default=True, help="Least share of the outputs' variance that survives.")
@click.option("--seed", default=0, show_default=True, help="Seed of synthetic inputs.")
@MAX_MEMORY
@HTML
@JSON
@quietly
def validate(reference: Path, candidate: Path, as_json: bool, html: Path | None, **options: Any) -> None:
    """Compare CANDIDATE with REFERENCE: figures per output, and where it first diverges."""
    from onnxprune.comparison import validate as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_comparison

    page_possible(html, reference, candidate)
    with progress_of(quiet=as_json) as progress:
        progress("run both on the samples")
        result = run(reference, candidate, **options)
        if html is not None:
            from onnxprune.report.page import command_of, comparison_page, write_page

            progress("draw the page")
            page = comparison_page(result, options["data"], command_of(sys.argv), options["max_memory"])
            write_page(page, html)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_comparison(result, console())
    sys.exit(0 if result.passed else 1)


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", help="Sample inputs; the first one is timed. Synthetic if absent.")
@SHAPE
@TARGETS
@click.option("--seconds", default=4.0, show_default=True, help="Time limit of the timed runs of each model.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Write a folder to time MODELS on a device instead.")
@click.option("--import", "folder", type=click.Path(path_type=Path), help="Read such a folder's results instead.")
@HTML
@JSON
@quietly
def time(
    models: tuple[Path, ...],
    bundle: Path | None,
    folder: Path | None,
    as_json: bool,
    html: Path | None,
    **options: Any,
) -> None:
    """Time MODELS in alternation: percentiles, and ratios to the first with their 95 % interval."""
    from onnxprune.comparison import time as run
    from onnxprune.importing import import_results
    from onnxprune.report.json import dumps
    from onnxprune.report.targets import print_timings

    if folder is None and not models:
        raise click.UsageError("Missing argument 'MODELS...'.")
    if folder is not None and (models or bundle is not None):
        raise click.UsageError("--import takes its models from the folder: give neither MODELS nor --bundle.")
    page_possible(html, *models)
    if bundle is not None:
        _write_bundle(models, bundle, as_json=as_json, data=options["data"], shape=options["shape"])
        return
    with progress_of(quiet=as_json) as progress:
        progress(Turn("time in alternation", seconds=options["seconds"] * len(models) * len(options["target"])))
        result = run(models, **options) if folder is None else import_results(folder)
        if html is not None:
            from onnxprune.report.page import command_of, timings_page, write_page

            progress("draw the page")
            write_page(timings_page(result, options["data"], command_of(sys.argv), here=folder is None), html)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_timings(result, console())


def _write_bundle(models: tuple[Path, ...], folder: Path, *, as_json: bool, **options: Any) -> None:
    from onnxprune.bundling import bundle as write
    from onnxprune.report.json import dumps

    written = write(models, folder, **options)
    if as_json:
        click.echo(dumps(written.to_json()))
    else:
        say(f"{written.folder}: {len(written.models)} models, {written.size_bytes / 1e6:.1f} MB; see README.txt in it")
