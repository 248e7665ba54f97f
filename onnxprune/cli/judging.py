"""Commands that judge models: `validate`, `time`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, quietly
from onnxprune.cli.options import JSON, SHAPE, TARGETS


@click.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@click.option("--fidelity", default=0.95, show_default=True, help="Least share of the outputs' variance that survives.")
@click.option("--seed", default=0, show_default=True, help="Seed of synthetic inputs.")
@JSON
@quietly
def validate(reference: Path, candidate: Path, as_json: bool, **options: Any) -> None:
    """Compare CANDIDATE with REFERENCE: figures per output, and where it first diverges."""
    from onnxprune.comparison import validate as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_comparison

    result = run(reference, candidate, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_comparison(result, console())
    sys.exit(0 if result.passed else 1)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", help="Sample inputs; the first one is timed. Synthetic if absent.")
@SHAPE
@TARGETS
@click.option("--seconds", default=4.0, show_default=True, help="Time limit of the timed runs of each model.")
@JSON
@quietly
def time(models: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Time MODELS in alternation: percentiles, and ratios to the first with their 95 % interval."""
    from onnxprune.comparison import time as run
    from onnxprune.report.json import dumps
    from onnxprune.report.targets import print_timings

    result = run(models, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_timings(result, console())
