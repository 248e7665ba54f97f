"""`docs/limits.md`, from what `large` has measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tables

_GIB = 2**30

_HEAD = """# Limits

Written by `python -m benchmarks.large`; each figure is repeated by that command, which makes the models itself,
measures each step as a process of its own and writes down every row. With `--only 0.6` it takes the smallest
model alone. How time grows with nodes, up to 20,160 of them, is measured by `python -m benchmarks.scaling`.

## Memory

What a job holds of a model at once is about six times its weights. Where that is more than `--max-memory` says, or more
than three quarters of what the system has free when nothing is said, memory is *short*, and `inspect`, `optimize`,
`apply` and `validate` work otherwise:

* a model runs piece by piece: one stretch of nodes after another, each a session of its own that reads its weights from
  the file that they lie in; answers differ from those of a whole session by float rounding;
* weights stay in the model's file until something looks at them, and pages that were looked at are given back;
* arrays that a pass makes lie in a temporary file (`TMPDIR`; as many bytes as the edited weights);
* nothing is timed: a clock needs the whole model. The report says so, forms that are there for speed are taken on
  trust, and a goal (`--speedup`, `--latency`, `--size`, `--best`) is refused with exit code 2.

The result has the same bytes as with more memory, where no clock decides.

A decoder of pre-norm layers (width 2048, 16 heads, 8192 hidden units, 16,000 words, random float32 weights, external
data) went through one command after another with `{limit}`. *Peak* is the largest resident set that
the kernel saw of the process; *alone* the most that lay in memory alone, *mapped* the most that was mapped from files,
which the system may drop whenever it wants to; both are looked at every few milliseconds, and each is largest at a
time of its own. The program itself (Python, numpy, scipy, onnx, onnxruntime) takes part of each.

"""

_TAIL = """
## Time

{linear}

## What it does not do

* `time`, `sweep`, `recover`, `train` and `check` open whole sessions; a goal is refused where memory is short.
* `pack-weights` opens a session of the packed model to see that it is decoded at load, so it takes as much memory as
  those weights; the row *pack* above is of a model whose int8 weights have no smaller form, as random ones have not.
* `--max-memory` bounds what sessions, arrays and mapped pages take, not the process: single weights, activations and
  the program itself come on top, as the column *peak* says.
* A weight that reads more than {columns} inputs is solved without looking at them, and the report says so.
* One weight alone may take more than `--max-memory`: it is mapped, and read as a whole where it is multiplied.
* Cuts that look at samples (`score=obs`, `refit=yes`) run the model anew for each site, so their time grows with the
  square of its depth; cuts by magnitude are linear, as measured above.
* A message holds 2 GiB; what is larger gets a data file beside it, as what had one before does.
* Local functions are inlined; of sequences, maps and optional values nothing is cut.
* Control-flow bodies are run and stored, but units inside them are not cut.
"""


def page(rows: Sequence[Mapping[str, Any]], limit: str = "--max-memory 512MB") -> str:
    """The page."""
    sizes = sorted({row["size"] for row in rows})
    steps = list(dict.fromkeys(row["step"] for row in sorted(rows, key=lambda row: row["size"], reverse=True)))
    held = {(row["size"], row["step"]): row for row in rows}
    head = ["step", "model", "peak", "share of the model", "alone", "mapped", "wall time", "processor time"]
    body = [
        [
            step,
            f"{row['model_bytes'] / _GIB:.2f} GiB",
            f"{row['peak_bytes'] / _GIB:.2f} GiB",
            f"{row['peak_bytes'] / row['model_bytes']:.2f}",
            f"{row['anonymous_bytes'] / _GIB:.2f} GiB",
            f"{row['mapped_bytes'] / _GIB:.2f} GiB",
            f"{row['seconds']:.0f} s",
            f"{row['cpu_seconds']:.0f} s",
        ]
        for step in steps
        for size in sizes
        if (row := held.get((size, step))) is not None
    ]
    said = [
        f"{step}: {held[sizes[-1], step]['said']}"
        for step in steps
        if sizes and step != "apply" and held.get((sizes[-1], step), {}).get("said")
    ]
    verdicts = "\nWhat the reports said of the largest model:\n\n" + "\n".join(f"* {line}" for line in said) + "\n"
    tail = _TAIL.format(linear=_linear(sizes, steps, held), columns="8,192")
    return _HEAD.format(limit=limit) + tables.table(head, body) + "\n" + verdicts + tail


def _linear(sizes: Sequence[str], steps: Sequence[str], held: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """How processor time grows from one size to the next."""
    if len(sizes) < 2:
        return "Only one size has been measured."
    head = ["step", *(f"processor seconds a GiB at {size}" for size in sizes)]
    body = []
    for step in steps:
        found = [held.get((size, step)) for size in sizes]
        body.append(
            [step, *("" if row is None else f"{row['cpu_seconds'] / (row['model_bytes'] / _GIB):.1f}" for row in found)]
        )
    text = "Linear is the same number in each column; starting the program costs each about a second.\n\n"
    return text + tables.table(head, body)
