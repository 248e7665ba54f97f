"""A front of results as a person reads it."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from onnxprune.front import Point
from onnxprune.report.terminal import megabytes
from onnxprune.sweeping import Sweep


def print_sweep(result: Sweep, console: Console) -> None:
    """Print the front, what it leaves out and why, and how to make a model of one of its points."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ("trial", "times as fast", "asked", "median ms", "file", "share", "fidelity")
    for title in titles:
        table.add_column(title, justify="left" if title == "trial" else "right", no_wrap=True)
    table.add_row(
        "original", "1", "", f"{result.original.latency_ms.median:.3f}", megabytes(result.size_bytes), "1", "1"
    )
    for point in result.front:
        table.add_row(*_row(point, result.size_bytes))
    runs = result.original.speedup.runs
    samples = max(point.samples for point in result.front)
    sizes = ", ".join(f"{name}={'x'.join(map(str, size)) or 'scalar'}" for name, size in result.shape.items())
    table.caption = f"{runs} alternated runs on {result.job.target}, {sizes}; fidelity on {samples} held-out samples"
    table.caption_justify = "left"
    console.print(table)
    for point, by in result.covered:
        row = _row(point, result.size_bytes)
        console.print(
            f"left out: {point.name} ({row[1]} x, {row[4]}, fidelity {point.fidelity:.4f}): {by} is nowhere worse",
            soft_wrap=True,
        )
    for one in result.failed:
        console.print(f"nothing came of {one.trial.name}: {one.why}", soft_wrap=True, markup=False)
    plan = result.front[-1].plan
    console.print(f"a model of a point: onnxprune apply {result.job.model} {plan} -o OUT", soft_wrap=True)


def _row(point: Point, size_bytes: int) -> tuple[str, ...]:
    ratio = point.timed.speedup
    interval = "" if math.isnan(ratio.low) else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    asked = point.asked.get("speedup")
    bounds = "" if math.isnan(point.low) else f" [{point.low:.4f}, {point.high:.4f}]"
    return (
        point.name,
        f"{ratio.ratio:.2f}{interval}",
        "" if asked is None else f"{asked:g}",
        f"{point.timed.latency_ms.median:.3f}",
        megabytes(point.size_bytes),
        f"{point.size_bytes / size_bytes:.3f}",
        f"{point.fidelity:.4f}{bounds}",
    )
