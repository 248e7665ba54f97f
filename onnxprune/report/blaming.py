"""Shares of a loss as a person reads them."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from onnxprune.attribution import Share, label
from onnxprune.blaming import Blame
from onnxprune.report.marking import SYNTHETIC, marked

_SHOWN = 24


def print_blame(result: Blame, console: Console) -> None:
    """Print the costliest groups: what leaving each out regains, what it costs alone, what time it gains."""
    if result.synthetic:
        console.print(marked(f"{SYNTHETIC}; shares on them are a plausibility check."))
    found = result.fidelity
    speed = f", {result.timed[1].speedup.ratio:.2f} x the speed on {result.target}" if result.timed else ""
    console.print(
        marked(
            "[bold]{}[/] — {}",
            result.candidate,
            f"fidelity {found.score:.4f} [{found.low:.4f}, {found.high:.4f}] on {found.samples} samples{speed}",
        ),
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("edits", "left"), ("regained without", "right"), ("lost alone", "right"),
                           ("ms gained", "right"), ("with them go", "right")):  # fmt: skip
        table.add_column(title, justify=justify, no_wrap=justify == "right")  # type: ignore[arg-type]
    for charge in result.charges[:_SHOWN]:
        part = charge.part
        table.add_row(
            label(part.edits),
            _share(part.regained, "+.4f"),
            _share(part.lost, "+.4f"),
            "" if charge.gained_ms is None else _share(charge.gained_ms, "+.3f"),
            str(len(part.along)) if part.along else "",
        )
    console.print(table)
    if len(result.charges) > _SHOWN:
        console.print(f"and {len(result.charges) - _SHOWN} more that cost less; --json lists all")
    for charge in result.charges:
        if charge.part.why:
            console.print(f"{label(charge.part.edits)}: {charge.part.why}", soft_wrap=True, markup=False)
    console.print(
        f"the whole loss is {result.loss:.4f}; left out one group at a time they regain {result.regained:.4f} in sum, "
        f"alone on the original they cost {result.lost_alone:.4f} in sum: what they do to each other is the rest",
        soft_wrap=True,
    )


def _share(share: Share, form: str) -> str:
    if math.isnan(share.amount):
        return "?"
    interval = "" if math.isnan(share.low) else f" [{share.low:{form}}, {share.high:{form}}]"
    return f"{share.amount:{form}}{interval}"
