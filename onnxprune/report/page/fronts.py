"""The page of `sweep`: the front, what it leaves out, and its fastest point looked into."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnxprune.front import Point
from onnxprune.inspection import inspect
from onnxprune.replaying import apply
from onnxprune.report.page.document import Page, Section, Table
from onnxprune.report.page.looking import feeds_for, time_by_operator, where_lost
from onnxprune.report.page.pictures import front
from onnxprune.report.page.sites import site_map
from onnxprune.report.terminal import megabytes
from onnxprune.sweeping import Sweep

_HEAD = ("trial", "times as fast", "share of the file", "fidelity", "median ms", "file", "foreseen")


def sweep_page(result: Sweep, command: Sequence[str]) -> Page:
    """Of `sweep`.

    Args:
        result: what it gave back; the plans of its front are still where it put them.
        command: as the user typed it.
    """
    points, job = result.front, result.job
    fastest = points[-1]
    shares = [point.size_bytes / result.size_bytes for point in points]
    smallest = min(points, key=lambda point: (point.size_bytes, -point.fidelity))
    verdict = (
        f"{len(points)} of {len(points) + len(result.covered) + len(result.failed)} trials are worth choosing from: up "
        f"to {fastest.speedup:.2f} x the speed (fidelity {fastest.fidelity:.4f}), down to {min(shares):.3f} x the file "
        f"(fidelity {smallest.fidelity:.4f})."
    )
    latency = f"{result.original.latency_ms.median:.3f}"
    original = ["original", "1", "1", "1", latency, megabytes(result.size_bytes), ""]
    apply_text = "\n".join(
        shlex.join(["onnxprune", "apply", job.model, str(point.plan), "-o", f"{point.name}.onnx"]) for point in points
    )
    sections = [
        Section(
            title="The front",
            text=(
                "Points that no other beats in speed, size and fidelity together; in brackets 95 % intervals, and what "
                f"the search had foreseen of the speed. {_conditions(result)}"
            ),
            parts=[
                Table(head=_HEAD, rows=[original, *(_row(point, result) for point in points)]),
                front(
                    [(1.0, 1.0, "original"), *((point.speedup, point.fidelity, point.name) for point in points)],
                    "times as fast",
                    "fidelity",
                ),
                front(
                    [
                        (1.0, 1.0, "original"),
                        *((share, point.fidelity, point.name) for share, point in zip(shares, points, strict=True)),
                    ],
                    "share of the original's file",
                    "fidelity",
                ),
            ],
        ),
        _covered(result),
        _failed(result),
        *_looked_into(result, fastest),
    ]
    return Page(
        title=f"onnxprune: the front of {Path(job.model).name}",
        verdict=verdict,
        sections=[section for section in sections if section is not None],
        command=f"{shlex.join(command)}\n\n# a model of a point, without data:\n{apply_text}",
    )


def _looked_into(result: Sweep, point: Point) -> list[Section | None]:
    """The fastest point, made anew from its plan: what is left of each site, and where its time goes."""
    original = Path(result.job.model)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        made = Path(folder) / f"{point.name}.onnx"
        apply(original, str(point.plan), made)
        feeds = feeds_for(original, result.job.data, result.shape)
        found = [
            site_map(inspect(original), inspect(made)),
            time_by_operator(original, made, feeds),
            where_lost(original, made, feeds),
        ]
    return [None if one is None else one.named(f"{one.title}: {point.name}") for one in found]


def _conditions(result: Sweep) -> str:
    sizes = ", ".join(f"{name}={'x'.join(map(str, size)) or 'scalar'}" for name, size in result.shape.items())
    samples = max(point.samples for point in result.front)
    runs = result.original.speedup.runs
    return f"{runs} alternated runs on {result.job.target}, {sizes}; fidelity on {samples} held-out samples."


def _covered(result: Sweep) -> Section | None:
    if not result.covered:
        return None
    rows = [[point.name, by, *_row(point, result)[1:]] for point, by in result.covered]
    return Section(
        title="Left out",
        text="Another point is nowhere worse than these.",
        parts=[Table(head=[_HEAD[0], "covered by", *_HEAD[1:]], rows=rows)],
    )


def _failed(result: Sweep) -> Section | None:
    if not result.failed:
        return None
    rows = [[one.trial.name, one.why] for one in result.failed]
    return Section(title="Nothing came of", parts=[Table(head=("trial", "why"), rows=rows)])


def _row(point: Point, result: Sweep) -> list[str]:
    ratio = point.timed.speedup
    return [
        point.name,
        _with_interval(f"{ratio.ratio:.2f}", ratio.low, ratio.high, 2),
        f"{point.size_bytes / result.size_bytes:.3f}",
        _with_interval(f"{point.fidelity:.4f}", point.low, point.high, 4),
        f"{point.timed.latency_ms.median:.3f}",
        megabytes(point.size_bytes),
        "" if point.predicted is None else f"{point.predicted:.2f} x",
    ]


def _with_interval(text: str, low: float, high: float, digits: int) -> str:
    return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
