"""Commands that write a model: `optimize`, `apply`, `deploy`, `unpack`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, page_possible, progress_of, quietly, say
from onnxprune.cli.options import HTML, JSON, MAX_MEMORY, MODEL, SHAPE, TARGETS, WORKERS, factor, floor


@click.command()
@MODEL
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: NAME.optimized.onnx beside MODEL.")
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@click.option("--pass", "passes", multiple=True, metavar="SPEC", help="Run these passes only, in this order.")
@click.option("--recipe", metavar="NAME", help="Run the passes of a published method, see `onnxprune methods`.")
@click.option("--fidelity", help="Least share of the outputs' variance that must survive, or off.  [default: 0.95]")
@click.option("--speedup", metavar="2", help="Times as fast as MODEL, at least: a plan is searched for.")
@click.option("--latency", metavar="5ms", help="Of one run on the target, at most.")
@click.option("--size", metavar="0.2x|20MB", help="Of the file, at most.")
@click.option("--metric", metavar="module:function|labels", help="What must hold: of outputs and samples, or accuracy.")
@click.option("--max-drop", type=float, help="By how much the metric may fall below MODEL's.")
@click.option("--best", is_flag=True, help="As fast as the floors under the fidelity and the metric allow.")
@click.option("--budget", type=float, metavar="MINUTES", help="After which a search begins nothing new.")
@click.option("--loss", help="What edits are scored by: next-token, labels (default if --data has some) or divergence.")
@TARGETS
@SHAPE
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--mask", metavar="NAME", help="The input that is 0 at padded tokens; found by its name by default.")
@click.option("--recover", type=int, metavar="STEPS", help="Distil what was cut for so many steps; needs torch.")
@click.option("--gradual", default=1, show_default=True, help="Rounds of cutting and recovering.")
@click.option("--recover-data", metavar="DATA", help="Sample inputs to train on; --data by default.")
@click.option("--fixed-shapes", multiple=True, metavar="NAME=1x128", help="Write the result with static inputs, too.")
@click.option("--ort", is_flag=True, help="Write the result in the ORT format, too, and the operators it needs.")
@click.option("--portable", is_flag=True, help="7-bit weights where x64 without VNNI would cut sums of products.")
@click.option("--fresh", "--no-resume", "fresh", is_flag=True, help="Take nothing over from an earlier run.")
@click.option("--allow-synthetic", is_flag=True, help="Let passes calibrate on synthetic inputs.")
@click.option(
    "--scheduler", metavar="ADDRESS|local", help="Have layers solved on a Dask cluster; local begins one here."
)
@WORKERS
@MAX_MEMORY
@HTML
@JSON
@quietly
def optimize(
    model: Path, as_json: bool, html: Path | None, fidelity: str | None, speedup: str | None, **options: Any
) -> None:
    """Give back a smaller, faster MODEL, and say how far its outputs moved."""
    from onnxprune.pipeline import optimize as run
    from onnxprune.report.deployment import print_forms
    from onnxprune.report.json import dumps
    from onnxprune.report.terminal import print_result

    page_possible(html, model, options["output"])
    with progress_of(quiet=as_json) as progress:
        result = run(model, fidelity=floor(fidelity), speedup=factor(speedup), progress=progress, **options)
        if html is not None:
            from onnxprune.report.page import command_of, result_page, write_page

            progress("draw the page")
            page = result_page(result, options["data"], command_of(sys.argv), options["max_memory"])
            write_page(page, html)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_result(result, console())
        print_forms(result.forms, console())
    sys.exit(0 if result.goal.met else 1)


@click.command()
@MODEL
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the result goes.")
@click.option("--force", is_flag=True, help="Apply to another model than the plan was made for.")
@MAX_MEMORY
@JSON
@quietly
def apply(model: Path, plan: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Replay PLAN on MODEL: no data is read, the result has the same bytes."""
    from onnxprune.model import digest, size_on_disk
    from onnxprune.pipeline import apply as run
    from onnxprune.report.json import dumps

    with progress_of(quiet=as_json) as progress:
        progress("replay the plan")
        run(model, plan, output, **options)
    written = {"input": str(model), "plan": str(plan), "output": str(output)}
    if as_json:
        click.echo(dumps({**written, "size_bytes": size_on_disk(output), "sha256": digest(output)}))
    else:
        say(f"{output}: written")


@click.command()
@MODEL
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Stem of what is written; MODEL's own by default."
)
@click.option("--fixed-shapes", multiple=True, metavar="NAME=1x128", help="Write STEM.fixed.onnx with static inputs.")
@click.option("--ort", is_flag=True, help="Write STEM.ort and STEM.required_operators.config.")
@click.option("--data", help="Sample inputs to prove the forms on; synthetic if absent.")
@click.option("--seed", default=0, show_default=True, help="Seed of synthetic inputs.")
@JSON
@quietly
def deploy(model: Path, as_json: bool, **options: Any) -> None:
    """Write other forms of a finished MODEL, each proven to answer as it does."""
    from onnxprune.deployment import deploy as run
    from onnxprune.report.deployment import print_forms
    from onnxprune.report.json import dumps

    with progress_of(quiet=as_json) as progress:
        progress("write the forms, and run each")
        result = run(model, **options)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_forms(result.forms, console())


@click.command()
@MODEL
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where the result goes.")
@quietly
def unpack(model: Path, output: Path) -> None:
    """Write MODEL with dense weights, for tools that cannot read packed ones."""
    from onnxprune.unpacking import unpack as run

    with progress_of(quiet=False) as progress:
        progress("unpack")
        count = run(model, output)
    say(f"{output}: written, {count} weights unpacked")
