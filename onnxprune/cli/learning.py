"""`recover` and `train`: training a finished candidate towards its original, and by methods that make it smaller."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, progress_of, quietly
from onnxprune.cli.options import JSON, MODEL


@click.command()
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--teacher", required=True, type=click.Path(path_type=Path), help="The original of CANDIDATE.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: NAME.recovered.onnx beside CANDIDATE.")
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. No labels are used.")
@click.option("--steps", type=int, help="Steps of the optimizer.  [default: 400]")
@click.option("--batch", type=int, help="Samples of a step.  [default: 32]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: 0.0005]")
@click.option("--rank", type=int, help="Change matrices by products of this rank alone, merged at the end.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other option of the pass `recover`.")
@click.option("--seed", default=0, show_default=True, help="Seed of the order of samples.")
@click.option("--mask", metavar="NAME", help="The input that is 0 at padded tokens; found by its name by default.")
@click.option("--fresh", "--no-resume", "fresh", is_flag=True, help="Begin anew where an earlier run was interrupted.")
@click.option("--allow-synthetic", is_flag=True, help="Train on made-up inputs.")
@JSON
@quietly
def recover(candidate: Path, as_json: bool, settings: tuple[str, ...], **options: Any) -> None:
    """Train CANDIDATE towards its original without labels; what was cut, zeroed or quantized stays so."""
    from onnxprune import spec
    from onnxprune.passes import Recover, known
    from onnxprune.recovering import recover as run
    from onnxprune.report.json import dumps
    from onnxprune.report.learning import print_recovered

    named = {field.name for field in fields(Recover)} & options.keys()
    given = [f"{name}={options.pop(name)}" for name in sorted(named) if options[name] is not None or options.pop(name)]
    one = spec.parse(":".join(filter(None, ("recover", ",".join([*given, *settings])))), known())
    with progress_of(quiet=as_json) as progress:
        result = run(candidate, progress=progress, settings=one, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_recovered(result, console())


@click.command()
@MODEL
@click.option("--method", required=True, help="How, see `onnxprune methods`.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: NAME.trained.onnx beside MODEL.")
@click.option("--data", help="Samples to train on: an .npz, a folder of .npz files, or module:function.")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the method or of training."
)
@click.option("--steps", type=int, help="Steps of the optimizer.  [default: the method's]")
@click.option("--batch", type=int, help="Samples of a step.  [default: the method's]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: the method's]")
@click.option("--loss", help="What is learned: labels, next-token or divergence.  [default: labels where they fit]")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--mask", metavar="NAME", help="The input that is 0 at padded tokens; found by its name by default.")
@click.option("--fresh", "--no-resume", "fresh", is_flag=True, help="Begin anew where an earlier run was interrupted.")
@click.option("--allow-synthetic", is_flag=True, help="Train on made-up inputs.")
@JSON
@quietly
def train(model: Path, method: str, as_json: bool, options: tuple[str, ...], **rest: Any) -> None:
    """Train MODEL by a method that makes it smaller: zeros, dead units or pairs, which the passes then cut."""
    from onnxprune.report.json import dumps
    from onnxprune.report.learning import print_trained
    from onnxprune.training import train as run

    short = {name: rest.pop(name) for name in ("steps", "batch", "lr")}
    given = [f"{name}={value}" for name, value in short.items() if value is not None]
    with progress_of(quiet=as_json) as progress:
        result = run(model, method, options=[*given, *options], progress=progress, **rest)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_trained(result, console())


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("masks", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the masked model goes.")
@quietly
def mask(base: Path, masks: Path, output: Path) -> None:
    """Write BASE with a task's MASKS applied, which `train --method mask-only` learned on it."""
    from onnxprune.bitmasks import mask as run

    count = run(base, masks, output)
    click.echo(f"{output}: {count} weights masked")
