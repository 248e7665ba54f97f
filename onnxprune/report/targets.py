"""Targets as a person reads them: what there is, and what each says of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from onnxprune.comparison import Timings
from onnxprune.measurement import Measurement
from onnxprune.report.marking import marked
from onnxprune.targets.forecast import best
from onnxprune.targets.placement import CPU, Placement, summary
from onnxprune.targets.target import Target
from onnxprune.targets.timing import Timed

_FIGURES = {"wall": "milliseconds", "instructions": "instructions", "none": "forecast"}


def print_targets(targets: Sequence[Target], console: Console) -> None:
    """Print each target with what its figures are and, where it is missing, what sets it up."""
    for target in targets:
        missing = target.probe()
        state = "[green]ready[/]" if missing is None else "[yellow]missing[/]"
        about = f"{_FIGURES[target.latency]}: {target.about}"
        console.print(marked(f"[bold]{{}}[/]: {state}, {{}}", target.name, about), soft_wrap=True)
        if missing is not None:
            console.print(f"    {missing}", soft_wrap=True, markup=False)
    console.print(marked("[bold]provider:NAME[/]: any other provider of the installed onnxruntime"), soft_wrap=True)


def print_measurements(measurements: Sequence[Measurement], paths: Sequence[Path], console: Console) -> None:
    """Print a column a target where there are several, and where nodes run that do not run on onnxruntime's own."""
    if len(measurements) > 1:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("")
        for measured in measurements:
            table.add_column(measured.target, justify="right")
        for at, title in enumerate(("before", "after")):
            table.add_row(title, *(_cell(measured, at) for measured in measurements))
        table.add_row("times as fast", *(_ratio(measured) for measured in measurements))
        console.print(table)
    for measured in measurements:
        for line in placement_lines(measured, paths):
            console.print(f"{measured.target}: {line}", soft_wrap=True, markup=False)
        for note in measured.notes:
            console.print(f"note: {note}", soft_wrap=True, markup=False)


def _cell(measured: Measurement, at: int) -> str:
    if measured.models:
        return cost_text(measured.models[at])
    if not measured.placements:
        return "not timed"
    placed = measured.placements[at]
    return f"{placed.counts[placed.provider]} of {len(placed.nodes)} nodes"


def _ratio(measured: Measurement) -> str:
    if not measured.models:
        return "forecast" if measured.forecasts else "-"
    ratio = measured.models[1].speedup
    return f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def print_timings(result: Timings, console: Console) -> None:
    """Print figures of each model on each target, and where their nodes run."""
    for measured in result.measurements:
        if measured.models:
            console.print(_table(measured, result.paths, result.shape))
        for line in placement_lines(measured, result.paths):
            console.print(line, soft_wrap=True, markup=False)
        for note in measured.notes:
            console.print(f"note: {note}", soft_wrap=True, markup=False)


def _table(measured: Measurement, paths: Sequence[Path], shape: Mapping[str, tuple[int, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    wall = measured.latency == "wall"
    figures = ("load ms", "median ms", "p10", "p90", "times as fast as the first")
    for title in ("model", *(figures if wall else ("million instructions", "times as few as the first"))):
        table.add_column(title, justify="left" if title == "model" else "right")
    for path, timed in zip(paths, measured.models, strict=True):
        table.add_row(str(path), *(_wall(timed) if wall else _counted(timed)))
    runs = measured.models[0].speedup.runs
    sizes = ", ".join(f"{name}={'x'.join(map(str, size)) or 'scalar'}" for name, size in shape.items())
    spread = "; 95 % intervals" if wall else ""
    table.caption = f"{runs} alternated runs on {measured.target}, {sizes}{spread}"
    table.caption_justify = "left"
    return table


def _wall(timed: Timed) -> tuple[str, ...]:
    spread, ratio = timed.latency_ms, timed.speedup
    return (
        "" if math.isnan(timed.load_ms) else f"{timed.load_ms:.1f}",
        f"{spread.median:.3f}",
        f"{spread.p10:.3f}",
        f"{spread.p90:.3f}",
        f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
    )


def _counted(timed: Timed) -> tuple[str, ...]:
    return f"{timed.cost:.2f}", f"{timed.speedup.ratio:.3f}"


def cost_text(timed: Timed) -> str:
    """A run's cost in its own unit: never milliseconds where instructions were counted."""
    return f"{timed.cost:.2f} ms" if timed.instructions is None else f"{timed.cost:.1f} M instructions"


def placement_lines(measured: Measurement, paths: Sequence[Path]) -> list[str]:
    """Where nodes run, for targets of another provider than onnxruntime's own, and what they leave to it."""
    lines = []
    for at, path in enumerate(paths):
        placed = measured.placements[at] if measured.placements else None
        if placed is None or placed.provider == CPU:
            continue
        verdict = ""
        if measured.forecasts:
            one = best(measured.forecasts[at])
            shapes = "" if one.fixed else " once its shapes are fixed"
            verdict = f" (forecast, {one.form}: {one.verdict}{shapes})"
        lines.append(f"{path.name}: {summary(placed)}{verdict}")
        lines += _fallen(placed)
    return lines


def _fallen(placed: Placement) -> list[str]:
    """Operators that fell back, those with the same reason on one line."""
    by_why: dict[str, list[str]] = {}
    for each in placed.fallen:
        by_why.setdefault(each.why, []).append(each.op if each.count == 1 else f"{each.count} x {each.op}")
    return [
        f"    left to {CPU.removesuffix('ExecutionProvider')}: {', '.join(ops)}: {why}" for why, ops in by_why.items()
    ]
