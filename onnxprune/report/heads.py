"""Attention heads as a person reads them: a table, and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxprune.errors import MissingDependencyError
from onnxprune.files import atomic
from onnxprune.heads import Head, Heads
from onnxprune.report.marking import SYNTHETIC, marked

_LETTERS = {"confident": "C", "positional": "P", "rare-token": "R"}


def print_heads(result: Heads, console: Console) -> None:
    """Print a line a head: its role, the shares behind it, its importance by every score."""
    if result.synthetic:
        console.print(marked(f"{SYNTHETIC}; roles on them say nothing."))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("head", "role"):
        table.add_column(title, no_wrap=True)
    for title in ("positional", "rare", "confidence", *result.scores):
        table.add_column(title, justify="right", no_wrap=True)
    lowest = _lowest(result)
    for head in result.heads:
        marks = [_mark(head, name, lowest) for name in result.scores]
        table.add_row(f"{head.site}/{head.unit}", head.role.name, *_shares(head), *marks)
    console.print(table)
    console.print(
        f"on {result.samples} samples; importance: share of the site, * goes first; positional: share of tokens that "
        "look most at their left or right neighbour",
        soft_wrap=True,
    )
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def _shares(head: Head) -> list[str]:
    role = head.role
    offset = "" if role.offset is None else f" ({role.offset:+d})"
    positional = "" if role.positional is None else f"{role.positional:.2f}{offset}"
    return [positional, *("" if value is None else f"{value:.2f}" for value in (role.rare, role.confidence))]


def _lowest(result: Heads) -> dict[tuple[str, str], int]:
    """Of each site and score the unit that goes first."""
    found: dict[tuple[str, str], Head] = {}
    for head in result.heads:
        for name in result.scores:
            held = found.get((head.site, name))
            if held is None or head.importance[name] < held.importance[name]:
                found[head.site, name] = head
    return {key: head.unit for key, head in found.items()}


def _mark(head: Head, name: str, lowest: dict[tuple[str, str], int]) -> str:
    return f"{head.importance[name]:.3f}{'*' if lowest[head.site, name] == head.unit else ' '}"


def draw_heads(result: Heads, path: Path) -> None:
    """Write a picture: one panel a score, sites by heads, with the letter of each role.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OutputError: the place cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "--picture needs matplotlib, which is not installed. Run: pip install 'onnxprune[report]'."
        ) from None
    sites = list(dict.fromkeys(head.site for head in result.heads))
    most = max((head.unit + 1 for head in result.heads), default=1)
    columns = min(3, max(1, len(result.scores)))
    rows = -(-max(1, len(result.scores)) // columns)
    figure = Figure(figsize=(1.2 + columns * (0.35 * most + 1.2), 0.6 + rows * (0.35 * len(sites) + 1.0)), dpi=120)
    FigureCanvasAgg(figure)
    for at, name in enumerate(result.scores):
        axes = figure.add_subplot(rows, columns, at + 1)
        grid = np.full((len(sites), most), np.nan)
        for head in result.heads:
            grid[sites.index(head.site), head.unit] = head.importance[name]
            letter = _LETTERS.get(head.role.name, "")
            axes.text(head.unit, sites.index(head.site), letter, ha="center", va="center", fontsize=8)
        axes.imshow(grid, cmap="YlGn", aspect="auto", vmin=0)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(sites)), sites if at % columns == 0 else [""] * len(sites), fontsize=7)
        axes.set_xticks(range(most), [str(unit) for unit in range(most)], fontsize=7)
    figure.suptitle("importance of heads; P positional, R rare-token, C confident", fontsize=9)
    figure.tight_layout()
    with atomic(path) as file:
        figure.savefig(file, format="png")
