"""The findings of a check as a person reads them: a verdict, a table, what could not be checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxprune.checking import SEVERITIES, Checked, CheckedModel, Rule
from onnxprune.exporting import Export
from onnxprune.plan import Skip
from onnxprune.report.marking import marked
from onnxprune.report.terminal import megabytes, print_pins, print_skips

_SHOWN = 5
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def print_checked(result: Checked, console: Console) -> None:
    """Print each model's verdict and its findings, the worst first."""
    for model in result.models:
        _print_model(model, console)
    verdict = marked("[green]passed[/]" if result.passed else "[red]failed[/]")
    limit = "never fails" if result.fail_on == "never" else f"fails on: {result.fail_on}"
    console.print(verdict.append(f" ({limit})"))


def _print_model(model: CheckedModel, console: Console) -> None:
    counts = {severity: sum(one.severity == severity for one in model.findings) for severity in SEVERITIES}
    said = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items())
    console.print(marked("[bold]{}[/]: {}", model.model, f"{said}; {model.seconds:.1f} s"), soft_wrap=True)
    if model.findings:
        table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False)
        for title in ("severity", "rule", "where", "what", "what to do"):
            table.add_column(title, overflow="fold", no_wrap=title in {"severity", "rule"})
        for (severity, rule), group in groupby(model.findings, key=lambda one: (one.severity, one.rule)):
            found = list(group)
            colour = _COLOURS[severity]
            for at, one in enumerate(found[:_SHOWN]):
                heading = (Text(severity, colour), rule) if not at else ("", "")
                table.add_row(*heading, one.where, one.what, "" if at else one.do)
            if len(found) > _SHOWN:
                table.add_row("", "", f"and {len(found) - _SHOWN} more", "", "")
        console.print(table)
    if model.export is not None:
        _print_export(model.export, console)
    reasons: dict[str, list[str]] = defaultdict(list)
    for rule, why in model.not_checked.items():
        reasons[why].append(rule)
    for why, rules in reasons.items():
        console.print(f"not checked: {', '.join(rules)}: {why}", soft_wrap=True, markup=False)


def _print_export(export: Export, console: Console) -> None:
    """What the passes will find in an export, what not and why, and what is left after."""
    seen, after = export.inspection, export.predicted
    if seen is not None:
        for kind, group in groupby(sorted(seen.sites, key=lambda site: site.kind), key=lambda site: site.kind):
            sites = list(group)
            units = "" if kind == "block" else f", {sum(site.units for site in sites)} units"
            dead = sum(seen.dead_units.get(site.id, 0) for site in sites)
            said = f"{len(sites)}{units}" + (f", {dead} of them dead" if dead else "")
            console.print(f"  {kind}: {said}", soft_wrap=True)
        print_skips([Skip(site=site.id, why=site.pinned) for site in seen.sites if site.pinned], "  stays", console)
        print_pins(seen.pinned, console)
    for one in export.pruned:
        why = f"; {one.why}" if one.why else ""
        gone = "it is unknown how many" if one.disappear is None else one.disappear
        fate = f"{one.zero} of {one.units} {one.side} zero, {gone} will disappear{why}"
        console.print(f"  pruned: {one.parameter}: {fate}", soft_wrap=True, markup=False)
    if after is not None:
        macs = "" if None in after.macs else f", MACs {after.macs[0]:,} → {after.macs[1]:,}"
        size = f"{megabytes(after.size_bytes[0])} → {megabytes(after.size_bytes[1])}"
        times = f"{after.latency_ms[0]:.3f} → {after.latency_ms[1]:.3f} ms"
        console.print(f"  after: {size}{macs}, {times} ({after.label})", soft_wrap=True, markup=False)


def print_rules(rules: Sequence[Rule], console: Console) -> None:
    """Print every rule: what it objects to and what to do."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("rule", "severity", "objects to", "what to do"):
        table.add_column(title, overflow="fold", no_wrap=title in {"severity", "rule"})
    for rule in rules:
        table.add_row(rule.id, rule.severity, rule.summary, rule.do)
    console.print(table)
