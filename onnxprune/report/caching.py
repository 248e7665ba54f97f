"""What is in the cache, for a person or a machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxprune.report.terminal import megabytes
from onnxprune.store import Entry, Store

_UNITS_S = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def cache_to_json(store: Store, cleared: tuple[int, int] | None) -> dict[str, Any]:
    """By name; the keys are stable."""
    kinds = _by_kind(store)
    return {
        "folder": None if store.folder is None else str(store.folder),
        "limit_bytes": store.limit_bytes,
        "size_bytes": sum(entry.size_bytes for held in kinds.values() for entry in held),
        "kinds": {
            kind: {"entries": len(held), "size_bytes": sum(entry.size_bytes for entry in held)}
            for kind, held in kinds.items()
        },
        "cleared": None if cleared is None else {"entries": cleared[0], "size_bytes": cleared[1]},
    }


def print_cache(store: Store, cleared: tuple[int, int] | None, console: Console) -> None:
    """Print where it lies, how full it is and what is in it."""
    if store.folder is None:
        console.print("nothing is kept: ONNXPRUNE_CACHE is off")
        return
    if cleared is not None:
        console.print(f"{store.folder}: {_entries(cleared[0])} removed, {megabytes(cleared[1])}", soft_wrap=True)
        return
    kinds = _by_kind(store)
    size = sum(entry.size_bytes for held in kinds.values() for entry in held)
    console.print(
        f"{store.folder}: {megabytes(size)} of at most {megabytes(store.limit_bytes)}", soft_wrap=True, markup=False
    )
    if not kinds:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kind", "entries", "size", "last used"):
        table.add_column(title, justify="left" if title == "kind" else "right")
    for kind, held in kinds.items():
        total = sum(entry.size_bytes for entry in held)
        table.add_row(kind, str(len(held)), megabytes(total), _ago(max(entry.used for entry in held)))
    console.print(table)


def _by_kind(store: Store) -> dict[str, Sequence[Entry]]:
    entries = sorted(store.entries(), key=lambda entry: entry.kind)
    return {kind: list(held) for kind, held in groupby(entries, key=lambda entry: entry.kind)}


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _ago(used: float) -> str:
    seconds = max(0, int(time.time() - used))
    for unit, size in _UNITS_S:
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now"
