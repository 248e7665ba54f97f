"""`blame`: which edit cost how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, progress_of, quietly
from onnxprune.cli.options import JSON, SHAPE, TARGET


@click.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--plan", required=True, type=click.Path(path_type=Path), help="The plan that made CANDIDATE.")
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@click.option("--samples", default=128, show_default=True, help="Samples that judge at most.")
@click.option("--groups", default=48, show_default=True, help="Groups of edits that are judged at most.")
@click.option("--time/--no-time", default=True, show_default=True, help="Time the model without each group.")
@TARGET
@SHAPE
@click.option("--seed", default=0, show_default=True, help="Seed of synthetic inputs.")
@JSON
@quietly
def blame(reference: Path, candidate: Path, as_json: bool, **options: Any) -> None:
    """Say which edits of a plan cost how much fidelity, and what time they gained."""
    from onnxprune.blaming import blame as run
    from onnxprune.report.blaming import print_blame
    from onnxprune.report.json import dumps

    with progress_of(quiet=as_json) as progress:
        result = run(reference, candidate, progress=progress, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_blame(result, console())
