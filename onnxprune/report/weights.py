"""How weights are stored, as a person reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from onnxprune.footprint import Footprints
from onnxprune.storage import Stored

# Smaller ones are biases and norms: their sum is told, not each.
_LISTED_NUMBERS = 1024


def print_weights(weights: Sequence[Stored], console: Console) -> None:
    """Print each weight that is no plain dense float, and what all of them take by form."""
    own = [one for one in weights if one.numbers >= _LISTED_NUMBERS and not _plain(one)]
    if own:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("weight", "stored as", "of", "shape", "zeros", "bits a number"):
            table.add_column(title, justify="right" if title in {"zeros", "bits a number"} else "left")
        for one in own:
            shape = "x".join(map(str, one.shape))
            table.add_row(one.name, one.form, one.dtype, shape, f"{one.sparsity:.1%}", f"{one.bits:.2f}")
        console.print(table)
    by_form: dict[str, list[Stored]] = defaultdict(list)
    for one in weights:
        by_form[f"{one.form} {one.dtype}"].append(one)
    for form, alike in by_form.items():
        total, held = sum(one.numbers for one in alike), sum(one.stored_bytes for one in alike)
        zeros = sum(one.numbers - one.nonzero for one in alike) / max(total, 1)
        console.print(
            f"stored: {len(alike)} x {form}: {total:,} numbers, {zeros:.1%} zeros, {8 * held / max(total, 1):.2f} bits",
            soft_wrap=True,
            markup=False,
        )


def print_footprints(storage: Footprints | None, console: Console) -> None:
    """Print what packing saves, and what it costs at load."""
    if storage is None:
        return
    dense, packed = storage.dense, storage.packed
    parts = [
        f"file {_megabytes(packed.size_bytes)} (dense {_megabytes(dense.size_bytes)})",
        f"gzip {_megabytes(packed.gzip_bytes)} ({_megabytes(dense.gzip_bytes)})",
    ]
    if packed.load_ms is not None and dense.load_ms is not None:
        parts.append(f"load {packed.load_ms:.0f} ms ({dense.load_ms:.0f} ms)")
    if packed.resident_bytes is not None and dense.resident_bytes is not None:
        parts.append(f"memory {_megabytes(packed.resident_bytes)} ({_megabytes(dense.resident_bytes)})")
    if packed.peak_bytes is not None and dense.peak_bytes is not None:
        parts.append(f"at most while loading {_megabytes(packed.peak_bytes)} ({_megabytes(dense.peak_bytes)})")
    console.print(f"packed: {', '.join(parts)}", soft_wrap=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _plain(one: Stored) -> bool:
    return one.form == "dense" and one.dtype.startswith("float") and one.sparsity < 0.01
