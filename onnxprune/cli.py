"""The command line: parse, call the library, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from onnxprune.errors import OnnxPruneError

MODEL = click.argument("model", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
SHAPE = click.option(
    "--shape", multiple=True, metavar="NAME=1x128", help="Sizes of an input for timing; the first sample's by default."
)
TARGET = click.option("--target", default="cpu:1", show_default=True, help="Where to time: cpu:THREADS.")


_PIPE_WIDTH = 140


class _Group(click.Group):
    """Errors of the user's input end in one line and exit code 2, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OnnxPruneError as error:
            click.echo(f"onnxprune: {error}", err=True)
            ctx.exit(2)
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; there is nobody left to tell.
            sys.stderr.close()
            ctx.exit(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnxprune")
def main() -> None:
    """Make exported ONNX models smaller and faster, with proof."""


def _quietly(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        import onnxruntime

        # Its warnings are about graphs that we judge ourselves.
        onnxruntime.set_default_logger_severity(4)
        return command(*args, **kwargs)

    return run


@main.command()
@MODEL
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: NAME.optimized.onnx beside MODEL.")
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@click.option("--pass", "passes", multiple=True, metavar="SPEC", help="Run these passes only, in this order.")
@click.option("--fidelity", help="Least share of the outputs' variance that must survive, or off.  [default: 0.95]")
@click.option("--loss", help="What edits are scored by: next-token, labels (default if --data has some) or divergence.")
@TARGET
@SHAPE
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--mask", metavar="NAME", help="The input that is 0 at padded tokens; found by its name by default.")
@click.option("--allow-synthetic", is_flag=True, help="Let passes calibrate on synthetic inputs.")
@JSON
@_quietly
def optimize(model: Path, as_json: bool, fidelity: str | None, **options: Any) -> None:
    """Give back a smaller, faster MODEL, and say how far its outputs moved."""
    from onnxprune.pipeline import optimize as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_result

    with _progress(quiet=as_json) as progress:
        result = run(model, fidelity=_floor(fidelity), progress=progress, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_result(result, _console())
    sys.exit(0 if result.goal.met else 1)


@main.command()
@MODEL
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the result goes.")
@click.option("--force", is_flag=True, help="Apply to another model than the plan was made for.")
@_quietly
def apply(model: Path, plan: Path, output: Path, force: bool) -> None:
    """Replay PLAN on MODEL: no data is read, the result has the same bytes."""
    from onnxprune.pipeline import apply as run

    run(model, plan, output, force=force)
    click.echo(f"{output}: written")


@main.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@click.option("--fidelity", default=0.95, show_default=True, help="Least share of the outputs' variance that survives.")
@click.option("--seed", default=0, show_default=True, help="Seed of synthetic inputs.")
@JSON
@_quietly
def validate(reference: Path, candidate: Path, as_json: bool, **options: Any) -> None:
    """Compare CANDIDATE with REFERENCE: figures per output, and where it first diverges."""
    from onnxprune.comparison import validate as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_comparison

    result = run(reference, candidate, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_comparison(result, _console())
    sys.exit(0 if result.passed else 1)


@main.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", help="Sample inputs; the first one is timed. Synthetic if absent.")
@SHAPE
@TARGET
@click.option("--seconds", default=4.0, show_default=True, help="Time limit of the timed runs of each model.")
@JSON
@_quietly
def time(models: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Time MODELS in alternation: percentiles, and ratios to the first with their 95 % interval."""
    from onnxprune.comparison import time as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_timings

    result = run(models, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_timings(result, _console())


@main.command()
@MODEL
@SHAPE
@JSON
@_quietly
def inspect(model: Path, shape: tuple[str, ...], as_json: bool) -> None:
    """Show what is in MODEL: sites, parameters, multiply-accumulates."""
    from onnxprune.inspection import inspect as run
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_inspection

    result = run(model, shape=shape)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_inspection(result, _console())


@main.command()
@JSON
def passes(as_json: bool) -> None:
    """List the passes with their options and defaults."""
    from onnxprune.passes import known
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_passes

    if as_json:
        click.echo(dumps({n: {f.name: f.default for f in fields(kind)} for n, kind in known().items()}))  # type: ignore[arg-type]
    else:
        print_passes(known(), _console())


@main.command()
@JSON
def targets(as_json: bool) -> None:
    """List the targets that can run and time a model."""
    from onnxprune.report.json import dumps
    from onnxprune.targets.cpu import CpuTarget

    click.echo(dumps([CpuTarget.known]) if as_json else f"{CpuTarget.known}  onnxruntime on this machine's processor")


def _floor(text: str | None) -> Any:
    from onnxprune.errors import OptionError

    if text is None or text == "off":
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--fidelity must be a share such as 0.95, or off, got {text!r}.") from None


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    # A pipe or a file has no width of its own: tables must not be cut there.
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _progress(*, quiet: bool) -> Any:
    from onnxprune.report.progress import stages

    return stages(quiet=quiet)


if __name__ == "__main__":
    main()
