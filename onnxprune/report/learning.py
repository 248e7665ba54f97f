"""What training did, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxprune.recovering import Recovered
from onnxprune.report.marking import SYNTHETIC, marked
from onnxprune.training import Trained

_SHOWN = 12


def print_recovered(result: Recovered, console: Console) -> None:
    """Print fidelity before and after, what was trained, and how it went."""
    if result.data.synthetic:
        console.print(marked(f"{SYNTHETIC}; what is recovered holds on them alone."))
    before, after = result.before, result.after
    console.print(
        marked(
            "[bold]{}[/] — {}",
            result.output,
            f"fidelity {before.score:.4f} to {after.score:.4f} [{after.low:.4f}, {after.high:.4f}] "
            f"on {after.samples} held-out samples",
        ),
        soft_wrap=True,
    )
    if not result.weights:
        console.print(f"no step was better than the candidate itself (fidelity {result.steering[0]:.4f})")
    else:
        console.print(
            f"{result.weights} weights trained on {result.data.calibration} samples, step {result.best_step} of "
            f"{result.steps} kept, {result.cpu_seconds:.0f} CPU seconds",
            soft_wrap=True,
        )
        console.print(f"taught: {result.objective}", soft_wrap=True)
    if result.history:
        console.print(_history(result.history, "fidelity"))
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)


def print_trained(result: Trained, console: Console) -> None:
    """Print what was learned, the held-out loss before and after, and how it went."""
    if result.data.synthetic:
        console.print(marked(f"{SYNTHETIC}; what is learned holds on them alone."))
    zeros = 1 - result.nonzero[1] / result.numbers[1] if result.numbers[1] else 0.0
    console.print(
        marked(
            "[bold]{}[/] — {}",
            result.output,
            f"{result.method}: held-out loss {result.loss[0]:.4f} to {result.loss[1]:.4f}, "
            f"{result.numbers[0]:,} to {result.numbers[1]:,} numbers in matrices, {zeros:.1%} of them zero",
        ),
        soft_wrap=True,
    )
    console.print(f"learned: {result.task}", soft_wrap=True)
    console.print(
        f"trained on {result.data.calibration} samples, step {result.best_step} of {result.steps} kept, "
        f"{result.cpu_seconds:.0f} CPU seconds; fidelity to the model as it came {result.fidelity.score:.4f}",
        soft_wrap=True,
    )
    console.print(_history(result.history, "held_out_loss"))
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _history(history: Sequence[Mapping[str, Any]], figure: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    parts = [name for name in history[-1] if name not in {"step", figure}]
    for title in ("step", *parts, figure.replace("_", " ")):
        table.add_column(title, justify="right", no_wrap=True)
    stride = -(-len(history) // _SHOWN)
    for entry in [*history[::stride], *history[-1:]] if stride > 1 else history:
        losses = [f"{entry[name]:.4f}" if name in entry else "" for name in parts]
        table.add_row(str(entry["step"]), *losses, f"{entry[figure]:.4f}")
    return table
