"""`python -m tests.matrix [ARCHITECTURE ...]`: run every cell and write docs/matrix.md."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import onnx
import onnxruntime
import torch
import transformers

from onnxprune.errors import Declined, OnnxPruneError
from tests.equality import BOUND
from tests.matrix.architectures import FURTHER, MATRIX
from tests.matrix.cells import Cell, run
from tests.matrix.exporting import ATTENTIONS, EXPORTERS

TARGET = Path(__file__).parents[2] / "docs" / "matrix.md"
ONE = ("torchscript17", "eager")
COLUMNS = [(exporter, attention) for exporter in EXPORTERS for attention in ATTENTIONS]


def attempt(name: str, exporter: str, attention: str) -> Cell | str:
    """One cell, or what went wrong with it."""
    try:
        return run(name, exporter, attention)
    except (Declined, OnnxPruneError) as refusal:
        return f"declined: {refusal}"


def table(results: dict[tuple[str, str, str], Cell | str], names: list[str]) -> str:
    """The page."""
    made = [cell for cell in results.values() if isinstance(cell, Cell) and not cell.failed]
    exact = [cell for cell in made if cell.exact]
    failed = [cell for cell in results.values() if isinstance(cell, Cell) and cell.failed]
    worst = max((cell.error for cell in exact), default=0.0)
    lines = [
        "# Architecture matrix",
        "",
        "Tiny random-weight models of transformers, exported in six ways, cut by `onnxprune` and compared with the",
        "original in which the same units are zeroed at the input of every consumer: 3 of 8 heads in every odd",
        "attention, 5 of 8 in every even one, and 37 % of the neurons or channels of every feed-forward pair.",
        f"A cell is exact when max|cut - masked| is at most {BOUND:g} of max|masked|, at two batch and sequence sizes",
        "other than the traced ones, with onnxruntime's optimizations off and on, and the full check of onnx passes.",
        "`h` and `n` count the cut dimensions of heads (query groups apart from key-value heads) and of neurons or",
        "channels.",
        "",
        f"torch {torch.__version__}, transformers {transformers.__version__}, onnx {onnx.__version__},",
        f"onnxruntime {onnxruntime.__version__}. Written by `python -m tests.matrix`.",
        "",
        f"{len(results)} cells: {len(exact)} exact, {len(made) - len(exact)} not, {len(failed)} which the exporter or",
        f"transformers refuses. Worst relative error: {worst:.1e}.",
        "",
        "| architecture | " + " | ".join(f"{exporter} {attention}" for exporter, attention in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    lines += [f"| {name} | " + " | ".join(str(results[name, *column]) for column in COLUMNS) + " |" for name in names]
    notes: dict[str, list[str]] = {}
    for (name, exporter, attention), cell in results.items():
        if isinstance(cell, Cell) and (cell.failed or cell.note):
            notes.setdefault(_plain(cell.failed or cell.note), []).append(f"{name} {exporter} {attention}")
    lines += ["", "## What does not export, or runs at batch 1 alone, before anything is cut", ""]
    lines += [f"* {', '.join(cells)}: {why}" for why, cells in notes.items()]
    return "\n".join(lines) + "\n"


def further(results: dict[str, Cell | str]) -> str:
    """The part of the page about architectures that came later."""
    lines = [
        "",
        "## Architectures that were added after the code had been written",
        "",
        "Exported with TorchScript and eager attention, and cut in the same way. FNet, Mixtral, Nystromformer, Cohere",
        "and Mamba do not export, or run at the exported sizes alone.",
        "",
        "| architecture | cut |",
        "|---|---|",
        *(f"| {name} | {cell} |" for name, cell in results.items()),
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Without the colours of a terminal, and short."""
    text = re.sub(r" Name:'[^']*'", "", text.replace("\x1b[96m", "").replace("\x1b[0m", ""))
    return text.removesuffix(" Next steps:")[:250]


def main(names: list[str]) -> None:
    """Run and write; progress goes to stderr."""
    results: dict[tuple[str, str, str], Cell | str] = {}
    for name in names or [*MATRIX, *FURTHER]:
        for column in COLUMNS if name in MATRIX else [ONE]:
            start = time.monotonic()
            cell = attempt(name, *column)
            results[name, *column] = cell
            sys.stderr.write(f"{name} {' '.join(column)}: {cell} {time.monotonic() - start:.1f} s\n")
    page = table(
        {key: cell for key, cell in results.items() if key[0] in MATRIX},
        [name for name in names or MATRIX if name in MATRIX],
    )
    page += further({name: cell for (name, *_), cell in results.items() if name in FURTHER})
    if names:
        sys.stdout.write(page)
    else:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(page)


if __name__ == "__main__":
    main(sys.argv[1:])
