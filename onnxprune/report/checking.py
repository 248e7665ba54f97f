"""The findings of a check as a person reads them: a verdict, a table, what could not be checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxprune.checking import SEVERITIES, Checked, CheckedModel, Rule

_SHOWN = 5
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


def print_checked(result: Checked, console: Console) -> None:
    """Print each model's verdict and its findings, the worst first."""
    for model in result.models:
        _print_model(model, console)
    verdict = "[green]passed[/]" if result.passed else "[red]failed[/]"
    limit = "never fails" if result.fail_on == "never" else f"fails on: {result.fail_on}"
    console.print(f"{verdict} ({limit})")


def _print_model(model: CheckedModel, console: Console) -> None:
    counts = {severity: sum(one.severity == severity for one in model.findings) for severity in SEVERITIES}
    said = ", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items())
    console.print(f"[bold]{escape(model.model)}[/]: {said}; {model.seconds:.1f} s", soft_wrap=True)
    if model.findings:
        table = Table(box=None, pad_edge=False, header_style="bold", show_lines=False)
        for title in ("severity", "rule", "where", "what", "what to do"):
            table.add_column(title, overflow="fold", no_wrap=title in {"severity", "rule"})
        for (severity, rule), group in groupby(model.findings, key=lambda one: (one.severity, one.rule)):
            found = list(group)
            colour = _COLOURS[severity]
            for at, one in enumerate(found[:_SHOWN]):
                heading = (f"[{colour}]{severity}[/]", rule) if not at else ("", "")
                table.add_row(*heading, escape(one.where), escape(one.what), "" if at else escape(one.do))
            if len(found) > _SHOWN:
                table.add_row("", "", f"and {len(found) - _SHOWN} more", "", "")
        console.print(table)
    reasons: dict[str, list[str]] = defaultdict(list)
    for rule, why in model.not_checked.items():
        reasons[why].append(rule)
    for why, rules in reasons.items():
        console.print(f"not checked: {', '.join(rules)}: {why}", soft_wrap=True, markup=False)


def print_rules(rules: Sequence[Rule], console: Console) -> None:
    """Print every rule: what it objects to and what to do."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("rule", "severity", "objects to", "what to do"):
        table.add_column(title, overflow="fold", no_wrap=title in {"severity", "rule"})
    for rule in rules:
        table.add_row(rule.id, rule.severity, escape(rule.summary), escape(rule.do))
    console.print(table)
