"""The report as a person reads it: the verdict first, then figures, then what was done and what was left alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxprune import spec
from onnxprune.comparison import Comparison
from onnxprune.dimensions import Pin
from onnxprune.figures import OutputFigures
from onnxprune.inspection import Inspection
from onnxprune.plan import Report, Skip
from onnxprune.report.marking import SYNTHETIC, marked
from onnxprune.report.targets import cost_text, placement_lines, print_measurements
from onnxprune.report.weights import print_footprints, print_weights
from onnxprune.result import Result

_SHOWN_SITES = 3
# A terminal's height; of reasons and notes so many are shown in any case. Outputs that are told one by one.
_LINES = 24
_LEAST_LINES = 3
_SHOWN_OUTPUTS = 4


def print_result(result: Result, console: Console) -> None:
    """Print what `optimize` did, in 24 lines where its passes are few: what does not fit is counted."""
    if result.data.synthetic:
        console.print(marked(f"{SYNTHETIC}, so fidelity is a plausibility check, not accuracy."))
    console.print(marked("[bold]{}[/] — ", result.output).append(_verdict(result)), soft_wrap=True)
    for warning in result.warnings:
        console.print(marked("[yellow]warning[/]: {}", warning), soft_wrap=True)
    figures, fidelity = _figures(result), list(_fidelity(result))
    console.print(figures)
    print_measurements(result.measurements, (result.input, result.output), console)
    for line in fidelity:
        console.print(line, soft_wrap=True, markup=False)
    passes = list(_pass_lines(result.reports))
    for told in passes:
        console.print(told, soft_wrap=True)
    print_footprints(result.storage, console)
    # The verdict, the table with its head and caption, and the last line.
    shown = 1 + figures.row_count + 2 + len(fidelity) + len(passes) + 1
    shown += result.data.synthetic + len(result.warnings) + (result.storage is not None) + _measured_lines(result)
    rest = [
        *skip_lines([skip for report in result.reports for skip in report.reverted], "reverted"),
        *skip_lines([skip for report in result.reports for skip in report.skips], "left alone"),
        *(f"note: {note}" for note in result.notes),
    ]
    for line in _fitting(rest, max(_LEAST_LINES, _LINES - shown)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"replay: onnxprune apply {result.input} {result.plan} -o OUT", soft_wrap=True, markup=False)


def _measured_lines(result: Result) -> int:
    """Lines of `print_measurements`: a head and three rows where targets are several, and where nodes run."""
    paths = (result.input, result.output)
    placed = sum(len([*placement_lines(one, paths)]) + len(one.notes) for one in result.measurements)
    return placed + (4 if len(result.measurements) > 1 else 0)


def _fitting(lines: Sequence[str], most: int) -> Sequence[str]:
    """The first lines, and how many more there are."""
    if len(lines) <= most:
        return lines
    return (*lines[: most - 1], f"… and {len(lines) - most + 1} lines more: --html FILE or --json tells all")


def _verdict(result: Result) -> Text:
    size = result.after.size_bytes / result.before.size_bytes
    speed = "not timed" if result.timed is None else f"{result.timed_after.speedup.ratio:.2f} x the speed"
    score = result.fidelity.score
    text = f"{size:.3f} x the file, {speed}, {'no fidelity' if math.isnan(score) else f'fidelity {score:.4f}'}"
    return marked("{}", text) if result.goal.met else marked("{}; [red]goal missed: {}[/]", text, result.goal.reason)


def _figures(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("", "left"), ("before", "right"), ("after", "right"), ("", "left")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    before, after = result.before, result.after
    table.add_row("file", megabytes(before.size_bytes), megabytes(after.size_bytes))
    table.add_row("gzip -1", megabytes(before.gzip_bytes), megabytes(after.gzip_bytes))
    table.add_row("parameters", f"{before.params:,}", f"{after.params:,}", f"{after.nonzero:,} not zero")
    if before.macs is not None and after.macs is not None:
        table.add_row("MACs a run", f"{before.macs:,}", f"{after.macs:,}")
    if result.timed is None:
        return table
    base, timed = result.timed
    if timed.instructions is None:
        table.add_row("load", f"{base.load_ms:.1f} ms", f"{timed.load_ms:.1f} ms")
    ratio = timed.speedup
    table.add_row(
        "latency" if timed.instructions is None else "a run",
        cost_text(base),
        cost_text(timed),
        f"{ratio.ratio:.2f} x [{ratio.low:.2f}, {ratio.high:.2f}] on {result.target}, {ratio.runs} paired runs",
    )
    table.caption = f"timed on {_shape(result.shape)}"
    table.caption_justify = "left"
    return table


def _fidelity(result: Result) -> Iterable[str]:
    found = result.fidelity
    kind = "synthetic" if result.data.synthetic else "held-out"
    figure = f"fidelity {found.score:.4f} [{found.low:.4f}, {found.high:.4f}]"
    if math.isnan(found.score):
        figure = f"no fidelity ({found.why or 'no output could be compared'})"
    yield f"{figure} on {found.samples} {kind} samples"
    lines = [f"  {name}: {_output_line(figures)}" for name, figures in found.outputs.items()]
    yield from _fitting(lines, _SHOWN_OUTPUTS)


def _output_line(figures: OutputFigures) -> str:
    parts = [
        f"{label} {value:.4g}"
        for label, value in (
            ("explained", figures.explained),
            ("cosine", figures.cosine_mean),
            ("largest error", figures.max_abs),
            ("same top-1", figures.top1_agreement),
        )
        if value is not None
    ]
    return ", ".join([*parts, *filter(None, [figures.why])]) or figures.kind


def _shape(shape: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}={'x'.join(map(str, size)) or 'scalar'}" for name, size in shape.items())


def _pass_lines(reports: Sequence[Report]) -> Iterable[Text]:
    """A line a pass; those that changed nothing share one."""
    yield from (_pass_line(report) for report in reports if report.changes)
    idle = [report.pass_spec for report in reports if not report.changes]
    if idle:
        yield marked("[bold]{}[/]: nothing changed", ", ".join(idle))


def _pass_line(report: Report) -> Text:
    before = megabytes(sum(change.bytes_before for change in report.changes))
    after = megabytes(sum(change.bytes_after for change in report.changes))
    words: dict[str, int] = defaultdict(int)
    for change in report.changes:
        words[change.what.partition(":")[0]] += 1
    counted = [what if count == 1 else f"{count} x {what}" for what, count in words.items()]
    done = ", ".join(counted)
    sizes = f" ({before} of weights became {after})" if before != after else ""
    return marked("[bold]{}[/]: {}{}", report.pass_spec, done, sizes)


def skip_lines(skips: Sequence[Skip], title: str) -> list[str]:
    """One line a reason: how many sites, which, and why."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for skip in skips:
        # What differs from site to site stands behind a semicolon and goes to the site.
        why, _, own = skip.why.partition("; ")
        by_reason[why].append(f"{skip.site}: {own}" if own else skip.site)
    lines = []
    for why, sites in by_reason.items():
        shown = ", ".join(sites[:_SHOWN_SITES]) + (", …" if len(sites) > _SHOWN_SITES else "")
        lines.append(f"{title}: {len(sites)} ({shown}): {why}")
    return lines


def print_skips(skips: Sequence[Skip], title: str, console: Console) -> None:
    """Print one line a reason."""
    for line in skip_lines(skips, title):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def megabytes(size: int) -> str:
    """Bytes in the unit that a person compares."""
    if size < 10_000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1_000_000 else f"{size / 1e6:.2f} MB"


def print_comparison(result: Comparison, console: Console) -> None:
    """Print what `validate` found: the verdict, figures per output, the first tensor that diverges."""
    if result.synthetic:
        console.print(marked(f"{SYNTHETIC}; agreement on them is no accuracy."))
    found = result.fidelity
    came = f"fidelity {found.score:.4f} [{found.low:.4f}, {found.high:.4f}]"
    verdict = "[green]close enough[/]" if result.passed else "[red]too far[/]"
    if math.isnan(found.score):
        verdict, came = "[red]no verdict[/]", found.why or "no output could be compared"
    elif found.why is not None:
        came = f"{found.why}: {came}"
    came = f"{came}, floor {result.floor}, {found.samples} samples"
    console.print(marked(f"{verdict}: {{}}", came), soft_wrap=True)
    for name, figures in found.outputs.items():
        console.print(f"  {name}: {_output_line(figures)}", soft_wrap=True, markup=False)
    if result.divergence is not None:
        parted = result.divergence
        console.print(
            f"first divergence: {parted.tensor!r} ({parted.op} {parted.node!r}): relative L2 {parted.relative_l2:.3g}, "
            f"largest error {parted.max_abs:.3g}; what feeds it is within {parted.tolerance:.3g}",
            soft_wrap=True,
            markup=False,
        )


def print_inspection(result: Inspection, console: Console) -> None:
    """Print the sites of a model as a table."""
    for title, ports in (("inputs", result.inputs), ("outputs", result.outputs)):
        console.print(f"{title}: {'; '.join(map(str, ports))}", soft_wrap=True, markup=False)
    opsets = ", ".join(f"{domain} {number}" for domain, number in result.opset.items())
    work = "unknown" if result.macs is None else f"{result.macs:,}"
    console.print(f"opset: {opsets}; parameters: {result.params:,}; MACs a run: {work}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = {"site": 0, "operator": 0, "units": 1, "dead": 1, "unit size": 1, "parameters": 1, "uses": 1, "weight": 0}
    for title, number in titles.items():
        table.add_column(title, justify="right" if number else "left")
    for site in result.sites:
        units = f"{site.units} of {site.original_units}" if site.original_units > site.units else str(site.units)
        dead = str(result.dead_units.get(site.id, ""))
        last = f"stays: {site.pinned}" if site.pinned else site.weight
        row = (site.id, site.operator, units, dead, site.unit_size, f"{site.params:,}", site.shared_by, last)
        table.add_row(*map(str, row))
    console.print(table)
    print_pins(result.pinned, console)
    print_weights(result.weights, console)
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def print_pins(pins: Sequence[Pin], console: Console) -> None:
    """One line a reason: on how many axes it lies, and of which weights."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for pin in pins:
        by_reason[pin.why].append(f"{pin.tensor}[{pin.axis}]")
    for why, axes in sorted(by_reason.items(), key=lambda entry: -len(entry[1])):
        shown = ", ".join(axes[:_SHOWN_SITES]) + (", …" if len(axes) > _SHOWN_SITES else "")
        console.print(f"pinned: {len(axes)} ({shown}): {why}", soft_wrap=True, highlight=False, markup=False)


def print_passes(passes: Mapping[str, type[Any]], console: Console) -> None:
    """Print each pass with its first line of help and its options."""
    for name, kind in passes.items():
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        console.print(marked("[bold]{}[/]: {}", name, summary), soft_wrap=True)
        for option in fields(kind):
            console.print(f"    {option.name}={spec.option_text(option.default)}", markup=False)
