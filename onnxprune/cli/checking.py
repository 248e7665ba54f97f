"""The command that judges models before they ship: `check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxprune.cli.command import console, progress_of, quietly
from onnxprune.cli.options import JSON, SHAPE


@click.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option("--max-size", metavar="SIZE", help="Largest size of the file and its data files: 20MB, 512KiB, 1000000.")
@click.option("--max-latency", multiple=True, metavar="TARGET=MS", help="Largest median run, e.g. cpu:1=12.5.")
@click.option("--max-load", type=float, metavar="MS", help="Largest median time to make a session.")
@click.option("--min-fidelity", type=float, metavar="SHARE", help="Least agreement with --reference, at most 1.")
@click.option(
    "--min-metric", multiple=True, metavar="METRIC=VALUE", help="Least labels=VALUE or module:function=VALUE."
)
@click.option("--must-run", multiple=True, metavar="TARGET[=SHARE]", help="A provider that must take nodes, see docs.")
@click.option("--portable", is_flag=True, help="It must answer alike on x64 processors without VNNI.")
@click.option("--reference", type=click.Path(path_type=Path), help="The model that is right; MODEL must not be slower.")
@click.option("--data", help="Sample inputs: an .npz, a folder of .npz files, or module:function. Synthetic if absent.")
@SHAPE
@click.option("--seconds", default=1.0, show_default=True, help="Time limit of the timed runs of each model.")
@click.option("--seed", default=0, show_default=True, help="Seed of synthetic inputs.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Leave a rule out; see --list.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "note", "never"]),
    default="warning",
    show_default=True,
    help="The mildest severity that makes the exit code 1.",
)
@click.option(
    "--sarif", type=click.Path(path_type=Path), metavar="FILE", help="Write the findings as SARIF 2.1.0, too."
)
@click.option("--list", "listed", is_flag=True, help="List the rules and stop.")
@JSON
@quietly
def check(models: tuple[str, ...], as_json: bool, sarif: Path | None, listed: bool, **options: Any) -> None:
    """Look at MODELs before they ship: budgets, operators, storage, numbers; exit code 1 where something is found.

    A MODEL is an .onnx file, or package.module:factory of a torch module, which is exported and looked into.
    """
    from onnxprune.checking import RULES, Budgets, parse_latencies, parse_metrics, parse_providers
    from onnxprune.checking import check as run
    from onnxprune.errors import OptionError
    from onnxprune.report.checking import print_checked, print_rules
    from onnxprune.report.json import dumps
    from onnxprune.report.sarif import write_sarif
    from onnxprune.sizes import parse_size

    if listed:
        click.echo(dumps([rule.to_json() for rule in RULES])) if as_json else print_rules(RULES, console())
        return
    if not models:
        raise OptionError("check needs a model. Name an .onnx file, or --list for the rules.")
    ignore, fail_on, size = options.pop("ignore"), options.pop("fail_on"), options.pop("max_size")
    budgets = Budgets(
        max_size=None if size is None else parse_size("--max-size", size),
        max_latency_ms=parse_latencies(options.pop("max_latency")),
        min_metric=parse_metrics(options.pop("min_metric")),
        must_run=parse_providers(options.pop("must_run")),
        max_load_ms=options.pop("max_load"),
        **options,
    )
    with progress_of(quiet=as_json) as progress:
        progress(f"look into {', '.join(models)}")
        result = run(models, budgets=budgets, ignore=ignore, fail_on=fail_on)
    if sarif is not None:
        write_sarif(result, RULES, sarif)
    if as_json:
        click.echo(dumps(result.to_json()))
    else:
        print_checked(result, console())
    sys.exit(0 if result.passed else 1)
