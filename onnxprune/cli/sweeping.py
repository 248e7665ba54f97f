"""`sweep`: the front of speed, size and fidelity."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, page_possible, progress_of, quietly
from onnxprune.cli.options import HTML, JSON, MODEL, SHAPE, TARGET, WORKERS, factor


@click.command()
@MODEL
@click.option("--data", required=True, help="Sample inputs: an .npz, a folder of .npz files, or module:function.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the plans.  [default: NAME.sweep]")
@click.option("--speedup", multiple=True, metavar="2", help="Search for this speed-up; may be given several times.")
@click.option("--size", multiple=True, metavar="0.2x|20MB", help="Search for this size; may be given several times.")
@click.option(
    "--recipe", multiple=True, metavar="'SPEC SPEC'", help="Try these passes together; may be given several times."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the front, too: an .svg or .png file.")
@click.option("--loss", help="What edits are scored by: next-token, labels (default if --data has some) or divergence.")
@TARGET
@SHAPE
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--mask", metavar="NAME", help="The input that is 0 at padded tokens; found by its name by default.")
@click.option("--fresh", "--no-resume", "fresh", is_flag=True, help="Take nothing over from an earlier run.")
@click.option("--scheduler", metavar="ADDRESS|local", help="Do trials on a Dask cluster; local begins one here.")
@WORKERS
@HTML
@JSON
@quietly
def sweep(
    model: Path, as_json: bool, html: Path | None, plot: Path | None, speedup: tuple[str, ...], **options: Any
) -> None:
    """Try several speeds and sizes of MODEL; keep those that no other beats, each as a plan."""
    from onnxprune.report.json import dumps
    from onnxprune.report.plotting import check_plot, draw
    from onnxprune.report.sweeping import print_sweep
    from onnxprune.sweeping import sweep as run

    page_possible(html, model)
    if plot is not None:
        check_plot(plot)
    wanted = [number for one in speedup if (number := factor(one)) is not None]
    with progress_of(quiet=as_json) as progress:
        result = run(model, speedup=wanted, progress=progress, **options)
        if html is not None:
            from onnxprune.report.page import command_of, sweep_page, write_page

            progress("draw the page")
            write_page(sweep_page(result, command_of(sys.argv)), html)
    if plot is not None:
        draw(result, plot)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_sweep(result, console())
