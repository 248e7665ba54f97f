"""What training did, as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from onnxprune.recovering import Recovered

_SHOWN = 12


def print_recovered(result: Recovered, console: Console) -> None:
    """Print fidelity before and after, what was trained, and how it went."""
    if result.data.synthetic:
        console.print("[yellow]Synthetic inputs[/]: no --data was given; what is recovered holds on them alone.")
    before, after = result.before, result.after
    console.print(
        f"[bold]{result.output}[/] — fidelity {before.score:.4f} to {after.score:.4f} "
        f"[{after.low:.4f}, {after.high:.4f}] on {after.samples} held-out samples",
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
        console.print(_history(result))
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _history(result: Recovered) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    parts = [name for name in result.history[-1] if name not in {"step", "fidelity"}]
    for title in ("step", *parts, "fidelity"):
        table.add_column(title, justify="right", no_wrap=True)
    stride = -(-len(result.history) // _SHOWN)
    for entry in [*result.history[::stride], *result.history[-1:]] if stride > 1 else result.history:
        losses = [f"{entry[name]:.4f}" if name in entry else "" for name in parts]
        table.add_row(str(entry["step"]), *losses, f"{entry['fidelity']:.4f}")
    return table
